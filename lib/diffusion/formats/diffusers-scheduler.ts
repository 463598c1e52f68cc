/** diffusers' schedulers in terms of DDPM's options, and DDPM's options as a scheduler. */
import { describe } from '../../errors'
import type { Parameterization } from '../process/prediction'
import { type BetaSchedule, makeBetaSchedule, type TimestepSpacing } from '../process/schedule'
import type { Threshold, VarianceType } from '../process/settings'
import { continuousClass, continuousConfig, continuousSettings } from '../sampling/diffusers/continuous-schedulers'
import type { Ignored } from '../sampling/diffusers/ignored-fields'
import {
  betaScheduleNames,
  betasOf,
  checkFixed,
  fieldNames,
  modelFields,
  ownFields,
  pick,
  predictions,
  type ScheduleFields,
  type SchedulerConfig,
  thresholdOf,
  unsupported,
  variances,
} from '../sampling/diffusers/scheduler-config'

/** DDPM's options that a scheduler decides. */
export interface SchedulerSettings {
  readonly timesteps: number
  readonly betaSchedule?: BetaSchedule
  readonly linearStart?: number
  readonly linearEnd?: number
  readonly sigmaMin?: number
  readonly sigmaMax?: number
  readonly sigmaData?: number
  readonly flowShift?: number
  readonly givenBetas?: readonly number[] | Float64Array
  readonly zeroTerminalSnr: boolean
  readonly vPosterior: number
  readonly varianceType: VarianceType
  readonly parameterization: Parameterization
  readonly clipDenoised: boolean
  readonly timestepSpacing: TimestepSpacing
  readonly stepsOffset: number
  readonly thresholding?: Threshold
}

/** Throws `unsupported` and `invalid-argument`, with the field's name. */
export function settingsOfScheduler(config: SchedulerConfig): SchedulerSettings {
  return readScheduler(config).settings
}

/** The same, with what else there is. */
export function readScheduler(config: SchedulerConfig): {
  readonly settings: SchedulerSettings
  /** Fields that no scheduler has. */
  readonly ignored: Ignored
} {
  const continuous = continuousClass(config)
  if (continuous) return continuousSettings(continuous, config)
  const { fields: c, ignored } = modelFields(config)
  const parameterization = pick(predictions, 'prediction_type', c.prediction_type)
  if (c.clip_sample && !c.thresholding) checkFixed(c, { clip_sample_range: 1 })
  // The noise alone says nothing of the image where nothing of it is left.
  if (parameterization === 'eps') checkFixed(c, { rescale_betas_zero_snr: false })
  const { variance_type: variance = 'fixed_small' } = c
  const settings: SchedulerSettings = {
    ...scheduleOf(c),
    zeroTerminalSnr: c.rescale_betas_zero_snr ?? false,
    vPosterior: pick(variances, 'variance_type', variance),
    varianceType: variance === 'learned_range' ? 'learned_range' : 'fixed',
    parameterization,
    // The others do not clip; ancestral sampling, which is none of theirs, does.
    clipDenoised: c.clip_sample ?? true,
    timestepSpacing: c.timestep_spacing ?? 'linspace',
    stepsOffset: c.steps_offset,
    thresholding: thresholdOf(c),
  }
  return { settings, ignored }
}

function scheduleOf(
  c: ScheduleFields,
): Pick<SchedulerSettings, 'timesteps' | 'betaSchedule' | 'linearStart' | 'linearEnd' | 'givenBetas'> {
  const { num_train_timesteps: timesteps, beta_start: linearStart, beta_end: linearEnd } = c
  const betaSchedule = c.trained_betas ? undefined : betaScheduleNames[c.beta_schedule]
  if (!betaSchedule) return { timesteps, givenBetas: betasOf(c) }
  return { timesteps, betaSchedule, ...(betaSchedule !== 'cosine' && { linearStart, linearEnd }) }
}

