/** Multistep DPM-Solver and DPM-Solver++: Lu et al. 2022a and 2022b; diffusers' DPMSolverMultistepScheduler. */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import { type NoiseLevel, type SolverPoint, solverPoint } from './noise-levels'
import type { Evaluation } from './plan'

/** ++ solves for x_0, the others for the noise; sde- add noise in each step. */
export type DpmAlgorithm = 'dpmsolver++' | 'dpmsolver' | 'sde-dpmsolver++' | 'sde-dpmsolver'

export interface DpmOptions {
  readonly algorithm: DpmAlgorithm
  /** 1 (DDIM), 2 (2M) or 3 (3M; not for sde-). */
  readonly order: number
  /** How the second order difference enters; 'midpoint' is that of the papers. */
  readonly solverType: 'midpoint' | 'heun'
  /** The last step has order 1 and the one before order 2 at most. */
  readonly lowerOrderFinal: boolean
  /** The last step has order 1. */
  readonly firstOrderFinal?: boolean
  readonly parameterization: Prediction
}

/** A sum of the last predictions, newest first. */
type Weights = readonly number[]

/** One step from each of `levels` to the next, the last to `final` (a sigma, 0 for clean images). */
export function dpmEvaluations(levels: readonly NoiseLevel[], final: number, o: DpmOptions): Evaluation[] {
  const points = [...levels.map(({ sigma }) => sigma), final].map(solverPoint)
  return levels.map(({ t }, i) => {
    const { alpha, sigma } = points[i]
    const bar = alpha * alpha
    const left = levels.length - i
    let order = Math.min(o.order, i + 1)
    if (left === 1 && (o.lowerOrderFinal || o.firstOrderFinal || final === 0)) order = 1
    else if (left === 2 && o.lowerOrderFinal) order = Math.min(order, 2)
    const next = step(points.slice(0, i + 2).reverse(), order, o)
    if (o.algorithm.endsWith('++')) return { t, alpha, prediction: startRow(o.parameterization, bar), next }
    // x_0 is (x - sigma eps) / alpha.
    const start = { state: 1 / alpha, m: [-sigma / alpha] }
    return { t, alpha, prediction: noiseRow(o.parameterization, bar), next, start }
  })
}

/** points: where the step leads, where it begins, and those before. */
function step(points: readonly SolverPoint[], order: number, o: DpmOptions): Evaluation['next'] {
  const [to, from] = points
  const h = to.lambda - from.lambda
  const [d0, d1, d2] = differences(points, order)
  const heun = o.solverType === 'heun' || order === 3
  // The integrals of exp(lambda) (1, lambda/h, lambda^2/2h^2) over the step, divided by the first's factor.
  const sum = (factor: number, second: number, third: number) =>
    d0.map((v, i) => factor * v + second * (d1?.[i] ?? 0) + third * (d2?.[i] ?? 0))
  const em = Math.expm1(-h)
  const ep = Math.expm1(h)
  switch (o.algorithm) {
    case 'dpmsolver++': {
      const a = to.alpha
      const second = heun ? a * (em / h + 1) : -0.5 * a * em
      const third = order === 3 ? -a * ((em + h) / (h * h) - 0.5) : 0
      return { state: to.sigma / from.sigma, m: sum(-a * em, second, third) }
    }
    case 'dpmsolver': {
      const s = to.sigma
      const second = heun ? -s * (ep / h - 1) : -0.5 * s * ep
      const third = order === 3 ? -s * ((ep - h) / (h * h) - 0.5) : 0
      return { state: to.alpha / from.alpha, m: sum(-s * ep, second, third) }
    }
    case 'sde-dpmsolver++': {
      const e2 = -Math.expm1(-2 * h)
      const second = heun ? to.alpha * (e2 / (-2 * h) + 1) : 0.5 * to.alpha * e2
      const noise = to.sigma * Math.sqrt(e2)
      return { state: (to.sigma / from.sigma) * Math.exp(-h), m: sum(to.alpha * e2, second, 0), noise }
    }
    case 'sde-dpmsolver': {
      const second = heun ? -2 * to.sigma * (ep / h - 1) : -to.sigma * ep
      const noise = to.sigma * Math.sqrt(Math.expm1(2 * h))
      return { state: to.alpha / from.alpha, m: sum(-2 * to.sigma * ep, second, 0), noise }
    }
  }
}

/** The prediction and its scaled divided differences, D_0, D_1 and D_2, as weights of the last predictions. */
function differences(points: readonly SolverPoint[], order: number): Weights[] {
  const [to, from, before, earlier] = points.map(({ lambda }) => lambda)
  const h = to - from
  if (order === 1) return [[1]]
  const r0 = (from - before) / h
  const first = [1 / r0, -1 / r0, 0]
  if (order === 2) return [[1, 0], first.slice(0, 2)]
  const r1 = (before - earlier) / h
  const second = [0, 1 / r1, -1 / r1]
  const change = first.map((v, i) => v - second[i])
  return [[1, 0, 0], first.map((v, i) => v + (r0 / (r0 + r1)) * change[i]), change.map((v) => v / (r0 + r1))]
}
