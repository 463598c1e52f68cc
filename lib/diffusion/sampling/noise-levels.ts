/** Where the solvers of the probability flow ODE evaluate the network: timesteps and their noise levels, as diffusers has them. */
import { invalidArgument } from '../../errors'
import { evenly, roundToEven, type Schedule, type TimestepSpacing, trailingTimesteps } from '../process/schedule'

/** A point of the variance preserving process, by sigma = sqrt((1 - alpha_bar) / alpha_bar). */
export interface NoiseLevel {
  /** What the network is told: a timestep, or a number between two. */
  readonly t: number
  readonly sigma: number
}

/** alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma): Lu et al. 2022, section 2. */
export interface SolverPoint {
  readonly alpha: number
  readonly sigma: number
  readonly lambda: number
}

export function solverPoint(sigma: number): SolverPoint {
  const alpha = 1 / Math.sqrt(sigma * sigma + 1)
  return { alpha, sigma: sigma * alpha, lambda: -Math.log(sigma) }
}

/** By timestep. An alpha_bar of 0 has an infinite sigma; it is taken for 2^-24, as diffusers does. */
export function sigmasOf(alphasCumprod: ArrayLike<number>): Float64Array {
  const bars = Float64Array.from(alphasCumprod, (bar) => bar || 2 ** -24)
  return bars.map((bar) => Math.sqrt((1 - bar) / bar))
}

/** The same of a schedule. Where its least noise is too little for float32's alpha_bar, by the roots. */
export function scheduleSigmas({
  alphasCumprod,
  sqrtAlphasCumprod,
  sqrtOneMinusAlphasCumprod,
}: Schedule): Float64Array {
  if (alphasCumprod[0] < 1 - 2 ** -16) return sigmasOf(alphasCumprod)
  return Float64Array.from(sqrtOneMinusAlphasCumprod, (noise, t) => noise / (sqrtAlphasCumprod[t] || 2 ** -12))
}

/** t of the straight line (1 - t) x_0 + t noise, by timestep. */
export function lineTimes({ sqrtAlphasCumprod, sqrtOneMinusAlphasCumprod }: Schedule): Float64Array {
  return Float64Array.from(sqrtOneMinusAlphasCumprod, (noise, t) => noise / (noise + sqrtAlphasCumprod[t]))
}

/**
 * Descending timesteps of DPMSolverMultistepScheduler: `steps` of the `steps` + 1 that 'linspace' and 'leading' spread over the
 * schedule, as the last step leaves it; 'trailing' from T - 1 down by T / steps. With as many steps as timesteps, diffusers' 'linspace' takes one
 * twice and leaves out 0, and of order 2 and 3 ends in NaN; here each is taken once.
 */
export function solverTimesteps(steps: number, numTimesteps: number, spacing: TimestepSpacing, offset = 0): Int32Array {
  if (!Number.isSafeInteger(steps) || steps < 1 || steps > numTimesteps) {
    throw invalidArgument('steps', `an integer from 1 to ${numTimesteps}`, steps)
  }
  // Two steps at one timestep have no direction: where there are no more timesteps, each is taken.
  if (steps === numTimesteps) return Int32Array.from({ length: steps }, (_, i) => steps - 1 - i)
  if (spacing === 'trailing') return Int32Array.from(trailingTimesteps(steps, numTimesteps))
  if (spacing === 'leading') {
    return Int32Array.from({ length: steps }, (_, i) => (steps - i) * Math.floor(numTimesteps / (steps + 1)) + offset)
  }
  return Int32Array.from(
    evenly(steps + 1, numTimesteps - 1)
      .slice(1)
      .reverse(),
    roundToEven,
  )
}
