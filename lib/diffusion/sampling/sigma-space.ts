/**
 * Samplers that are written for x / alpha = x_0 + sigma * noise (Karras et al. 2022), in terms of the plan's: the state is alpha * that
 * with alpha = 1 / sqrt(1 + sigma^2), which is also what the network sees.
 */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'

/** Coefficients of x at the beginning of the step, and of the predictions, newest first. */
export type Sum = readonly number[]

export const x: Sum = [1]

/** Of prediction i, counted from the newest. */
export function prediction(i: number): Sum {
  return Array.from({ length: i + 2 }, (_, k) => (k === i + 1 ? 1 : 0))
}

export function add(...terms: readonly (readonly [number, Sum])[]): Sum {
  const length = Math.max(...terms.map(([, sum]) => sum.length))
  return Array.from({ length }, (_, i) => terms.reduce((total, [w, sum]) => total + w * (sum[i] ?? 0), 0))
}

/** dx / dsigma at a point, where x_0 is predicted to be `start`. */
export function slope(point: Sum, sigma: number, start: Sum): Sum {
  return add([1 / sigma, point], [-1 / sigma, start])
}

export function alphaOf(sigma: number): number {
  return 1 / Math.sqrt(1 + sigma * sigma)
}

/** What sigma is the noise level of: a process x with dx / dsigma = (x - x_0) / sigma. */
export interface Coordinates {
  /** sqrt(alpha_bar). */
  readonly alpha: (sigma: number) => number
  /** The state divided by x. */
  readonly scale: (sigma: number) => number
}

/** x_0 + sigma * noise. */
export const exploding: Coordinates = { alpha: alphaOf, scale: alphaOf }

/** (1 - sigma) x_0 + sigma * noise, the straight line of flow matching; sigma is from 0 to 1. */
export const straight: Coordinates = {
  alpha: (sigma) => (1 - sigma) / Math.hypot(1 - sigma, sigma),
  scale: (sigma) => 1 / Math.hypot(1 - sigma, sigma),
}

interface Step {
  /** Where the network is evaluated. */
  readonly level: NoiseLevel
  /** The sigma of the point that it leads to. */
  readonly to: number
  readonly next: Sum
  /** Times sigma, not alpha. */
  readonly noise?: number
  readonly parameterization: Prediction
  /** Default: exploding. */
  readonly coordinates?: Coordinates
}

/** A step from where the network is evaluated. The predictions are those of x_0. */
export function stepFrom({ level, to, next, noise = 0, parameterization, coordinates = exploding }: Step): Evaluation {
  const { alpha, scale } = coordinates
  const [from, after] = [scale(level.sigma), scale(to)]
  const [state, ...m] = next
  return {
    t: level.t,
    alpha: alpha(level.sigma),
    prediction: startRow(parameterization, alpha(level.sigma) ** 2),
    next: { state: (after * state) / from, m: m.map((v) => after * v), noise: after * noise },
  }
}

/**
 * The last evaluation of a step that began at the point of the evaluation before, where sigma was `begin`: `next` says how much of that
 * point there is, and `here` how much of the point of this evaluation.
 */
export function stepFromBefore({
  here = 0,
  ...step
}: Step & { readonly begin: number; readonly here?: number }): Evaluation {
  const { next, ...evaluation } = stepFrom(step)
  const { scale } = step.coordinates ?? exploding
  const after = scale(step.to)
  const point = (after * here) / scale(step.level.sigma)
  const base = (after * step.next[0]) / scale(step.begin)
  return { ...evaluation, correct: { point, base, m: [] }, next: { ...next, state: 1 } }
}

/** The same step from where the network is evaluated, for predictions of the noise: x_0 is x - sigma * noise. */
export function noiseStepFrom(step: Step): Evaluation {
  const { sigma } = step.level
  const alpha = alphaOf(sigma)
  return {
    ...stepFrom(step),
    prediction: noiseRow(step.parameterization, alpha ** 2),
    start: { state: 1 / alpha, m: [-sigma] },
  }
}

/** How a step of the probability flow and fresh noise share the way from one sigma to another: `eta` 0 no noise, 1 the most. */
export function ancestral(from: number, to: number, eta = 1): { readonly down: number; readonly up: number } {
  const up = Math.min(to, eta * (to / from) * Math.sqrt(Math.max(from ** 2 - to ** 2, 0)))
  return { down: Math.sqrt(Math.max(to ** 2 - up ** 2, 0)), up }
}

export interface SigmaOptions {
  readonly parameterization: Prediction
  /** Default: exploding. */
  readonly coordinates?: Coordinates
  /** The sigma of the images; default 0. */
  readonly final?: number
}

/** What a sampler does from each level to the next. */
export function eachStep(
  levels: readonly NoiseLevel[],
  { final = 0 }: SigmaOptions,
  step: (level: NoiseLevel, next: NoiseLevel, i: number) => readonly Evaluation[],
): Evaluation[] {
  return levels.flatMap((level, i) => step(level, levels[i + 1] ?? { t: 0, sigma: final }, i))
}