/** What is written of a model. */
export interface WrittenScheduler
  extends Pick<
    SchedulerSettings,
    'vPosterior' | 'varianceType' | 'clipDenoised' | 'parameterization' | 'timestepSpacing'
  > {
  /** Before they are rescaled to zero terminal SNR. From betas in float64 the same schedule is made again, to the bit. */
  readonly betas: Float32Array | Float64Array
  /** The ends that they may have been made of; default: as they are, in the shortest decimals of float32. */
  readonly linearStart?: number
  readonly linearEnd?: number
  readonly zeroTerminalSnr?: boolean
  readonly stepsOffset?: number
  readonly thresholding?: Threshold
  /** With parameterizations 'edm' and 'flow': those of the schedule. */
  readonly betaSchedule?: BetaSchedule
  readonly sigmaMin?: number
  readonly sigmaMax?: number
  readonly sigmaData?: number
  readonly flowShift?: number
}

/**
 * scheduler_config.json of a model. `like`: the one that the model is from, whose class, version and further fields stay. Throws
 * `unsupported` for a vPosterior other than 0 and 1.
 */
export function schedulerOfSettings(o: WrittenScheduler, like?: SchedulerConfig): Record<string, unknown> {
  if (o.parameterization === 'edm' || o.parameterization === 'flow') return continuousConfig(o, like)
  const own: Record<string, unknown> = {
    ...betaFields(o),
    clip_sample: o.clipDenoised,
    clip_sample_range: 1,
    num_train_timesteps: o.betas.length,
    prediction_type: keyOf(predictions, 'parameterization', o.parameterization),
    rescale_betas_zero_snr: o.zeroTerminalSnr ?? false,
    steps_offset: o.stepsOffset ?? 0,
    thresholding: o.thresholding !== undefined,
    ...(o.thresholding && {
      dynamic_thresholding_ratio: o.thresholding.ratio,
      sample_max_value: o.thresholding.max,
    }),
    timestep_spacing: o.timestepSpacing,
    variance_type: varianceOf(o),
  }
  const { _class_name: name = 'DDPMScheduler', ...version } = like ?? {}
  const known = fieldNames(String(name))
  // Only DDPMScheduler has variances to choose from.
  if (!known.includes('variance_type') && own.variance_type !== 'fixed_small') return own
  const about = Object.entries(version).filter(([key]) => key.startsWith('_'))
  // Some classes have no thresholding.
  const isThere = (key: string) => known.includes(key) && (key !== 'thresholding' || own[key] || key in version)
  const fields = Object.entries(own).filter(([key]) => isThere(key))
  return { _class_name: name, ...Object.fromEntries(about), ...ownFields(version), ...Object.fromEntries(fields) }
}

function varianceOf({ vPosterior, varianceType }: Pick<SchedulerSettings, 'vPosterior' | 'varianceType'>): string {
  if (varianceType === 'fixed') return keyOf(variances, 'vPosterior', vPosterior)
  if (varianceType === 'learned_range') return varianceType
  // diffusers takes the output of its 'learned' for the variance itself, not for its logarithm.
  throw unsupported('varianceType', ["'fixed'", "'learned_range'"], varianceType)
}

/** The schedule that makes these betas exactly, or else the betas themselves. */
function betaFields({ betas, ...o }: WrittenScheduler): Record<string, unknown> {
  const round = betas instanceof Float32Array ? Math.fround : (beta: number) => beta
  const [first, last] = [betas[0], betas[betas.length - 1]].map((beta) => Number(beta.toPrecision(7)))
  const { linearStart = first, linearEnd = last } = o
  const ends = { beta_start: linearStart, beta_end: linearEnd }
  for (const [beta_schedule, name] of Object.entries(betaScheduleNames)) {
    const made = makeBetaSchedule(name, betas.length, { linearStart, linearEnd, cosineS: 8e-3 })
    if (betas.every((beta, t) => beta === round(made[t]))) return { ...ends, beta_schedule, trained_betas: null }
  }
  return { ...ends, beta_schedule: 'linear', trained_betas: Array.from(betas) }
}

function keyOf<T>(table: Readonly<Record<string, T>>, name: string, value: T): string {
  const found = Object.entries(table).find(([, v]) => v === value)
  if (found) return found[0]
  throw unsupported(name, [...new Set(Object.values(table))].map(describe), value)
}
