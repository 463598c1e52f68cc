/** Ancestral sampling through fewer timesteps: Nichol & Dhariwal 2021, section 4. */
import { respacedTimesteps, type TimestepSpacing } from '../schedule'
import { respacedTable } from '../step-tables'
import type { PlanContext, SamplingPlan } from './plan'

export function respacedPlan(
  { schedule, settings }: PlanContext,
  o: { steps: number; spacing?: TimestepSpacing; clipDenoised?: boolean },
): SamplingPlan {
  const timesteps = respacedTimesteps(o.steps, schedule.betas.length, o.spacing ?? settings.timestepSpacing)
  return {
    timesteps,
    table: respacedTable(schedule, timesteps, settings),
    clip: o.clipDenoised ?? settings.clipDenoised,
    noisy: true,
  }
}
