/** PLMS: Liu et al. 2022; ldm plms.py. Multistep in the noise, never clipped. */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import { type DdimDiscretization, ddimTimesteps, makeDdimParameters } from '../process/schedule'
import { lastPart } from './image'
import { type Evaluation, makePlan, type PlanContext, type SamplingPlan } from './plan'

/** Adams-Bashforth coefficients of orders 1 to 4, newest first (Liu et al. 2022, eq. 9; plms.py's p_sample_plms). */
export const adamsBashforth: readonly (readonly number[])[] = [
  [1],
  [3 / 2, -1 / 2],
  [23 / 12, -16 / 12, 5 / 12],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
]

/**
 * As plms.py: DDIM's timesteps, of which the last goes to alphasCumprod[0]; the first step evaluates the network twice (improved
 * Euler), the following ones have orders 2, 3 and 4. plms.py takes any output for eps; here it is computed from x0 and v.
 */
export function plmsPlan(
  { schedule, settings }: PlanContext,
  o: { steps: number; discretization?: DdimDiscretization; strength?: number },
): SamplingPlan {
  const { alphasCumprod } = schedule
  const T = alphasCumprod.length
  const { parameterization } = settings
  const timesteps = ddimTimesteps(o.discretization, o.steps, T)
  const { alphas, alphasPrev } = makeDdimParameters(alphasCumprod, timesteps, 0)
  const all = Array.from(timesteps, (t, i) => ({ t, bar: alphas[i], previous: alphasPrev[i] }))
  const steps = lastPart(all.reverse(), o.strength)
  const evaluations = steps.flatMap((step, i): Evaluation[] => {
    const own = noiseRow(parameterization, step.bar)
    if (i > 0) return [{ t: step.t, prediction: own, ...move(step, adamsBashforth[Math.min(i, 3)]) }]
    const then = steps[Math.min(1, steps.length - 1)]
    return [
      { t: step.t, prediction: own, ...move(step, [1]), partial: true },
      {
        t: then.t,
        prediction: noiseRow(parameterization, then.bar),
        correct: { point: 0, base: 1, m: [] },
        ...move(step, [1 / 2, 1 / 2]),
        forget: true,
      },
    ]
  })
  return makePlan(evaluations, T, { clip: false })
}

/** DDIM's step without noise, by the weighted sum of the noises. */
function move(
  { bar, previous }: { bar: number; previous: number },
  weights: readonly number[],
): Pick<Evaluation, 'next' | 'start'> {
  const [x, eps] = startRow('eps' satisfies Prediction, bar)
  const direction = Math.sqrt(previous) * eps + Math.sqrt(1 - previous)
  return {
    next: { state: Math.sqrt(previous) * x, m: weights.map((w) => w * direction) },
    start: { state: x, m: weights.map((w) => w * eps) },
  }
}
