/** What distinguishes one sampler from another: which timesteps, and the coefficients of a step. */
import type { Settings } from '../core'
import type { Schedule } from '../schedule'

export interface SamplingPlan {
  /** Ascending; sampling goes through them from the last to the first. */
  readonly timesteps: Int32Array
  /** See step-tables.ts. */
  readonly table: Float32Array
  /** Clip the prediction of x_0 to [-1, 1]. */
  readonly clip: boolean
  /** False when all noise coefficients are zero: none is drawn then. */
  readonly noisy: boolean
}

export interface PlanContext {
  readonly schedule: Schedule
  readonly settings: Settings
}
