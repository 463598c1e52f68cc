/** DPM-Solver++ of order 2 in one step, with noise: k-diffusion's DPM++ 2S ancestral and DPM++ SDE. Two evaluations a step. */
import { eulerStep } from './euler'
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { add, ancestral, eachStep, prediction, type SigmaOptions, stepFrom, stepFromBefore } from './sigma-space'
import { levelOf } from './sigmas'

/** `sigmas`: by timestep. `eta` 0: no noise; default 1. */
type Options = SigmaOptions & { readonly sigmas: Float64Array; readonly eta?: number }

/** The middle in log(sigma) is that of the way without the noise, which comes at the end. */
export function dpm2sAncestralEvaluations(levels: readonly NoiseLevel[], o: Options): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }) => {
    const begin = level.sigma
    const { down, up: noise } = ancestral(begin, to, o.eta)
    if (down === 0) return [stepFrom({ ...o, level, to, next: eulerStep(begin, down), noise })]
    const middle = levelOf(Math.sqrt(begin * down), o.sigmas)
    return [
      { ...stepFrom({ ...o, level, to: middle.sigma, next: eulerStep(begin, middle.sigma) }), partial: true },
      stepFromBefore({ ...o, level: middle, begin, to, next: eulerStep(begin, down), noise }),
    ]
  })
}

/** The middle is noisy, too, and its noise a part of that of the whole step: both are of one Brownian motion in sigma. */
export function dpmSdeEvaluations(levels: readonly NoiseLevel[], o: Options): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }) => {
    const begin = level.sigma
    if (to === 0) return [stepFrom({ ...o, level, to, next: eulerStep(begin, to) })]
    const middle = levelOf(Math.sqrt(begin * to), o.sigmas)
    const half = ancestral(begin, middle.sigma, o.eta)
    const whole = ancestral(begin, to, o.eta)
    const shared = Math.sqrt((begin - middle.sigma) / (begin - to))
    // The noise of the middle is what its point has beyond the way without noise.
    const here = half.up > 0 ? (shared * whole.up) / half.up : 0
    const next = add([1, eulerStep(begin, whole.down)], [-here, eulerStep(begin, half.down, prediction(1))])
    const noise = whole.up * Math.sqrt(1 - shared ** 2)
    return [
      {
        ...stepFrom({ ...o, level, to: middle.sigma, next: eulerStep(begin, half.down), noise: half.up }),
        partial: true,
      },
      stepFromBefore({ ...o, level: middle, begin, to, next, here, noise }),
    ]
  })
}
