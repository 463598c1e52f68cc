/** The midpoint method in log(sigma), with and without ancestral noise: k-diffusion's DPM2 and DPM2 ancestral. */
import { eulerStep } from './euler'
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import {
  add,
  ancestral,
  eachStep,
  prediction,
  type SigmaOptions,
  slope,
  stepFrom,
  stepFromBefore,
  x,
} from './sigma-space'
import { levelOf } from './sigmas'

/** `eta` 0: no noise; 1: ancestral. `sigmas`: by timestep. Two evaluations a step, one in a step to sigma 0. */
export function kdpm2Evaluations(
  levels: readonly NoiseLevel[],
  o: SigmaOptions & { sigmas: Float64Array; eta: number },
): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }) => {
    const begin = level.sigma
    const { down, up: noise } = ancestral(begin, to, o.eta)
    if (down === 0) return [stepFrom({ ...o, level, to, next: eulerStep(begin, down), noise })]
    const middle = levelOf(Math.sqrt(begin * down), o.sigmas)
    const there = eulerStep(begin, middle.sigma, prediction(1))
    const next = add([1, x], [down - begin, slope(there, middle.sigma, prediction(0))])
    return [
      { ...stepFrom({ ...o, level, to: middle.sigma, next: eulerStep(begin, middle.sigma) }), partial: true },
      stepFromBefore({ ...o, level: middle, begin, to, next, noise }),
    ]
  })
}
