/** What a model is set to, as far as the formulas depend on it. */
import type { LossType } from '../../graph'
import type { Precision } from '../../native'
import type { Distributed } from '../../world'
import type { Prediction } from './prediction'
import type { TimestepSpacing } from './schedule'

/**
 * 'learned': the second half of the output is the log of the variance; 'learned_range': it is from -1 to 1 between the logs
 * of beta_tilde and beta (eq. 15). improved-diffusion's LEARNED and LEARNED_RANGE.
 */
export type VarianceType = 'fixed' | 'learned' | 'learned_range'
export const varianceTypes: readonly VarianceType[] = ['fixed', 'learned', 'learned_range']

export const timestepSamplers = ['uniform', 'loss-second-moment', 'lognormal', 'logit-normal'] as const
export type TimestepSampler = (typeof timestepSamplers)[number]

/** Dynamic thresholding: Saharia et al. 2022, section 2.3. */
export interface Threshold {
  /** Which quantile of a predicted x_0's absolute values, from 0 to 1: diffusers' dynamic_thresholding_ratio. */
  readonly ratio: number
  /** The quantile is taken for at most this, and at least 1: diffusers' sample_max_value. */
  readonly max: number
}

/** Options that the formulas depend on. */
export interface Settings {
  readonly parameterization: Prediction
  readonly lossType: LossType
  readonly lossDelta?: number
  readonly vPosterior: number
  readonly lSimpleWeight: number
  readonly originalElboWeight: number
  readonly clipDenoised: boolean
  readonly logEveryT: number
  readonly timestepSpacing: TimestepSpacing
  readonly stepsOffset?: number
  readonly thresholding?: Threshold
  readonly deterministic: boolean
  readonly precision: Precision
  readonly distributed: Distributed
  readonly shardOptimizer: boolean
  readonly nullClass?: number
  readonly classNames?: readonly string[]
  readonly classDropout: number
  readonly contextDropout: number
  readonly vectorDropout: number
  readonly minSnrGamma?: number
  readonly offsetNoise: number
  readonly varianceType: VarianceType
  readonly vlbWeight?: number
}
