/** Euler's method for the probability flow, and with the noise of the ancestral process: k-diffusion's Euler and Euler ancestral. */
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { add, ancestral, eachStep, prediction, type SigmaOptions, type Sum, slope, stepFrom, x } from './sigma-space'

export function eulerEvaluations(levels: readonly NoiseLevel[], o: SigmaOptions): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }) => [
    stepFrom({ ...o, level, to, next: eulerStep(level.sigma, to) }),
  ])
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
