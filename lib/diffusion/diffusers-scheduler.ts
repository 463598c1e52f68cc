/** diffusers' DDPMScheduler and DDIMScheduler in terms of DDPM's options, and DDPM's options as a DDPMScheduler. */
import { DiffusionError, describe } from '../errors'
import { array, boolean, integer, number, oneOf, parseOptions, string } from '../options'
import {
  type BetaSchedule,
  makeBetaSchedule,
  maxTimesteps,
  type Parameterization,
  type TimestepSpacing,
  timestepSpacings,
} from './schedule'
import type { VarianceType } from './settings'

/** DDPM's options that a scheduler decides. */
export interface SchedulerSettings {
  readonly timesteps: number
  readonly betaSchedule?: BetaSchedule
  readonly linearStart?: number
  readonly linearEnd?: number
  readonly givenBetas?: readonly number[] | Float64Array
  readonly vPosterior: number
  readonly varianceType: VarianceType
  readonly parameterization: Parameterization
  readonly clipDenoised: boolean
  readonly timestepSpacing: TimestepSpacing
}

const betaSchedules = ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid'] as const

/** DDPMScheduler.__init__'s keyword arguments and defaults (diffusers 0.0.4 to 0.27). */
const schema = {
  num_train_timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  beta_start: number(1e-4, { min: 0, max: 1 }),
  beta_end: number(2e-2, { min: 0, max: 1 }),
  beta_schedule: oneOf(betaSchedules, 'linear'),
  trained_betas: array(number(), undefined, maxTimesteps),
  variance_type: string('fixed_small'),
  prediction_type: string('epsilon'),
  clip_sample: boolean(true),
  clip_sample_range: number(1),
  thresholding: boolean(false),
  timestep_spacing: oneOf(timestepSpacings, 'leading'),
  steps_offset: integer(0),
  rescale_betas_zero_snr: boolean(false),
  // Only used with thresholding.
  dynamic_thresholding_ratio: number(0.995),
  sample_max_value: number(1),
  // Early versions: the library of the arrays.
  tensor_format: string('pt'),
  // DDIMScheduler's: where its last step leads. Only sampling with it depends on it.
  set_alpha_to_one: boolean(true),
}

/** What has a counterpart here. fixed_small_log is fixed_small by way of a logarithm. */
const variances: Readonly<Record<string, number>> = {
  fixed_small: 0,
  fixed_small_log: 0,
  fixed_large: 1,
  learned_range: 0,
}
const predictions: Readonly<Record<string, Parameterization>> = { epsilon: 'eps', sample: 'x0', v_prediction: 'v' }

/** Throws `unsupported`, `unknown-option` and `invalid-argument`, with the field's name. */
export function settingsOfScheduler(config: Readonly<Record<string, unknown>>): SchedulerSettings {
  const { _class_name: kind = 'DDPMScheduler' } = config
  if (kind !== 'DDPMScheduler' && kind !== 'DDIMScheduler') {
    throw unsupported('_class_name', ["'DDPMScheduler'", "'DDIMScheduler'"], kind)
  }
  const own = Object.fromEntries(Object.entries(config).filter(([name]) => !name.startsWith('_')))
  const c = parseOptions('DDPMScheduler', own, schema)
  for (const [name, value] of Object.entries({
    thresholding: false,
    rescale_betas_zero_snr: false,
    steps_offset: 0,
    clip_sample_range: c.clip_sample ? 1 : c.clip_sample_range,
  })) {
    if (c[name as keyof typeof c] !== value) throw unsupported(name, [String(value)], c[name as keyof typeof c])
  }
  return {
    ...betasOf(c),
    vPosterior: pick(variances, 'variance_type', c.variance_type),
    varianceType: c.variance_type === 'learned_range' ? 'learned_range' : 'fixed',
    parameterization: pick(predictions, 'prediction_type', c.prediction_type),
    clipDenoised: c.clip_sample,
    timestepSpacing: c.timestep_spacing,
  }
}

type BetaSettings = Pick<SchedulerSettings, 'timesteps' | 'betaSchedule' | 'linearStart' | 'linearEnd' | 'givenBetas'>

