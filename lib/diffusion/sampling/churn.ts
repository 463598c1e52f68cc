/** Noise that is added before a step and taken away by it: Karras et al. 2022, algorithm 2. */
import type { NoiseLevel } from './noise-levels'
import { levelOf } from './sigmas'

export interface Churn {
  /** S_churn: shared out evenly among the steps, each gets at most sqrt(2) - 1 of its sigma. */
  readonly amount: number
  /** S_tmin and S_tmax: the sigmas of the steps that get some. */
  readonly least: number
  readonly most: number
  /** S_noise: what the added noise is multiplied by. */
  readonly noise: number
  /** By timestep. */
  readonly sigmas: Float64Array
}

export interface Beginning {
  /** Where the step begins, with what was added. */
  readonly level: NoiseLevel
  /** Times fresh noise: added on the way there. */
  readonly noise: number
}

/** Of each step. The first begins with noise alone, or where the caller says: nothing is added to it. */
export function beginnings(levels: readonly NoiseLevel[], churn: Churn | undefined): Beginning[] {
  return levels.map((level, i) => {
    const { sigma } = level
    if (!churn || i === 0 || sigma < churn.least || sigma > churn.most) return { level, noise: 0 }
    const more = sigma * (1 + Math.min(churn.amount / levels.length, Math.SQRT2 - 1))
    const noise = churn.noise * Math.sqrt(more ** 2 - sigma ** 2)
    return noise === 0 && more === sigma ? { level, noise } : { level: levelOf(more, churn.sigmas), noise }
  })
}
