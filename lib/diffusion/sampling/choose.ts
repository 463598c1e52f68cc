/** The plan that the user's options ask for. */

import { DiffusionError } from '../../errors'
import type { DdimDiscretization, TimestepSpacing } from '../process/schedule'
import { noiseColumn, rowLength } from '../process/step-tables'
import { ancestralPlan, respacedPlan } from './ancestral'
import type { Churn } from './churn'
import { ddimPlan } from './ddim'
import { continuousPlan } from './diffusers/continuous'
import { continuousClass, continuousKind } from './diffusers/continuous-schedulers'
import { type SchedulerCall, schedulerPlan } from './diffusers/plans'
import type { SchedulerConfig } from './diffusers/scheduler-config'
import { lcmPlan } from './lcm'
import { isLevelSampler, type LevelSamplerName, levelPlan, levelSamplers } from './level-samplers'
import { makePlan, type PlanContext, type SamplingPlan } from './plan'
import { plmsPlan } from './plms'
import { resampledEvaluations } from './repaint'
import { type Sampler, samplerNamed, samplers } from './sampler-names'
import type { SigmaSchedule } from './sigmas'

export interface SamplerChoice {
  /** Default 'ddpm'; see samplerNamed. */
  readonly sampler?: string
  readonly scheduler?: SchedulerConfig
  readonly timesteps?: readonly number[]
  readonly clippedNoise?: boolean
  readonly steps?: number
  readonly timestepSpacing?: TimestepSpacing
  readonly sigmas?: SigmaSchedule
  readonly eta?: number
  readonly sChurn?: number
  readonly sTmin?: number
  readonly sTmax?: number
  readonly sNoise?: number
  readonly ddimDiscretize?: DdimDiscretization
  readonly solverOrder?: number
  readonly clipDenoised?: boolean
  /** Of the steps, this part from the end on (default 1: all). */
  readonly strength?: number
  /** Of the noise in the steps, one for all or one for each timestep. Default 1. */
  readonly temperature?: number | readonly number[]
  /** Predictions of x_0 are taken to a codebook's entries. */
  readonly codebook?: unknown
  /** Of ancestral sampling through all timesteps: those below. Default: all. */
  readonly startT?: number
  readonly jumpLength?: number
  readonly jumpNSample?: number
  /** Whether there is one. */
  readonly mask?: unknown
  readonly xT?: unknown
}

const levelSamplersWith = (has: (s: (typeof levelSamplers)[LevelSamplerName]) => boolean) =>
  samplers.filter((name) => isLevelSampler(name) && has(levelSamplers[name]))

/** Which samplers have an option, of those that not all have. */
export const owners: Partial<Record<keyof SamplerChoice, readonly Sampler[]>> = {
  eta: ['ddim', ...levelSamplersWith(({ noisy }) => noisy === true)],
  sChurn: levelSamplersWith(({ churns }) => churns === true),
  clippedNoise: ['ddim'],
  ddimDiscretize: ['ddim', 'plms'],
  timestepSpacing: ['ddpm', 'ddim', ...levelSamplersWith(() => true)],
  sigmas: levelSamplersWith(() => true),
  solverOrder: levelSamplersWith(({ order }) => order !== undefined),
  mask: ['ddpm', 'ddim', 'plms', 'lcm', ...levelSamplersWith(({ maskless }) => !maskless)],
  jumpNSample: ['ddpm', 'ddim'],
  startT: ['ddpm'],
  jumpLength: ['ddpm', 'ddim'],
  codebook: ['ddpm', 'ddim'],
  clipDenoised: ['ddpm', 'ddim', 'lcm', ...levelSamplersWith(({ predictsNoise }) => !predictsNoise)],
}

/** Throws `invalid-argument` for an option that the sampler does not have. */
export function choosePlan(context: PlanContext, o: SamplerChoice): SamplingPlan {
  const plan = tempered(withJumps(planOf(context, o), context, o), o.temperature)
  // A scheduler says all of it itself.
  if (o.scheduler) return plan
  const own = { ...plan, warnings: startWarnings(plan, context, o) }
  const { thresholding: threshold } = context.settings
  if (!threshold || o.clipDenoised === false) return own
  // A prediction of the noise has no threshold.
  const predictsImage = owners.clipDenoised?.includes(samplerNamed(o.sampler ?? 'ddpm').sampler)
  return predictsImage ? { ...own, clip: true, threshold } : own
}

