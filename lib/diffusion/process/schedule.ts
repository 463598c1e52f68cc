/**
 * The noise schedule: pure functions in float64, rounded once to float32 (Ho et al. 2020, section 2; ddpm.py's
 * register_schedule; ldm util.py).
 */
import { DiffusionError, invalidArgument } from '../../errors'
import { type Parameterization, type Prediction, startRow } from './prediction'

export const betaSchedules = ['linear', 'cosine', 'sqrt_linear', 'sqrt', 'edm', 'flow'] as const
export type BetaSchedule = (typeof betaSchedules)[number]

/** Far more than anybody trains; a schedule is some 100 bytes a timestep. */
export const maxTimesteps = 100_000

export interface BetaOptions {
  linearStart: number
  linearEnd: number
  cosineS: number
  /** Of 'edm'. */
  sigmaMin?: number
  sigmaMax?: number
  /** Of 'flow'. */
  flowShift?: number
}

/** Karras et al. 2022, table 1. */
export const defaultSigmas = { sigmaMin: 0.002, sigmaMax: 80 }

/** That of the process for which the network's output is meant, where no other is asked for. */
export function defaultSchedule(parameterization: Parameterization): BetaSchedule {
  return parameterization === 'edm' || parameterization === 'flow' ? parameterization : 'linear'
}

/** The buffers of register_schedule, [T] each, by ddpm.py's names camelCased. */
export interface Schedule {
  readonly betas: Float32Array
  readonly alphasCumprod: Float32Array
  readonly alphasCumprodPrev: Float32Array
  readonly sqrtAlphasCumprod: Float32Array
  readonly sqrtOneMinusAlphasCumprod: Float32Array
  readonly logOneMinusAlphasCumprod: Float32Array
  readonly sqrtRecipAlphasCumprod: Float32Array
  readonly sqrtRecipm1AlphasCumprod: Float32Array
  readonly posteriorVariance: Float32Array
  readonly posteriorLogVarianceClipped: Float32Array
  readonly posteriorMeanCoef1: Float32Array
  readonly posteriorMeanCoef2: Float32Array
  readonly lvlbWeights: Float32Array
}

/** `n` numbers from `start` to `end`, both included, from whichever end is nearer, as torch.linspace. */
function linspace(start: number, end: number, n: number): Float64Array {
  const step = n > 1 ? (end - start) / (n - 1) : 0
  return Float64Array.from({ length: n }, (_, i) => (i < n / 2 ? start + step * i : end - step * (n - 1 - i)))
}

/**
 * Betas by ldm util.py's make_beta_schedule. Its names are kept: 'linear' is linear in sqrt(beta), 'sqrt_linear' is
 * linear in beta, 'sqrt' is the root of a linear ramp; 'cosine' is Nichol & Dhariwal 2021, eq. 17. 'edm' and 'flow' are noise levels:
 * log sigma goes evenly from sigmaMin to sigmaMax (x_0 + sigma noise); the straight line's t goes evenly from 1/T to 1, where only noise
 * is left, and then is s t / (1 + (s - 1) t) with s = flowShift (Esser et al. 2024, eq. 23).
 */
export function makeBetaSchedule(schedule: BetaSchedule, timesteps: number, o: BetaOptions): Float64Array {
  switch (schedule) {
    case 'linear':
      return linspace(Math.sqrt(o.linearStart), Math.sqrt(o.linearEnd), timesteps).map((v) => v * v)
    case 'sqrt_linear':
      return linspace(o.linearStart, o.linearEnd, timesteps)
    case 'sqrt':
      return linspace(o.linearStart, o.linearEnd, timesteps).map(Math.sqrt)
    case 'cosine': {
      const alphaBar = (i: number) => Math.cos(((i / timesteps + o.cosineS) / (1 + o.cosineS)) * (Math.PI / 2)) ** 2
      return Float64Array.from({ length: timesteps }, (_, i) =>
        Math.min(Math.max(1 - alphaBar(i + 1) / alphaBar(i), 0), 0.999),
      )
    }
    case 'edm': {
      const { sigmaMin, sigmaMax } = { ...defaultSigmas, ...o }
      return betasOfSigmas(linspace(Math.log(sigmaMin), Math.log(sigmaMax), timesteps).map(Math.exp))
    }
    case 'flow':
      return betasOfSigmas(
        Float64Array.from({ length: timesteps }, (_, i) => {
          const t = shifted((i + 1) / timesteps, o.flowShift)
          return t / (1 - t)
        }),
      )
  }
}

