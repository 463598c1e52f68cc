/** scheduler_config.json of diffusers: the fields of each class as a table, and what they say of betas, outputs and steps. */
import { DiffusionError, describe, invalidArgument } from '../../../errors'
import { array, boolean, integer, number, oneOf, type Parsed, parseKnown, string } from '../../../options'
import {
  type BetaSchedule,
  makeBetaSchedule,
  maxTimesteps,
  rescaleZeroTerminalSnr,
  timestepSpacings,
} from '../../process/schedule'
import type { Threshold } from '../../process/settings'
import type { DpmAlgorithm } from '../dpm-solver'
import type { Ignored } from './ignored-fields'

/** `_class_name` and the constructor's keyword arguments, in snake_case. */
export type SchedulerConfig = Readonly<Record<string, unknown>>

const betaNames = ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid'] as const
const schedule = {
  num_train_timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  beta_start: number(1e-4, { min: 0, max: 1 }),
  beta_end: number(2e-2, { min: 0, max: 1 }),
  beta_schedule: oneOf(betaNames, 'linear'),
  trained_betas: array(number(), undefined, maxTimesteps),
  rescale_betas_zero_snr: boolean(false),
}
const common = {
  ...schedule,
  prediction_type: string('epsilon'),
  steps_offset: integer(0, { min: 0 }),
  thresholding: boolean(false),
  // Only used with thresholding.
  dynamic_thresholding_ratio: number(0.995, { min: 0, max: 1 }),
  sample_max_value: number(1, { min: 1e-6 }),
}
const clipping = {
  clip_sample: boolean(true),
  clip_sample_range: number(1, { min: 0 }),
  timestep_spacing: oneOf(timestepSpacings, 'leading'),
}
const formulas = {
  use_karras_sigmas: boolean(false),
  use_exponential_sigmas: boolean(false),
  use_beta_sigmas: boolean(false),
}
/** The classes after k-diffusion. */
const sigma = { ...common, timestep_spacing: oneOf(timestepSpacings, 'linspace') }
/** The multistep solvers of papers. */
const multistep = {
  ...sigma,
  ...formulas,
  solver_order: integer(2, { min: 1, max: 3 }),
  lower_order_final: boolean(true),
  use_flow_sigmas: boolean(false),
  use_dynamic_shifting: boolean(false),
}
/** Of a class that does not rescale betas: where the field comes along, it has no effect, as in diffusers. */
function unscaled<S extends Record<'rescale_betas_zero_snr', unknown>>({ rescale_betas_zero_snr: _, ...fields }: S) {
  return fields
}
/** ldm's betas, which some classes have as defaults. */
const latent = { beta_start: number(0.00085, { min: 0, max: 1 }), beta_end: number(0.012, { min: 0, max: 1 }) }
/** By class: __init__'s keyword arguments and defaults (diffusers 0.0.4 to 0.35). */
export const schemas = {
  DDPMScheduler: { ...common, ...clipping, variance_type: string('fixed_small') },
  DDIMScheduler: { ...common, ...clipping, set_alpha_to_one: boolean(true) },
  DPMSolverMultistepScheduler: {
    ...common,
    solver_order: integer(2, { min: 1, max: 3 }),
    algorithm_type: oneOf<DpmAlgorithm>(
      ['dpmsolver++', 'dpmsolver', 'sde-dpmsolver++', 'sde-dpmsolver'],
      'dpmsolver++',
    ),
    solver_type: oneOf(['midpoint', 'heun'], 'midpoint'),
    lower_order_final: boolean(true),
    euler_at_final: boolean(false),
    ...formulas,
    use_lu_lambdas: boolean(false),
    use_flow_sigmas: boolean(false),
    use_dynamic_shifting: boolean(false),
    lambda_min_clipped: anyNumber(-Infinity),
    final_sigmas_type: oneOf(['zero', 'sigma_min'], 'zero'),
    timestep_spacing: oneOf(timestepSpacings, 'linspace'),
    // It takes no other half of an output for a variance than to drop it.
    variance_type: string(),
  },
  EulerDiscreteScheduler: {
    ...sigma,
    ...formulas,
    interpolation_type: oneOf(['linear', 'log_linear'], 'linear'),
    sigma_min: number(undefined, { min: 1e-6 }),
    sigma_max: number(undefined, { min: 1e-6 }),
    timestep_type: string('discrete'),
    final_sigmas_type: oneOf(['zero', 'sigma_min'], 'zero'),
  },
  EulerAncestralDiscreteScheduler: sigma,
  HeunDiscreteScheduler: {
    ...unscaled(sigma),
    ...latent,
    ...formulas,
    clip_sample: boolean(false),
    clip_sample_range: number(1, { min: 0 }),
  },
  LMSDiscreteScheduler: { ...unscaled(sigma), ...formulas },
  KDPM2DiscreteScheduler: { ...unscaled(sigma), ...latent, ...formulas },
  KDPM2AncestralDiscreteScheduler: { ...unscaled(sigma), ...latent, ...formulas },
  DPMSolverSDEScheduler: { ...unscaled(sigma), ...latent, ...formulas, noise_sampler_seed: integer() },
  DEISMultistepScheduler: {
    ...unscaled(multistep),
    algorithm_type: oneOf(['deis'], 'deis'),
    solver_type: oneOf(['logrho'], 'logrho'),
  },
  UniPCMultistepScheduler: {
    ...multistep,
    solver_type: oneOf(['bh1', 'bh2'], 'bh2'),
    predict_x0: boolean(true),
    disable_corrector: array(integer(undefined, { min: 0 }), []),
    final_sigmas_type: oneOf(['zero', 'sigma_min']),
  },
  DPMSolverSinglestepScheduler: {
    ...unscaled(multistep),
    lower_order_final: boolean(false),
    algorithm_type: oneOf(['dpmsolver++', 'dpmsolver'], 'dpmsolver++'),
    solver_type: oneOf(['midpoint', 'heun'], 'midpoint'),
    lambda_min_clipped: anyNumber(-Infinity),
    final_sigmas_type: oneOf(['zero', 'sigma_min'], 'zero'),
    variance_type: string(),
  },
  PNDMScheduler: {
    ...unscaled(sigma),
    timestep_spacing: oneOf(timestepSpacings, 'leading'),
    skip_prk_steps: boolean(false),
    set_alpha_to_one: boolean(false),
  },
  LCMScheduler: {
    ...sigma,
    ...latent,
    beta_schedule: oneOf(betaNames, 'scaled_linear'),
    clip_sample: boolean(false),
    clip_sample_range: number(1, { min: 0 }),
    original_inference_steps: integer(50, { min: 1 }),
    timestep_scaling: number(10, { min: 0 }),
    timestep_spacing: oneOf(timestepSpacings, 'leading'),
    // All of its steps but the last lead to the next timestep, and the last to the image.
    set_alpha_to_one: boolean(true),
  },
} as const
export type ClassName = keyof typeof schemas
export type Fields<N extends ClassName> = Parsed<(typeof schemas)[N]>
export type ScheduleFields = Omit<Parsed<typeof schedule>, 'rescale_betas_zero_snr'> & {
  rescale_betas_zero_snr?: boolean
}
export type CommonFields = Omit<Parsed<typeof common>, 'rescale_betas_zero_snr'> & ScheduleFields
export type ClippingFields = Parsed<typeof clipping>
/** What the classes after k-diffusion have, or some of them. */
export type SigmaFields = Pick<Fields<'EulerDiscreteScheduler'>, 'timestep_spacing'> &
  Partial<Fields<'EulerDiscreteScheduler'> & Fields<'HeunDiscreteScheduler'>>

