/** Heun's method for the probability flow: Karras et al. 2022, algorithm 1. Two evaluations a step, one in a step to sigma 0. */
import { beginnings, type Churn } from './churn'
import { eulerStep } from './euler'
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { add, eachStep, prediction, type SigmaOptions, slope, stepFrom, stepFromBefore, x } from './sigma-space'

export function heunEvaluations(levels: readonly NoiseLevel[], o: SigmaOptions & { churn?: Churn }): Evaluation[] {
  const begins = beginnings(levels, o.churn)
  return eachStep(levels, o, (_, then, i) => {
    const { level } = begins[i]
    const [begin, to] = [level.sigma, then.sigma]
    const first = stepFrom({ ...o, level, to, next: eulerStep(begin, to) })
    if (to === 0) return [first]
    const slope1 = slope(x, begin, prediction(1))
    const slope2 = slope(eulerStep(begin, to, prediction(1)), to, prediction(0))
    const next = add([1, x], [(to - begin) / 2, slope1], [(to - begin) / 2, slope2])
    const after = begins[i + 1] ?? { level: then, noise: 0 }
    const last = { ...o, level: then, begin, to: after.level.sigma, next, noise: after.noise }
    return [{ ...first, partial: true }, stepFromBefore(last)]
  })
}
