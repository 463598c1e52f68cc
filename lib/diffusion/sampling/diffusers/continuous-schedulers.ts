/**
 * diffusers' schedulers of continuous noise levels: what their configurations say of a model, and a model as a configuration. Training
 * has as many levels as there are timesteps.
 */
import { boolean, integer, number, oneOf, type Parsed, parseKnown, string } from '../../../options'
import type { Parameterization } from '../../process/prediction'
import {
  defaultSchedule,
  defaultSigmas,
  maxTimesteps,
  type TimestepSpacing,
  timestepSpacings,
} from '../../process/schedule'
import { ignoredFields } from './ignored-fields'
import { checkFixed, ownFields, type SchedulerConfig, unsupported } from './scheduler-config'

const steps = {
  num_train_timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  // Of other classes: what other samplers than diffusers' do with such a model. Written where they are not the defaults.
  clip_sample: boolean(true),
  timestep_spacing: oneOf(timestepSpacings, 'linspace'),
  steps_offset: integer(0, { min: 0 }),
}

/** By class: __init__'s keyword arguments and defaults (diffusers 0.27 to 0.35). */
const schemas = {
  EDMEulerScheduler: {
    ...steps,
    sigma_min: number(defaultSigmas.sigmaMin, { min: 1e-6, max: 1e6 }),
    sigma_max: number(defaultSigmas.sigmaMax, { min: 1e-6, max: 1e6 }),
    sigma_data: number(0.5, { min: 1e-6, max: 1e6 }),
    sigma_schedule: oneOf(['karras', 'exponential'], 'karras'),
    prediction_type: string('epsilon'),
    rho: number(7),
    final_sigmas_type: oneOf(['zero', 'sigma_min'], 'zero'),
  },
  FlowMatchEulerDiscreteScheduler: {
    ...steps,
    shift: number(1, { min: 1e-3, max: 1e3 }),
    use_dynamic_shifting: boolean(false),
    // Only used with dynamic shifting.
    base_shift: number(0.5),
    max_shift: number(1.15),
    base_image_seq_len: integer(256),
    max_image_seq_len: integer(4096),
    time_shift_type: string('exponential'),
    invert_sigmas: boolean(false),
    shift_terminal: number(),
    use_karras_sigmas: boolean(false),
    use_exponential_sigmas: boolean(false),
    use_beta_sigmas: boolean(false),
    stochastic_sampling: boolean(false),
  },
} as const
export type ContinuousClass = keyof typeof schemas
export type ContinuousFields<N extends ContinuousClass> = Parsed<(typeof schemas)[N]>

/** What would change the numbers, and has one value here. */
const fixed: Readonly<Record<ContinuousClass, Readonly<Record<string, unknown>>>> = {
  EDMEulerScheduler: { prediction_type: 'epsilon', rho: 7 },
  FlowMatchEulerDiscreteScheduler: {
    use_dynamic_shifting: false,
    invert_sigmas: false,
    shift_terminal: undefined,
    stochastic_sampling: false,
  },
}

/** The class of a configuration, where it is one of these. */
export function continuousClass({ _class_name: name }: SchedulerConfig): ContinuousClass | undefined {
  return typeof name === 'string' && Object.hasOwn(schemas, name) ? (name as ContinuousClass) : undefined
}

/** Which parameterization a class is for; undefined for all other classes. */
export function continuousKind(config: SchedulerConfig): 'edm' | 'flow' | undefined {
  const name = continuousClass(config)
  return name && (name === 'EDMEulerScheduler' ? 'edm' : 'flow')
}

/** The fields with their defaults, and what was ignored. Throws `unsupported` with the field's name. */
export function continuousFields<N extends ContinuousClass>(name: N, config: SchedulerConfig) {
  const { known, unknown } = parseKnown(name, ownFields(config), schemas[name])
  checkFixed(known, fixed[name])
  const ignored = { names: unknown, owner: name, known: Object.keys(schemas[name]) }
  return { fields: known as ContinuousFields<N>, ignored, warnings: ignoredFields('scheduler', ignored) }
}

/** DDPM's options of a configuration. */
export function continuousSettings(name: ContinuousClass, config: SchedulerConfig) {
  const { fields, ignored } = continuousFields(name, config)
  const common = {
    timesteps: fields.num_train_timesteps,
    zeroTerminalSnr: false,
    vPosterior: 0,
    varianceType: 'fixed',
    clipDenoised: fields.clip_sample,
    timestepSpacing: fields.timestep_spacing,
    stepsOffset: fields.steps_offset,
  } as const
  if (name === 'EDMEulerScheduler') {
    const { sigma_min: sigmaMin, sigma_max: sigmaMax, sigma_data: sigmaData } = fields as ContinuousFields<typeof name>
    const settings = { ...common, parameterization: 'edm', betaSchedule: 'edm', sigmaMin, sigmaMax, sigmaData } as const
    return { settings, ignored }
  }
  const { shift: flowShift } = fields as ContinuousFields<typeof name>
  return { settings: { ...common, parameterization: 'flow', betaSchedule: 'flow', flowShift } as const, ignored }
}

/** What is written of a model. */
export interface ContinuousModel {
  readonly parameterization: Parameterization
  readonly betaSchedule?: string
  /** In float32 where they are not those of the options. */
  readonly betas: Float32Array | Float64Array
  readonly sigmaMin?: number
  readonly sigmaMax?: number
  readonly sigmaData?: number
  readonly flowShift?: number
  readonly vPosterior: number
  readonly varianceType: string
  readonly clipDenoised: boolean
  readonly timestepSpacing: TimestepSpacing
  readonly stepsOffset?: number
  readonly thresholding?: unknown
}

/** scheduler_config.json of a model that predicts EDM's F or a flow. Throws `unsupported` for what its class can't express. */
export function continuousConfig(o: ContinuousModel, like?: SchedulerConfig): Record<string, unknown> {
  const { parameterization, betaSchedule = defaultSchedule(parameterization) } = o
  const own = o.betas instanceof Float32Array ? 'betas of its own' : betaSchedule
  if (own !== parameterization) throw unsupported('betaSchedule', [`'${parameterization}'`], own)
  if (o.vPosterior !== 0) throw unsupported('vPosterior', ['0'], o.vPosterior)
  if (o.varianceType !== 'fixed') throw unsupported('varianceType', ["'fixed'"], o.varianceType)
  if (o.thresholding !== undefined) throw unsupported('thresholding', ['none'], o.thresholding)
  const name = parameterization === 'edm' ? 'EDMEulerScheduler' : 'FlowMatchEulerDiscreteScheduler'
  const fields =
    parameterization === 'edm'
      ? {
          sigma_min: o.sigmaMin,
          sigma_max: o.sigmaMax,
          sigma_data: o.sigmaData ?? 0.5,
          prediction_type: 'epsilon',
        }
      : { shift: o.flowShift }
  const before: SchedulerConfig = like && continuousClass(like) === name ? like : {}
  const { clip_sample: _, timestep_spacing: __, steps_offset: ___, ...kept } = before
  return {
    ...kept,
    _class_name: name,
    num_train_timesteps: o.betas.length,
    ...fields,
    ...(!o.clipDenoised && { clip_sample: false }),
    ...(o.timestepSpacing !== 'linspace' && { timestep_spacing: o.timestepSpacing }),
    ...(o.stepsOffset && { steps_offset: o.stepsOffset }),
  }
}
