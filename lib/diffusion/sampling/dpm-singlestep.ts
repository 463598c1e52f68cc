/**
 * Singlestep DPM-Solver and DPM-Solver++: Lu et al. 2022a and 2022b; diffusers' DPMSolverSinglestepScheduler. Evaluations come in blocks,
 * [1, 2] or [1, 2, 3] by their orders: each goes on from the point where its block began, by the predictions since then.
 */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import { type NoiseLevel, type SolverPoint, solverPoint } from './noise-levels'
import type { Evaluation } from './plan'

export interface SinglestepOptions {
  /** ++ solves for x_0, the other for the noise. */
  readonly algorithm: 'dpmsolver++' | 'dpmsolver'
  /** Of the whole blocks: 1 to 3. */
  readonly order: number
  readonly solverType: 'midpoint' | 'heun'
  /** The last block is shorter, which any number of steps needs that is no multiple of the order. */
  readonly lowerOrderFinal: boolean
  readonly parameterization: Prediction
}

/** As many evaluations as levels; the last leads to `final` (a sigma, 0 for clean images). */
export function singlestepEvaluations(
  levels: readonly NoiseLevel[],
  final: number,
  o: SinglestepOptions,
): Evaluation[] {
  const points = [...levels.map(({ sigma }) => sigma), final].map(solverPoint)
  const orders = ordersOf(levels.length, final, o)
  const steps = orders.map((order, i) => step(points.slice(i + 1 - order, i + 2).reverse(), o))
  return levels.map(({ t }, i) => {
    const { alpha, sigma } = points[i]
    const next = steps[i]
    const correct = orders[i] > 1 ? ({ point: 0, base: 1, m: [] } as const) : undefined
    if (o.algorithm === 'dpmsolver++')
      return { t, alpha, prediction: startRow(o.parameterization, alpha ** 2), correct, next }
    // x_0 is (x - sigma eps) / alpha, where x is what the step before made of the beginning of the block.
    const x = correct ? steps[i - 1] : { state: 1, m: [] }
    const start = { state: x.state / alpha, m: [-sigma, ...x.m].map((v) => v / alpha) }
    return { t, alpha, prediction: noiseRow(o.parameterization, alpha ** 2), correct, next, start }
  })
}

/** By evaluation. To clean images only order 1 leads. */
function ordersOf(steps: number, final: number, o: SinglestepOptions): number[] {
  const lower = o.lowerOrderFinal || final === 0 || steps % o.order !== 0
  // With lower orders the last evaluation has order 1, or with two left of three order 2.
  const whole = lower ? Math.floor((steps - 1) / o.order) * o.order : steps
  const orders = Array.from({ length: steps }, (_, i) => (i < whole ? (i % o.order) + 1 : i - whole + 1))
  if (lower && o.order > 1 && (steps - whole === o.order || final === 0)) orders[steps - 1] = 1
  return orders
}

/** points: where the step leads, and those of the block from the last evaluation back to where it began. */
function step([to, ...block]: readonly SolverPoint[], o: SinglestepOptions): Evaluation['next'] {
  const from = block[block.length - 1]
  const h = to.lambda - from.lambda
  const { first, second } = differences(block, h, o.solverType)
  const own = block.map((_, i) => (i === block.length - 1 ? 1 : 0))
  // A step to clean images is infinitely long in lambda; it has order 1, and no differences.
  const sum = (a: number, b: number, c: number) =>
    own.map((v, i) => a * v + (first.length > 0 ? b * first[i] : 0) + (second.length > 0 ? c * second[i] : 0))
  // Midpoint's of order 2 is half of the integral of a constant; the others are the integrals themselves.
  const half = block.length === 2 && o.solverType === 'midpoint'
  if (o.algorithm === 'dpmsolver++') {
    const em = Math.expm1(-h)
    const m = sum(-em, half ? -0.5 * em : em / h + 1, -((em + h) / (h * h) - 0.5))
    return { state: to.sigma / from.sigma, m: m.map((v) => to.alpha * v) }
  }
  const ep = Math.expm1(h)
  const m = sum(ep, half ? 0.5 * ep : ep / h - 1, (ep - h) / (h * h) - 0.5)
  return { state: to.alpha / from.alpha, m: m.map((v) => -to.sigma * v) }
}

/** Divided differences over the block, as weights of the predictions, newest first. */
function differences(
  block: readonly SolverPoint[],
  h: number,
  solverType: SinglestepOptions['solverType'],
): { first: number[]; second: number[] } {
  if (block.length === 1) return { first: [], second: [] }
  const begin = block[block.length - 1].lambda
  const [r0, r1] = block.slice(0, -1).map(({ lambda }) => (lambda - begin) / h)
  if (block.length === 2) return { first: [1 / r0, -1 / r0], second: [] }
  const newest = [1 / r0, 0, -1 / r0]
  if (solverType === 'midpoint') return { first: newest, second: [] }
  const middle = [0, 1 / r1, -1 / r1]
  return {
    first: newest.map((v, i) => (r0 * middle[i] - r1 * v) / (r0 - r1)),
    second: newest.map((v, i) => (2 * (v - middle[i])) / (r0 - r1)),
  }
}