function betasOf(c: {
  num_train_timesteps: number
  beta_start: number
  beta_end: number
  beta_schedule: (typeof betaSchedules)[number]
  trained_betas: readonly number[] | undefined
}): BetaSettings {
  const timesteps = c.num_train_timesteps
  const ramp = { timesteps, linearStart: c.beta_start, linearEnd: c.beta_end }
  if (c.trained_betas) {
    if (c.trained_betas.length === timesteps) return { timesteps, givenBetas: c.trained_betas }
    throw unsupported('trained_betas', [`${timesteps} numbers (num_train_timesteps)`], c.trained_betas)
  }
  switch (c.beta_schedule) {
    // ldm's 'linear' is linear in sqrt(beta).
    case 'linear':
      return { ...ramp, betaSchedule: 'sqrt_linear' }
    case 'scaled_linear':
      return { ...ramp, betaSchedule: 'linear' }
    case 'squaredcos_cap_v2':
      return { timesteps, betaSchedule: 'cosine' }
    case 'sigmoid': {
      const sigmoid = (i: number) => 1 / (1 + Math.exp(6 - (12 * i) / (timesteps - 1)))
      const range = c.beta_end - c.beta_start
      return {
        timesteps,
        givenBetas: Float64Array.from({ length: timesteps }, (_, i) => sigmoid(i) * range + c.beta_start),
      }
    }
  }
}

/** scheduler_config.json of a model. Throws `unsupported` for a vPosterior other than 0 and 1. */
export function schedulerOfSettings(
  o: Omit<SchedulerSettings, 'timesteps' | 'betaSchedule' | 'linearStart' | 'linearEnd' | 'givenBetas'> & {
    readonly betas: Float32Array
  },
): Record<string, unknown> {
  return {
    ...betaFields(o.betas),
    clip_sample: o.clipDenoised,
    clip_sample_range: 1,
    num_train_timesteps: o.betas.length,
    prediction_type: keyOf(predictions, 'parameterization', o.parameterization),
    rescale_betas_zero_snr: false,
    steps_offset: 0,
    thresholding: false,
    timestep_spacing: o.timestepSpacing,
    variance_type: varianceOf(o),
  }
}

function varianceOf({ vPosterior, varianceType }: Pick<SchedulerSettings, 'vPosterior' | 'varianceType'>): string {
  if (varianceType === 'fixed') return keyOf(variances, 'vPosterior', vPosterior)
  if (varianceType === 'learned_range') return varianceType
  // diffusers takes the output of its 'learned' for the variance itself, not for its logarithm.
  throw unsupported('varianceType', ["'fixed'", "'learned_range'"], varianceType)
}

/** The schedule that makes these betas exactly, or else the betas themselves. */
function betaFields(betas: Float32Array): Record<string, unknown> {
  const timesteps = betas.length
  // The shortest decimals that give these float32 numbers.
  const [linearStart, linearEnd] = [betas[0], betas[timesteps - 1]].map((beta) => Number(beta.toPrecision(7)))
  const ends = { beta_start: linearStart, beta_end: linearEnd, trained_betas: null }
  for (const beta_schedule of ['linear', 'scaled_linear', 'squaredcos_cap_v2'] as const) {
    const c = { num_train_timesteps: timesteps, ...ends, beta_schedule, trained_betas: undefined }
    const { betaSchedule = 'linear' } = betasOf(c)
    const made = makeBetaSchedule(betaSchedule, timesteps, { linearStart, linearEnd, cosineS: 8e-3 })
    if (betas.every((beta, t) => beta === Math.fround(made[t]))) return { ...ends, beta_schedule }
  }
  return { ...ends, beta_schedule: 'linear', trained_betas: Array.from(betas) }
}

function pick<T>(table: Readonly<Record<string, T>>, name: string, value: string): T {
  if (Object.hasOwn(table, value)) return table[value]
  throw unsupported(name, Object.keys(table).map(describe), value)
}

function keyOf<T>(table: Readonly<Record<string, T>>, name: string, value: T): string {
  const found = Object.entries(table).find(([, v]) => v === value)
  if (found) return found[0]
  throw unsupported(name, [...new Set(Object.values(table))].map(describe), value)
}

function unsupported(argument: string, expected: readonly string[], value: unknown): DiffusionError {
  const received = describe(value)
  const message = `DDPMScheduler's ${argument}: only ${expected.join(' and ')} can be expressed, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected: expected.join(', '), received })
}