/** A time of the straight line moved to more noise, for shift above 1: Esser et al. 2024, eq. 23. */
export function shifted(t: number, shift = 1): number {
  return (shift * t) / (1 + (shift - 1) * t)
}

/** The betas that lead from each sigma = sqrt(1 / alpha_bar - 1) to the next; the last may be infinite. */
function betasOfSigmas(sigmas: Float64Array): Float64Array {
  return sigmas.map((sigma, t) => {
    const before = t === 0 ? 0 : sigmas[t - 1]
    return sigma === Infinity ? 1 : (sigma * sigma - before * before) / (1 + sigma * sigma)
  })
}

/**
 * The same schedule shifted and scaled in sqrt(alpha_bar) so that nothing of the image is left at the last timestep: Lin et al.
 * 2024, algorithm 1. The last beta is 1.
 */
export function rescaleZeroTerminalSnr(betas: Float64Array): Float64Array {
  let bar = 1
  const roots = betas.map((beta) => {
    bar *= 1 - beta
    return Math.sqrt(bar)
  })
  const [first, last] = [roots[0], roots[roots.length - 1]]
  const bars = roots.map((root) => ((root - last) * first) / (first - last)).map((root) => root * root)
  return bars.map((v, t) => 1 - (t === 0 ? v : v / bars[t - 1]))
}

/**
 * Betas as they must be: 2 to maxTimesteps of them, each between 0 and 1. `argument` is to blame if they are not. `ends`: the last
 * may be 1, which leaves nothing of the image.
 */
export function checkBetas(betas: unknown, argument = 'givenBetas', ends = false): Float64Array {
  const list = ArrayBuffer.isView(betas) || Array.isArray(betas) ? (betas as ArrayLike<number>) : []
  const valid = (beta: unknown, t: number) =>
    typeof beta === 'number' && beta > 0 && (beta < 1 || (ends && beta === 1 && t === list.length - 1))
  if (list.length < 2 || list.length > maxTimesteps || !Array.prototype.every.call(list, valid)) {
    throw invalidArgument(argument, `2 to ${maxTimesteps} betas between 0 and 1`, betas)
  }
  return Float64Array.from(list)
}

/**
 * Everything that follows from the betas. `vPosterior` v chooses the variance (1-v)*beta_tilde + v*beta. The lvlb weights
 * are computed in float32 step by step because ddpm.py does so; their first element is a copy of the second.
 */
export function makeSchedule(betas: Float64Array, o: { vPosterior: number; parameterization: Prediction }): Schedule {
  const alphas = betas.map((beta) => 1 - beta)
  let product = 1
  const bar = alphas.map((alpha) => {
    product *= alpha
    return product
  })
  const previous = bar.map((_, t) => (t === 0 ? 1 : bar[t - 1]))
  const posterior = betas.map((beta, t) => posteriorVariance(beta, bar[t], previous[t], o.vPosterior))
  const schedule = {
    betas: Float32Array.from(betas),
    alphasCumprod: Float32Array.from(bar),
    alphasCumprodPrev: Float32Array.from(previous),
    sqrtAlphasCumprod: Float32Array.from(bar, Math.sqrt),
    sqrtOneMinusAlphasCumprod: Float32Array.from(bar, (a) => Math.sqrt(1 - a)),
    logOneMinusAlphasCumprod: Float32Array.from(bar, (a) => Math.log(1 - a)),
    sqrtRecipAlphasCumprod: Float32Array.from(bar, (a) => Math.sqrt(1 / a)),
    sqrtRecipm1AlphasCumprod: Float32Array.from(bar, (a) => Math.sqrt(1 / a - 1)),
    posteriorVariance: Float32Array.from(posterior),
    posteriorLogVarianceClipped: Float32Array.from(posterior, (v) => Math.log(Math.max(v, 1e-20))),
    posteriorMeanCoef1: Float32Array.from(bar, (a, t) => (betas[t] * Math.sqrt(previous[t])) / (1 - a)),
    posteriorMeanCoef2: Float32Array.from(bar, (a, t) => ((1 - previous[t]) * Math.sqrt(alphas[t])) / (1 - a)),
  }
  const lvlbWeights = lvlb(schedule, alphas, o.parameterization)
  lvlbWeights[0] = lvlbWeights[1]
  return { ...schedule, lvlbWeights }
}