const latentScaled = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' }
/**
 * Further classes of the same process, whose models can be opened; with defaults that are others. They can't be sampled with until
 * they have fields above.
 */
const others: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  IPNDMScheduler: {},
  TCDScheduler: latentScaled,
}

/** The fields of a class by their names; of one that can only be opened, those that all have. */
export function fieldNames(name: string): string[] {
  return Object.keys(Object.hasOwn(schemas, name) ? schemas[name as ClassName] : common)
}

/** What a model needs of a configuration of any class. Throws `unsupported` for one of another process. */
export function modelFields(config: SchedulerConfig): {
  readonly fields: CommonFields & Partial<ClippingFields> & { readonly variance_type?: string }
  readonly ignored: Ignored
} {
  const names = [...Object.keys(schemas), ...Object.keys(others)]
  const name = classOf<string>(config, names, 'DDPMScheduler')
  if (Object.hasOwn(schemas, name)) {
    const { fields, ignored } = schedulerFields(name as ClassName, config)
    // Where the class does not rescale, a model that was trained with another one that does brings it along.
    const { rescale_betas_zero_snr } = parseKnown(name, ownFields(config), schedule).known
    return { fields: { ...fields, rescale_betas_zero_snr }, ignored }
  }
  const { known } = parseKnown(name, { ...others[name], ...ownFields(config) }, common)
  return { fields: known, ignored: { names: [], owner: name, known: [] } }
}

