/** Latent consistency models: Luo et al. 2023, algorithm 3 (multistep consistency sampling). */
import { type Prediction, startRow } from '../process/prediction'
import { respacedTimesteps } from '../process/schedule'
import { lastPart } from './image'
import { type Evaluation, makePlan, type PlanContext, type SamplingPlan } from './plan'

/** Of the data, as the boundary condition takes it. */
const sigmaData = 0.5

/**
 * Descending timesteps: `steps` of the `original` ones that the model was distilled with, evenly from the last on. Undefined where
 * there are not as many.
 */
export function lcmTimesteps(steps: number, original: number, numTimesteps: number): number[] | undefined {
  if (steps > original || original > numTimesteps) return undefined
  const stride = Math.floor(numTimesteps / original)
  return Array.from({ length: steps }, (_, i) => (original - Math.floor((i * original) / steps)) * stride - 1)
}

/** By the timesteps of 50 that diffusers' models are distilled with, or evenly from the last on where there are others. */
export function lcmPlan(
  { schedule, settings }: PlanContext,
  o: { steps: number; clipDenoised?: boolean; strength?: number },
): SamplingPlan {
  const T = schedule.alphasCumprod.length
  const even = () => respacedTimesteps(o.steps, T, 'trailing').reverse()
  const timesteps = (T % 50 === 0 && lcmTimesteps(o.steps, 50, T)) || [...even()]
  const { parameterization } = settings
  const evaluations = lcmEvaluations(lastPart(timesteps, o.strength), {
    bars: schedule.alphasCumprod,
    parameterization,
    timestepScaling: 10,
  })
  return makePlan(evaluations, T, { clip: o.clipDenoised ?? false })
}

/** Each step predicts x_0 and adds fresh noise for the next timestep; the last adds none. `bars`: alpha_bar by timestep. */
export function lcmEvaluations(
  timesteps: readonly number[],
  o: { bars: ArrayLike<number>; parameterization: Prediction; timestepScaling: number },
): Evaluation[] {
  return timesteps.map((t, i) => {
    const scaled = t * o.timestepScaling
    const norm = scaled ** 2 + sigmaData ** 2
    const [skip, out] = [sigmaData ** 2 / norm, scaled / Math.sqrt(norm)]
    const bar = i + 1 < timesteps.length ? o.bars[timesteps[i + 1]] : 1
    const signal = Math.sqrt(bar)
    return {
      t,
      prediction: startRow(o.parameterization, o.bars[t]),
      next: { state: signal * skip, m: [signal * out], noise: Math.sqrt(1 - bar) },
      start: { state: skip, m: [out] },
    }
  })
}