/** beta_tilde of Ho et al. 2020, eq. 7, mixed with beta. */
export function posteriorVariance(beta: number, bar: number, previous: number, vPosterior: number): number {
  return ((1 - vPosterior) * beta * (1 - previous)) / (1 - bar) + vPosterior * beta
}

const f32 = Math.fround

function lvlb(s: Omit<Schedule, 'lvlbWeights'>, alphas: Float64Array, parameterization: Prediction) {
  if (parameterization === 'eps') return lvlbEps(s, alphas)
  if (parameterization === 'x0') return lvlbX0(s)
  // ddpm.py's of v are ones.
  return parameterization === 'v' ? new Float32Array(alphas.length).fill(1) : lvlbOf(s, parameterization)
}

/** The KL of the posteriors (Ho et al. 2020, eq. 8) by the squared error of the output; that of t = 0 is replaced. */
function lvlbOf(s: Omit<Schedule, 'lvlbWeights'>, prediction: Prediction): Float32Array {
  return s.alphasCumprod.map((bar, t) => {
    if (t === 0) return 0
    return (s.posteriorMeanCoef1[t] * startRow(prediction, bar)[1]) ** 2 / (2 * s.posteriorVariance[t])
  })
}

/** beta^2 / (2 sigma^2 alpha (1 - alpha_bar)): Ho et al. 2020, eq. 12. */
function lvlbEps(s: Omit<Schedule, 'lvlbWeights'>, alphas: Float64Array): Float32Array {
  return s.betas.map((beta, t) => {
    const denominator = f32(f32(f32(2 * s.posteriorVariance[t]) * f32(alphas[t])) * f32(1 - s.alphasCumprod[t]))
    return f32(beta * beta) / denominator
  })
}

/** ddpm.py's weights for x0, with its denominator 2 - alpha_bar (`2. * 1 - alphas_cumprod`). */
function lvlbX0(s: Omit<Schedule, 'lvlbWeights'>): Float32Array {
  return s.alphasCumprod.map((bar) => f32(0.5 * f32(Math.sqrt(bar))) / f32(2 - bar))
}

// ---- fewer steps ---------------------------------------------------------------------------------------------------

export type DdimDiscretization = 'uniform' | 'quad'

/**
 * Ascending timesteps of DDIM, as many as there are steps: those of ddim.py's 'uniform' wherever these are as many. One is added to
 * each, as there, unless that would leave the schedule.
 */
export function evenTimesteps(steps: number, numTimesteps: number): Int32Array {
  checkSteps(steps, numTimesteps)
  const first = Math.min(1, Math.floor(numTimesteps / steps) - 1)
  return Int32Array.from({ length: steps }, (_, i) => Math.floor((i * numTimesteps) / steps) + first)
}

function checkSteps(steps: number, numTimesteps: number): void {
  if (Number.isSafeInteger(steps) && steps >= 1 && steps <= numTimesteps) return
  throw invalidArgument('steps', `an integer from 1 to ${numTimesteps}`, steps)
}

/**
 * Ascending timesteps of DDIM by ldm util.py's make_ddim_timesteps. 'uniform' steps by floor(T / steps), which can make
 * more of them than asked for; one is added to each, so that the last may be T, which has no alpha: then this throws,
 * where ddim.py fails with an IndexError.
 */
export function makeDdimTimesteps(discretization: DdimDiscretization, steps: number, numTimesteps: number): Int32Array {
  checkSteps(steps, numTimesteps)
  let timesteps: Int32Array
  if (discretization === 'uniform') {
    const stride = Math.floor(numTimesteps / steps)
    timesteps = Int32Array.from({ length: Math.ceil(numTimesteps / stride) }, (_, i) => i * stride + 1)
  } else {
    timesteps = Int32Array.from(linspace(0, Math.sqrt(numTimesteps * 0.8), steps), (v) => Math.floor(v * v) + 1)
  }
  if (timesteps[timesteps.length - 1] >= numTimesteps) {
    const message =
      `steps: ${steps} of ${numTimesteps} timesteps put DDIM's last step at ${numTimesteps}, beyond the schedule; ` +
      `without ddimDiscretize 'uniform' any number of steps works, with it ${fittingSteps(steps, numTimesteps)}`
    throw new DiffusionError('invalid-argument', message, {
      argument: 'steps',
      expected: `a last timestep below ${numTimesteps}`,
      received: String(steps),
    })
  }
  return timesteps
}