/** Fields of other classes, which come along when a configuration changes its class, as with diffusers' from_config; early ones. */
const compatible: readonly string[] = [
  ...Object.values(schemas).flatMap((schema) => Object.keys(schema)),
  ...['skip_prk_steps', 'interpolation_type', 'sigma_min', 'sigma_max', 'timestep_type', 'predict_x0', 'solver_p'],
  ...['disable_corrector', 'original_inference_steps', 'timestep_scaling', 'flow_shift', 'time_shift_type'],
  ...['tensor_format'],
]

/** Fields of before, and what they say today. */
const earlier: Readonly<Record<string, (value: unknown) => Record<string, unknown>>> = {
  predict_epsilon: (value) => ({ prediction_type: boolean().check(value, 'predict_epsilon') ? 'epsilon' : 'sample' }),
}

export interface SchedulerFields<N extends ClassName> {
  readonly fields: Fields<N>
  /** Fields that no class has. */
  readonly ignored: Ignored
}

/** The fields of a class with its defaults. Throws `invalid-argument` with the field's name. */
export function schedulerFields<N extends ClassName>(name: N, config: SchedulerConfig): SchedulerFields<N> {
  const { known, unknown } = parseKnown(name, ownFields(config), schemas[name])
  const names = unknown.filter((key) => !compatible.includes(key))
  return { fields: known as Fields<N>, ignored: { names, owner: name, known: Object.keys(schemas[name]) } }
}

/** Those of today; names that begin with an underscore are about the file. */
export function ownFields(config: SchedulerConfig): Record<string, unknown> {
  const own = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith('_')))
  for (const [key, translate] of Object.entries(earlier)) {
    if (own[key] !== undefined && own[key] !== null) Object.assign(own, translate(own[key]))
    delete own[key]
  }
  return own
}

/** Of diffusers, with noise levels in place of timesteps. */
const otherProcesses = [
  'ScoreSdeVeScheduler',
  'ScoreSdeVpScheduler',
  'KarrasVeScheduler',
  'EDMDPMSolverMultistepScheduler',
]

/** Throws `unsupported` for a class that is not among `names`. */
export function classOf<N extends string>(config: SchedulerConfig, names: readonly N[], fallback?: N): N {
  const { _class_name: name = fallback } = config
  if (names.includes(name as N)) return name as N
  if (typeof name === 'string' && otherProcesses.includes(name)) {
    const message = `scheduler: ${name} is of another process than DDPM's, which is not available; the network opens by UNet.fromDiffusers(config)`
    throw new DiffusionError('unsupported', message, {
      argument: '_class_name',
      expected: names.join(', '),
      received: describe(name),
    })
  }
  throw unsupported('_class_name', names.map(describe), name)
}