/** ddpm.py's and ddim.py's temperature: a multiple of all noise that steps add. */
function tempered(plan: SamplingPlan, temperature: SamplerChoice['temperature'] = 1): SamplingPlan {
  if (temperature === 1) return plan
  if (plan.variance) throw wrong('temperature', 'temperature: 1 for a model whose variance is learned')
  const table = plan.table.slice()
  for (const [row, { t }] of plan.evaluations.entries()) {
    const own = typeof temperature === 'number' ? temperature : temperature[t]
    if (own === undefined) throw wrong('temperature', `temperature: a number for each timestep, of which ${t} has none`)
    table[row * rowLength + noiseColumn] *= own
  }
  return { ...plan, table, noisy: plan.noisy && (typeof temperature !== 'number' || temperature > 0) }
}

/** RePaint's, where they are asked for. */
function withJumps(plan: SamplingPlan, { schedule }: PlanContext, o: SamplerChoice): SamplingPlan {
  const { jumpNSample: times, jumpLength: length = 10 } = o
  if (times === undefined) {
    if (o.jumpLength !== undefined) throw wrong('jumpNSample', 'jumpNSample: needed with jumpLength')
    return plan
  }
  if (!o.mask) throw wrong('mask', 'mask: needed with jumpNSample, which harmonizes what is drawn with what is kept')
  const evaluations = resampledEvaluations(plan.evaluations, { length, times, schedule })
  const { clip, threshold, warnings } = plan
  return { ...makePlan(evaluations, schedule.betas.length, { clip, threshold }), warnings }
}

/** More of an image than there is at the last timestep, as a factor, is more than networks see past. */
const mostSignal = 0.2

/** Of a first step at which there is no longer only noise, which is what the samples begin with. */
function startWarnings(plan: SamplingPlan, { schedule }: PlanContext, o: SamplerChoice): string[] {
  if (o.strength !== undefined || o.startT !== undefined || o.xT) return []
  const signal = (t: number) => Math.sqrt(schedule.alphasCumprod[t])
  const [t] = plan.timesteps
  const last = schedule.alphasCumprod.length - 1
  if (signal(t) - signal(last) <= mostSignal) return []
  const part = signal(t).toFixed(2)
  return [
    `the first step is at timestep ${t} of ${last}, where ${part} of an image is left, but begins with noise alone: ` +
      "take more steps or timestepSpacing 'trailing', and no ddimDiscretize",
  ]
}

