/** Ancestral sampling: Ho et al. 2020, algorithm 2, through every timestep or fewer. */
import { DiffusionError } from '../../errors'
import { meanShiftRow, timestepVariance, varianceRow } from '../process/learned-variance'
import { type Prediction, startRow } from '../process/prediction'
import { posteriorVariance, respacedTimesteps, type TimestepSpacing } from '../process/schedule'
import type { VarianceType } from '../process/settings'
import { posteriorTable, rowLength } from '../process/step-tables'
import { lastPart } from './image'
import { type Evaluation, makePlan, type PlanContext, type SamplingPlan } from './plan'

/** Through every timestep: ddpm.py's p_sample_loop. */
export function ancestralPlan(
  { schedule, settings }: PlanContext,
  o: { clipDenoised?: boolean; strength?: number; startT?: number },
): SamplingPlan {
  if (o.startT !== undefined && o.strength !== undefined) {
    throw new DiffusionError('invalid-argument', 'give startT or strength, not both', { argument: 'startT' })
  }
  const table = posteriorTable(schedule, settings.parameterization)
  const evaluations = Array.from(schedule.betas, (_, t): Evaluation => {
    const [p, q, m, state, , noise] = table.subarray(t * rowLength, (t + 1) * rowLength)
    const { varianceType } = settings
    const variance = varianceType === 'fixed' ? undefined : timestepVariance(varianceType, schedule, t)
    const meanShift = meanShiftRow(variance ?? Math.exp(schedule.posteriorLogVarianceClipped[t]))
    return { t, prediction: [p, q], next: { state, m: [m], noise }, meanShift, ...(variance && { variance }) }
  })
  const clip = o.clipDenoised ?? settings.clipDenoised
  const first = evaluations.slice(0, o.startT).reverse()
  return makePlan(lastPart(first, o.strength), schedule.betas.length, { clip })
}

/** Through fewer: Nichol & Dhariwal 2021, section 4. */
export function respacedPlan(
  { schedule, settings }: PlanContext,
  o: { steps: number; spacing?: TimestepSpacing; clipDenoised?: boolean; strength?: number },
): SamplingPlan {
  const { alphasCumprod } = schedule
  const spacing = o.spacing ?? settings.timestepSpacing
  const { stepsOffset } = settings
  const timesteps = respacedTimesteps(o.steps, alphasCumprod.length, spacing, stepsOffset).reverse()
  const evaluations = Array.from(timesteps, (t, i) =>
    ancestralStep(t, {
      bar: alphasCumprod[t],
      previous: i + 1 < timesteps.length ? alphasCumprod[timesteps[i + 1]] : 1,
      noisy: i + 1 < timesteps.length,
      ...settings,
    }),
  )
  const clip = o.clipDenoised ?? settings.clipDenoised
  return makePlan(lastPart(evaluations, o.strength), alphasCumprod.length, { clip })
}

/** From alpha_bar `bar` to `previous`, by the beta that leads from one to the other (Nichol & Dhariwal 2021, eq. 19). */
export function ancestralStep(
  t: number,
  o: {
    bar: number
    previous: number
    noisy: boolean
    parameterization: Prediction
    vPosterior: number
    varianceType?: VarianceType
  },
): Evaluation {
  const { bar, previous } = o
  const alpha = bar / previous
  const beta = 1 - alpha
  const variance = Math.max(posteriorVariance(beta, bar, previous, o.vPosterior), 1e-20)
  const { varianceType = 'fixed' } = o
  const learned = varianceType !== 'fixed' && varianceRow(varianceType, { beta, posterior: variance, ends: !o.noisy })
  return {
    ...(learned && { variance: learned }),
    meanShift: meanShiftRow(learned || variance),
    t,
    prediction: startRow(o.parameterization, bar),
    next: {
      state: ((1 - previous) * Math.sqrt(alpha)) / (1 - bar),
      m: [(beta * Math.sqrt(previous)) / (1 - bar)],
      noise: o.noisy ? Math.sqrt(variance) : 0,
    },
  }
}