export function thresholdOf(c: CommonFields): Threshold | undefined {
  return c.thresholding ? { ratio: c.dynamic_thresholding_ratio, max: c.sample_max_value } : undefined
}

export const predictions: Readonly<Record<string, 'eps' | 'x0' | 'v'>> = {
  epsilon: 'eps',
  sample: 'x0',
  v_prediction: 'v',
}

/** What has a counterpart here. fixed_small_log is fixed_small by way of a logarithm. */
export const variances: Readonly<Record<string, number>> = {
  fixed_small: 0,
  fixed_small_log: 0,
  fixed_large: 1,
  learned_range: 0,
}

/** The entry of a table; `unsupported` with the field's name for a value that it does not have. */
export function pick<T>(table: Readonly<Record<string, T>>, name: string, value: string): T {
  if (Object.hasOwn(table, value)) return table[value]
  throw unsupported(name, Object.keys(table).map(describe), value)
}

export function unsupported(argument: string, expected: readonly string[], value: unknown): DiffusionError {
  const received = describe(value)
  const message = `scheduler: ${argument}: only ${expected.join(' and ')} can be expressed, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected: expected.join(', '), received })
}

/** Fields with one value that has a meaning here. Throws `unsupported` with the name of one that has another. */
export function checkFixed(fields: object, fixed: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(fixed)) {
    const given = (fields as Record<string, unknown>)[name]
    if (given !== undefined && given !== value) throw unsupported(name, [String(value)], given)
  }
}

/** ldm's names: its 'linear' is linear in sqrt(beta). */
export const betaScheduleNames: Readonly<Partial<Record<ScheduleFields['beta_schedule'], BetaSchedule>>> = {
  linear: 'sqrt_linear',
  scaled_linear: 'linear',
  squaredcos_cap_v2: 'cosine',
}

/** Without the rescaling to zero terminal SNR. Throws `unsupported` for a wrong number of trained_betas. */
export function betasOf(c: ScheduleFields): Float64Array {
  const T = c.num_train_timesteps
  if (c.trained_betas) {
    if (c.trained_betas.length === T) return Float64Array.from(c.trained_betas)
    throw unsupported('trained_betas', [`${T} numbers (num_train_timesteps)`], c.trained_betas)
  }
  const name = betaScheduleNames[c.beta_schedule]
  const ramp = { linearStart: c.beta_start, linearEnd: c.beta_end, cosineS: 8e-3 }
  if (name) return makeBetaSchedule(name, T, ramp)
  // GeoDiff's sigmoid, from -6 to 6.
  const sigmoid = (i: number) => 1 / (1 + Math.exp(6 - (12 * i) / (T - 1)))
  return Float64Array.from({ length: T }, (_, i) => sigmoid(i) * (c.beta_end - c.beta_start) + c.beta_start)
}

/** alpha_bar by timestep, with the roundings of torch's float32 (over 1000 steps they add up to some 1e-5). */
export function alphasOf(c: ScheduleFields): Float64Array {
  const given = betasOf(c)
  const betas = c.rescale_betas_zero_snr ? rescaleZeroTerminalSnr(given) : given
  let bar = 1
  return betas.map((beta) => {
    bar *= Math.fround(1 - Math.fround(beta))
    return Math.fround(bar)
  })
}

/**
 * Whether a configuration is of a version from `minor` of 0.x on, by its `_diffusers_version`; one without it is of the version
 * before.
 */
export function isSince({ _diffusers_version: version }: SchedulerConfig, minor: number): boolean {
  const [, major = '0', given = '0'] = /^(\d+)\.(\d+)/.exec(typeof version === 'string' ? version : '') ?? []
  return Number(major) > 0 || Number(given) >= minor
}

/** Infinities too. */
function anyNumber(fallback: number) {
  const check = (value: unknown, name: string): number => {
    if (typeof value === 'number' && !Number.isNaN(value)) return value
    throw invalidArgument(name, 'a number', value)
  }
  return { fallback, check }
}
