/** Euler's method for the probability flow, and with the noise of the ancestral process: k-diffusion's Euler and Euler ancestral. */
import { beginnings, type Churn } from './churn'
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { add, ancestral, eachStep, prediction, type SigmaOptions, type Sum, slope, stepFrom, x } from './sigma-space'

export function eulerEvaluations(levels: readonly NoiseLevel[], o: SigmaOptions & { churn?: Churn }): Evaluation[] {
  const begins = beginnings(levels, o.churn)
  return eachStep(levels, o, (_, { sigma: to }, i) => {
    const { level } = begins[i]
    const after = begins[i + 1] ?? { level: { sigma: to }, noise: 0 }
    const next = eulerStep(level.sigma, to)
    return [stepFrom({ ...o, level, to: after.level.sigma, next, noise: after.noise })]
  })
}

export function eulerAncestralEvaluations(levels: readonly NoiseLevel[], o: SigmaOptions & { eta?: number }) {
  return eachStep(levels, o, (level, { sigma: to }) => {
    const { down, up } = ancestral(level.sigma, to, o.eta)
    return [stepFrom({ ...o, level, to, next: eulerStep(level.sigma, down), noise: up })]
  })
}

/** By the slope where it begins; also the exact step for a prediction (default: the newest) that stays what it is. */
export function eulerStep(from: number, to: number, start: Sum = prediction(0)): Sum {
  return add([1, x], [to - from, slope(x, from, start)])
}
