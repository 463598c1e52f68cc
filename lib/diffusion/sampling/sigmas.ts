/** Which noise levels a sampler passes: evenly spaced timesteps, or a formula between the most and the least noise. */
import type { NoiseLevel } from './noise-levels'

/** 'uniform': evenly in timesteps; 'karras': Karras et al. 2022, eq. 5; 'exponential': evenly in log(sigma); 'beta': Lee et al. 2024. */
export const sigmaSchedules = ['uniform', 'karras', 'exponential', 'beta'] as const
export type SigmaSchedule = (typeof sigmaSchedules)[number]

/** sigma at `u`, from 0 (the most noise) to 1 (the least). */
const formulas: Readonly<
  Record<Exclude<SigmaSchedule, 'uniform'>, (u: number, most: number, least: number) => number>
> = {
  karras: (u, most, least) => {
    const rho = 7
    return (most ** (1 / rho) + u * (least ** (1 / rho) - most ** (1 / rho))) ** rho
  },
  exponential: (u, most, least) => most * (least / most) ** u,
  beta: (u, most, least) => least + betaQuantile(1 - u) * (most - least),
}

/** `steps` levels by a formula, descending. `sigmas`: by timestep. `line`: as of levelOf. */
export function formulaLevels(
  schedule: Exclude<SigmaSchedule, 'uniform'>,
  steps: number,
  sigmas: Float64Array,
  o: { readonly most?: number; readonly least?: number; readonly line?: boolean } = {},
): NoiseLevel[] {
  const { most = sigmas[sigmas.length - 1], least = sigmas[0] } = o
  return Array.from({ length: steps }, (_, i) => {
    const u = steps === 1 ? 0 : i / (steps - 1)
    return levelOf(formulas[schedule](u, most, least), sigmas, o)
  })
}

/**
 * A noise level. Between timesteps t is linear in log(sigma), as k-diffusion's and diffusers' sigma_to_t; with `line`, of flow
 * matching's straight line, in sigma. `sigmas` ascend.
 */
export function levelOf(sigma: number, sigmas: Float64Array, { line = false } = {}): NoiseLevel {
  let [low, high] = [0, sigmas.length - 1]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (sigmas[middle] <= sigma) low = middle
    else high = middle
  }
  const [at, from, to] = [sigma, sigmas[low], sigmas[high]].map(line ? (v) => v : Math.log)
  return { t: withoutRoundings(low + Math.min(Math.max((at - from) / (to - from), 0), 1)), sigma }
}

/** Those of the formulas do not make a fraction of a whole timestep. */
function withoutRoundings(t: number): number {
  return Math.fround(Math.round(t * 2 ** 20) / 2 ** 20)
}

/** The levels of timesteps that may lie between whole ones: sigma is linear from one to the next. */
export function levelsAt(timesteps: readonly number[], sigmas: Float64Array): NoiseLevel[] {
  return timesteps.map((t) => {
    const below = Math.min(Math.floor(t), sigmas.length - 1)
    const above = Math.min(below + 1, sigmas.length - 1)
    return { t, sigma: sigmas[below] + (t - below) * (sigmas[above] - sigmas[below]) }
  })
}

const shape = 0.6

/** The quantile of the beta distribution with both parameters 0.6, by bisection. */
export function betaQuantile(p: number): number {
  if (p > 0.5) return 1 - betaQuantile(1 - p)
  const total = 2 * incompleteBeta(0.5)
  let [low, high] = [0, 0.5]
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2
    if (incompleteBeta(middle) < p * total) low = middle
    else high = middle
  }
  return p === 0 ? 0 : (low + high) / 2
}

/** The integral of (x (1 - x))^(shape - 1) from 0 to x <= 1/2, by the binomial series of (1 - x)^(shape - 1). */
function incompleteBeta(x: number): number {
  let sum = 0
  let term = 1
  for (let k = 0; k < 60; k++) {
    sum += term / (shape + k)
    term *= (x * (1 - shape + k)) / (k + 1)
  }
  return x ** shape * sum
}
