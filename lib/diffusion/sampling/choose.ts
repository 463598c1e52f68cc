/** The plan that the user's options ask for. */
import { DiffusionError } from '../../errors'
import type { DdimDiscretization, TimestepSpacing } from '../schedule'
import { ancestralPlan } from './ancestral'
import { ddimPlan } from './ddim'
import type { PlanContext, SamplingPlan } from './plan'
import { respacedPlan } from './respaced'

export interface SamplerChoice {
  readonly sampler: 'ddpm' | 'ddim'
  readonly steps?: number
  readonly timestepSpacing?: TimestepSpacing
  readonly eta?: number
  readonly ddimDiscretize?: DdimDiscretization
  readonly clipDenoised?: boolean
}

export function choosePlan(context: PlanContext, o: SamplerChoice): SamplingPlan {
  const { steps, clipDenoised } = o
  if (o.sampler === 'ddim') {
    if (o.timestepSpacing !== undefined) throw wrong('timestepSpacing', "timestepSpacing belongs to sampler 'ddpm'")
    if (steps === undefined) throw wrong('steps', "sampler 'ddim' needs a number of steps")
    return ddimPlan(context, { steps, eta: o.eta ?? 0, discretization: o.ddimDiscretize ?? 'uniform', clipDenoised })
  }
  if (o.eta !== undefined) throw wrong('eta', "eta belongs to sampler 'ddim'")
  if (o.ddimDiscretize !== undefined) throw wrong('ddimDiscretize', "ddimDiscretize belongs to sampler 'ddim'")
  if (steps === undefined || steps === context.schedule.betas.length) return ancestralPlan(context, { clipDenoised })
  return respacedPlan(context, { steps, spacing: o.timestepSpacing, clipDenoised })
}

function wrong(argument: string, message: string): DiffusionError {
  return new DiffusionError('invalid-argument', message, { argument })
}
