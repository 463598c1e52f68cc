/** DDIM: Song et al. 2021, eq. 12; ldm ddim.py. Like ddim.py it does not clip unless told to. */
import { type DdimDiscretization, makeDdimTimesteps } from '../schedule'
import { ddimTable } from '../step-tables'
import type { PlanContext, SamplingPlan } from './plan'

export function ddimPlan(
  { schedule, settings }: PlanContext,
  o: { steps: number; eta: number; discretization: DdimDiscretization; clipDenoised?: boolean },
): SamplingPlan {
  const timesteps = makeDdimTimesteps(o.discretization, o.steps, schedule.betas.length)
  return {
    timesteps,
    table: ddimTable(schedule, timesteps, { parameterization: settings.parameterization, eta: o.eta }),
    clip: o.clipDenoised ?? false,
    noisy: o.eta > 0,
  }
}