/** Those of a discretization, or without one as many as there are steps. */
export function ddimTimesteps(discretization: DdimDiscretization | undefined, steps: number, T: number): Int32Array {
  return discretization ? makeDdimTimesteps(discretization, steps, T) : evenTimesteps(steps, T)
}

/** The largest number of steps below this one that 'uniform' can take. */
function fittingSteps(steps: number, numTimesteps: number): number {
  const last = (n: number) => {
    const stride = Math.floor(numTimesteps / n)
    return (Math.ceil(numTimesteps / stride) - 1) * stride + 1
  }
  let n = steps - 1
  while (n > 1 && last(n) >= numTimesteps) n--
  return Math.max(n, 1)
}

/**
 * Song et al. 2021, eq. 16, as ldm util.py's make_ddim_sampling_parameters: the last step goes to alphasCumprod[0], not
 * to 1.
 */
export function makeDdimParameters(
  alphasCumprod: Float32Array,
  timesteps: Int32Array,
  eta: number,
): { alphas: Float64Array; alphasPrev: Float64Array; sigmas: Float64Array } {
  const alphas = Float64Array.from(timesteps, (t) => alphasCumprod[t])
  const alphasPrev = alphas.map((_, i) => (i === 0 ? alphasCumprod[0] : alphas[i - 1]))
  const sigmas = alphas.map((a, i) => eta * Math.sqrt(((1 - alphasPrev[i]) / (1 - a)) * (1 - a / alphasPrev[i])))
  return { alphas, alphasPrev, sigmas }
}

/** How fewer timesteps are spread over all; diffusers' names. */
export type TimestepSpacing = 'linspace' | 'leading' | 'trailing'
export const timestepSpacings: readonly TimestepSpacing[] = ['linspace', 'leading', 'trailing']

/**
 * Ascending timesteps of respaced ancestral sampling (table 2 of Lin et al. 2024). 'linspace': evenly from 0 to T - 1 (Nichol
 * & Dhariwal 2021, section 4), one step alone is T - 1; 'leading': multiples of floor(T / steps) from `offset`; 'trailing': T - 1 and
 * down by T / steps.
 */
export function respacedTimesteps(
  steps: number,
  numTimesteps: number,
  spacing: TimestepSpacing = 'linspace',
  offset = 0,
): Int32Array {
  checkSteps(steps, numTimesteps)
  const spread = (at: (i: number) => number) => Int32Array.from({ length: steps }, (_, i) => at(i))
  if (spacing === 'leading') {
    const stride = Math.floor(numTimesteps / steps)
    if ((steps - 1) * stride + offset < numTimesteps) return spread((i) => i * stride + offset)
    throw invalidArgument('stepsOffset', `timesteps below ${numTimesteps} with ${steps} steps`, offset)
  }
  if (spacing === 'trailing') return Int32Array.from(trailingTimesteps(steps, numTimesteps)).reverse()
  if (steps === 1) return Int32Array.of(numTimesteps - 1)
  return Int32Array.from(evenly(steps, numTimesteps - 1), roundToEven)
}

/** `n` numbers from 0 to `last`, as numpy.linspace rounds them: by that a half falls on one side or the other. */
export function evenly(n: number, last: number): number[] {
  const step = n > 1 ? last / (n - 1) : 0
  return Array.from({ length: n }, (_, i) => (i > 0 && i === n - 1 ? last : i * step))
}

/** Descending from T - 1 by T / steps, as numpy.arange rounds them. */
export function trailingTimesteps(steps: number, numTimesteps: number): number[] {
  const step = numTimesteps - numTimesteps / steps - numTimesteps
  return Array.from({ length: steps }, (_, i) => roundToEven(numTimesteps + i * step) - 1)
}

/** As numpy and Python round: halves to the even neighbour. */
export function roundToEven(value: number): number {
  const rounded = Math.round(value)
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}

/** Equal but for rounding. */
export function sameSchedule(a: Schedule, b: Schedule): boolean {
  const [p, q] = [a.alphasCumprod, b.alphasCumprod]
  return p.length === q.length && p.every((bar, t) => Math.abs(bar - q[t]) <= 1e-6)
}
