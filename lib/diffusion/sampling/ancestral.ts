/** Ancestral sampling through every timestep: Ho et al. 2020, algorithm 2; ddpm.py's p_sample_loop. */
import { posteriorTable } from '../step-tables'
import type { PlanContext, SamplingPlan } from './plan'

export function ancestralPlan({ schedule, settings }: PlanContext, o: { clipDenoised?: boolean }): SamplingPlan {
  return {
    timesteps: Int32Array.from(schedule.betas, (_, t) => t),
    table: posteriorTable(schedule, settings.parameterization),
    clip: o.clipDenoised ?? settings.clipDenoised,
    noisy: true,
  }
}