function planOf(context: PlanContext, o: SamplerChoice): SamplingPlan {
  if (o.scheduler) {
    if (o.codebook) throw wrong('quantizeDenoised', 'quantizeDenoised belongs to sampler, not to scheduler')
    const plan = scheduledPlan(context, o.scheduler, schedulerCall(o))
    if (o.mask && !keepsBlended(plan))
      throw wrong('mask', 'mask: the scheduler corrects states, in which none would stay')
    if (!plan.variance || context.settings.varianceType !== 'fixed') return plan
    throw wrong('scheduler', "scheduler: its variance_type needs a model that learns it, not varianceType 'fixed'")
  }
  const { sampler, sigmas = o.sigmas } = samplerNamed(o.sampler ?? 'ddpm')
  const { clipDenoised } = o
  if (o.timesteps) throw wrong('timesteps', 'timesteps goes with scheduler')
  for (const [name, allowed] of Object.entries(owners)) {
    if (o[name as keyof SamplerChoice] === undefined || allowed.includes(sampler)) continue
    throw wrong(
      named(name),
      `${named(name)} belongs to ${allowed.map((s) => `'${s}'`).join(', ')}, not to sampler '${sampler}'`,
    )
  }
  for (const name of ['sTmin', 'sTmax', 'sNoise'] as const) {
    if (o[name] !== undefined && o.sChurn === undefined) throw wrong(name, `${name} goes with sChurn`)
  }
  if (o.timestepSpacing !== undefined && o.ddimDiscretize !== undefined) {
    throw wrong('ddimDiscretize', 'give timestepSpacing or ddimDiscretize, not both')
  }
  if (o.sigmas !== undefined && o.sigmas !== sigmas) {
    throw wrong('sigmas', `sigmas: the sampler's name says '${sigmas}', not '${o.sigmas}'`)
  }
  if (o.timestepSpacing !== undefined && sigmas !== undefined && sigmas !== 'uniform') {
    throw wrong('timestepSpacing', `timestepSpacing goes with sigmas 'uniform', not with '${sigmas}'`)
  }
  const T = context.schedule.betas.length
  if (sampler !== 'ddpm' && o.steps === undefined) throw wrong('steps', `sampler '${sampler}' needs a number of steps`)
  const steps = o.steps ?? T
  const { strength } = o
  if (isLevelSampler(sampler)) {
    const { timestepSpacing: spacing, solverOrder: order, eta } = o
    const churn = churnOf(o)
    return levelPlan(sampler, context, { steps, sigmas, spacing, order, eta, churn, clipDenoised, strength })
  }
  switch (sampler) {
    case 'ddpm':
      if (steps === T) return ancestralPlan(context, { clipDenoised, strength, startT: o.startT })
      if (o.startT !== undefined) throw wrong('startT', 'startT goes with all timesteps, not with fewer steps')
      return respacedPlan(context, { steps, spacing: o.timestepSpacing, clipDenoised, strength })
    case 'ddim': {
      const { timestepSpacing: spacing, ddimDiscretize: discretization, clippedNoise } = o
      return ddimPlan(context, {
        steps,
        eta: o.eta ?? 0,
        clippedNoise,
        discretization,
        spacing,
        clipDenoised,
        strength,
      })
    }
    case 'lcm':
      return lcmPlan(context, { steps, clipDenoised, strength })
    case 'plms':
      return plmsPlan(context, { steps, discretization: o.ddimDiscretize, strength })
  }
}

/** A scheduler of continuous noise levels is for the models of its kind alone, and these have no others. */
function scheduledPlan(context: PlanContext, config: SchedulerConfig, call: SchedulerCall): SamplingPlan {
  const { parameterization } = context.settings
  const own = typeof parameterization === 'object' ? 'edm' : parameterization === 'flow' ? 'flow' : undefined
  const [name, kind] = [continuousClass(config), continuousKind(config)]
  if (kind !== own && (kind || own)) {
    const model = own ?? String(parameterization)
    throw wrong(
      'scheduler',
      `scheduler: ${config._class_name ?? 'one'} is not for a model of parameterization '${model}'`,
    )
  }
  if (!name) return schedulerPlan(config, context.schedule.betas.length, call)
  for (const key of ['timesteps', 'eta', 'clippedNoise'] as const) {
    if (call[key] !== undefined) throw wrong(key, `${key} belongs to other schedulers, not to ${name}`)
  }
  return continuousPlan(name, config, context, call)
}

function churnOf({
  sChurn,
  sTmin = 0,
  sTmax = Infinity,
  sNoise = 1,
}: SamplerChoice): Omit<Churn, 'sigmas'> | undefined {
  return sChurn ? { amount: sChurn, least: sTmin, most: sTmax, noise: sNoise } : undefined
}

/** Whether what is blended into a point before a step has a part in the next one: not where that begins at an earlier state. */
function keepsBlended({ evaluations }: SamplingPlan): boolean {
  return evaluations.every(({ correct }, i) => !correct || evaluations[i - 1].partial)
}

/** What a scheduler's configuration does not decide. */
function schedulerCall(o: SamplerChoice): SchedulerCall {
  const { steps, timesteps, eta, clippedNoise, strength } = o
  for (const name of [
    'sampler',
    'sigmas',
    'timestepSpacing',
    'ddimDiscretize',
    'solverOrder',
    'clipDenoised',
    'sChurn',
    'sTmin',
    'sTmax',
    'sNoise',
    'jumpNSample',
    'jumpLength',
    'startT',
  ] as const) {
    if (o[name] !== undefined) throw wrong(name, `${name} is decided by scheduler`)
  }
  return { steps, timesteps, eta, clippedNoise, strength }
}

/** As a caller knows it. */
const named = (option: string) => (option === 'codebook' ? 'quantizeDenoised' : option)

function wrong(argument: string, message: string): DiffusionError {
  return new DiffusionError('invalid-argument', message, { argument })
}
