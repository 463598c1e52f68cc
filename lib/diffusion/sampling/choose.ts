/** The plan that the user's options ask for. */
import { DiffusionError } from '../../errors'
import type { DdimDiscretization, TimestepSpacing } from '../schedule'
import type { SchedulerConfig } from '../scheduler-config'
import { ancestralPlan, respacedPlan } from './ancestral'
import { ddimPlan } from './ddim'
import { type SchedulerCall, schedulerPlan } from './diffusers'
import { dpmEvaluations } from './dpm-solver'
import { lastPart } from './image'
import { sigmasOf, solverTimesteps } from './noise-levels'
import { makePlan, type PlanContext, type SamplingPlan } from './plan'
import { plmsPlan } from './plms'
import { unipcEvaluations } from './unipc'

export const samplers = ['ddpm', 'ddim', 'plms', 'dpmsolver++', 'unipc'] as const
export type Sampler = (typeof samplers)[number]

export interface SamplerChoice {
  /** Default 'ddpm'. */
  readonly sampler?: Sampler
  readonly scheduler?: SchedulerConfig
  readonly timesteps?: readonly number[]
  readonly clippedNoise?: boolean
  readonly steps?: number
  readonly timestepSpacing?: TimestepSpacing
  readonly eta?: number
  readonly ddimDiscretize?: DdimDiscretization
  readonly solverOrder?: number
  readonly clipDenoised?: boolean
  /** Of the steps, this part from the end on (default 1: all). */
  readonly strength?: number
  /** Whether there is one. */
  readonly mask?: unknown
}

/** Which samplers have an option. */
const owners: Partial<Record<keyof SamplerChoice, readonly Sampler[]>> = {
  eta: ['ddim'],
  clippedNoise: ['ddim'],
  ddimDiscretize: ['ddim', 'plms'],
  timestepSpacing: ['ddpm', 'ddim', 'dpmsolver++', 'unipc'],
  solverOrder: ['dpmsolver++', 'unipc'],
  // A corrected state does not contain what was blended into the point.
  mask: ['ddpm', 'ddim', 'plms', 'dpmsolver++'],
  clipDenoised: ['ddpm', 'ddim', 'dpmsolver++', 'unipc'],
}

/** Throws `invalid-argument` for an option that the sampler does not have. */
export function choosePlan(context: PlanContext, o: SamplerChoice): SamplingPlan {
  const plan = planOf(context, o)
  const { thresholding: threshold } = context.settings
  // PLMS' prediction is that of the noise; a scheduler says it itself.
  if (!threshold || o.scheduler || o.sampler === 'plms' || o.clipDenoised === false) return plan
  return { ...plan, clip: true, threshold }
}

function planOf(context: PlanContext, o: SamplerChoice): SamplingPlan {
  if (o.scheduler) {
    const plan = schedulerPlan(o.scheduler, context.schedule.betas.length, schedulerCall(o))
    if (!plan.variance || context.settings.varianceType !== 'fixed') return plan
    throw wrong('scheduler', "scheduler: its variance_type needs a model that learns it, not varianceType 'fixed'")
  }
  const { sampler = 'ddpm', clipDenoised } = o
  if (o.timesteps) throw wrong('timesteps', 'timesteps goes with scheduler')
  for (const [name, allowed] of Object.entries(owners)) {
    if (o[name as keyof SamplerChoice] === undefined || allowed.includes(sampler)) continue
    throw wrong(name, `${name} belongs to ${allowed.map((s) => `'${s}'`).join(', ')}, not to sampler '${sampler}'`)
  }
  if (o.timestepSpacing !== undefined && o.ddimDiscretize !== undefined) {
    throw wrong('ddimDiscretize', 'give timestepSpacing or ddimDiscretize, not both')
  }
  const T = context.schedule.betas.length
  if (sampler !== 'ddpm' && o.steps === undefined) throw wrong('steps', `sampler '${sampler}' needs a number of steps`)
  const steps = o.steps ?? T
  const { strength } = o
  switch (sampler) {
    case 'ddpm':
      if (steps === T) return ancestralPlan(context, { clipDenoised, strength })
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
    case 'plms':
      return plmsPlan(context, { steps, discretization: o.ddimDiscretize, strength })
    case 'dpmsolver++':
    case 'unipc': {
      const sigmas = sigmasOf(context.schedule.alphasCumprod)
      const timesteps = [...solverTimesteps(steps, T, o.timestepSpacing ?? 'linspace')]
      const levels = lastPart(timesteps, strength).map((t) => ({ t, sigma: sigmas[t] }))
      const { parameterization } = context.settings
      const order = o.solverOrder ?? 2
      const evaluations =
        sampler === 'unipc'
          ? unipcEvaluations(levels, { order, parameterization })
          : dpmEvaluations(levels, 0, {
              algorithm: 'dpmsolver++',
              order,
              solverType: 'midpoint',
              lowerOrderFinal: levels.length < 15,
              parameterization,
            })
      return makePlan(evaluations, T, { clip: clipDenoised ?? false })
    }
  }
}

/** What a scheduler's configuration does not decide. */
function schedulerCall(o: SamplerChoice): SchedulerCall {
  const { steps, timesteps, eta, clippedNoise, strength } = o
  for (const name of ['sampler', 'timestepSpacing', 'ddimDiscretize', 'solverOrder', 'clipDenoised'] as const) {
    if (o[name] !== undefined) throw wrong(name, `${name} is decided by scheduler`)
  }
  return { steps, timesteps, eta, clippedNoise, strength }
}

function wrong(argument: string, message: string): DiffusionError {
  return new DiffusionError('invalid-argument', message, { argument })
}
