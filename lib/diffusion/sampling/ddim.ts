/** DDIM: Song et al. 2021, eq. 12; ldm ddim.py. Like ddim.py it does not clip unless told to. */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import {
  type DdimDiscretization,
  ddimTimesteps,
  makeDdimParameters,
  respacedTimesteps,
  type TimestepSpacing,
} from '../process/schedule'
import { lastPart } from './image'
import { type Evaluation, makePlan, type PlanContext, type SamplingPlan } from './plan'

/**
 * Timesteps evenly, or by ddim.py's discretization (the last step goes to alphasCumprod[0]), or by a spacing (its last step goes to 1). A
 * network that does not predict the noise has its noise computed from its output, which ddim.py would take for eps.
 */
export function ddimPlan(
  { schedule, settings }: PlanContext,
  o: {
    steps: number
    eta: number
    discretization?: DdimDiscretization
    spacing?: TimestepSpacing
    clippedNoise?: boolean
    clipDenoised?: boolean
    strength?: number
  },
): SamplingPlan {
  const { alphasCumprod } = schedule
  const T = alphasCumprod.length
  const timesteps = o.spacing
    ? respacedTimesteps(o.steps, T, o.spacing, settings.stepsOffset)
    : ddimTimesteps(o.discretization, o.steps, T)
  const { alphasPrev } = makeDdimParameters(alphasCumprod, timesteps, o.eta)
  if (o.spacing) alphasPrev[0] = 1
  const { parameterization } = settings
  const evaluations = Array.from(timesteps, (t, i) =>
    ddimStep(t, {
      bar: alphasCumprod[t],
      previous: alphasPrev[i],
      eta: o.eta,
      parameterization,
      clippedNoise: o.clippedNoise,
    }),
  )
  return makePlan(lastPart(evaluations.reverse(), o.strength), T, { clip: o.clipDenoised ?? false })
}

/** From alpha_bar `bar` to `previous`. `clippedNoise`: the noise follows from the clipped x_0, not from the output. */
export function ddimStep(
  t: number,
  o: { bar: number; previous: number; eta: number; parameterization: Prediction; clippedNoise?: boolean },
): Evaluation {
  const { bar, previous } = o
  const sigma = o.eta * Math.sqrt(((1 - previous) / (1 - bar)) * (1 - bar / previous))
  const direction = Math.sqrt(Math.max(1 - previous - sigma * sigma, 0))
  const prediction = startRow(o.parameterization, bar)
  if (o.clippedNoise) {
    const [x, x0] = noiseRow('x0', bar)
    return { t, prediction, next: { state: direction * x, m: [Math.sqrt(previous) + direction * x0], noise: sigma } }
  }
  const [x, out] = noiseRow(o.parameterization, bar)
  return { t, prediction, next: { state: direction * x, out: direction * out, m: [Math.sqrt(previous)], noise: sigma } }
}
