/** diffusers' EDMEulerScheduler and FlowMatchEulerDiscreteScheduler by their configurations, for models that they are meant for. */
import { invalidArgument } from '../../../errors'
import { shifted } from '../../process/schedule'
import { eulerEvaluations } from '../euler'
import { lastPart } from '../image'
import { lineTimes, scheduleSigmas } from '../noise-levels'
import { makePlan, type PlanContext, type SamplingPlan } from '../plan'
import { exploding, straight } from '../sigma-space'
import { formulaLevels, levelOf } from '../sigmas'
import { type ContinuousClass, type ContinuousFields, continuousFields } from './continuous-schedulers'
import type { SchedulerConfig } from './scheduler-config'
import { formulaOf } from './sigma'

/** Throws `invalid-argument` with the field's name. */
export function continuousPlan(
  name: ContinuousClass,
  config: SchedulerConfig,
  { schedule, settings }: PlanContext,
  o: { readonly steps?: number; readonly strength?: number },
): SamplingPlan {
  const { fields, warnings } = continuousFields(name, config)
  const T = schedule.betas.length
  if (fields.num_train_timesteps !== T) {
    throw invalidArgument('num_train_timesteps', `the model's, ${T}`, fields.num_train_timesteps)
  }
  const { steps } = o
  if (steps === undefined || steps > T) throw invalidArgument('steps', `an integer from 1 to ${T}`, steps)
  const isFlow = name === 'FlowMatchEulerDiscreteScheduler'
  const sigmas = isFlow ? lineTimes(schedule) : scheduleSigmas(schedule)
  const levels = isFlow
    ? flowLevels(fields as ContinuousFields<typeof name>, steps, sigmas)
    : edmLevels(fields as ContinuousFields<'EDMEulerScheduler'>, steps, sigmas)
  const { sigma_min: least, final_sigmas_type: last } = fields as Partial<ContinuousFields<'EDMEulerScheduler'>>
  const evaluations = eulerEvaluations(lastPart(levels, o.strength), {
    parameterization: settings.parameterization,
    coordinates: isFlow ? straight : exploding,
    final: last === 'sigma_min' ? least : 0,
  })
  return { ...makePlan(evaluations, T, { clip: false }), warnings }
}

function edmLevels(c: ContinuousFields<'EDMEulerScheduler'>, steps: number, sigmas: Float64Array) {
  return formulaLevels(c.sigma_schedule, steps, sigmas, { most: c.sigma_max, least: c.sigma_min })
}

/** diffusers shifts its least time twice. */
function flowLevels(c: ContinuousFields<'FlowMatchEulerDiscreteScheduler'>, steps: number, times: Float64Array) {
  const least = shifted(1 / c.num_train_timesteps, c.shift)
  const even = Array.from({ length: steps }, (_, i) =>
    shifted(steps === 1 ? 1 : 1 + (i / (steps - 1)) * (least - 1), c.shift),
  )
  const formula = formulaOf(c)
  if (formula !== 'uniform')
    return formulaLevels(formula, steps, times, { most: even[0], least: even[steps - 1], line: true })
  return even.map((time) => levelOf(time, times, { line: true }))
}
