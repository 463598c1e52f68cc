/** diffusers' DEIS, LCM, PNDM and UniPC schedulers by their own configurations. */
import { invalidArgument } from '../../../errors'
import { roundToEven } from '../../process/schedule'
import { deisEvaluations } from '../deis'
import { lastPart } from '../image'
import { lcmEvaluations, lcmTimesteps } from '../lcm'
import { type NoiseLevel, sigmasOf, solverTimesteps } from '../noise-levels'
import { makePlan, type SamplingPlan } from '../plan'
import { plmsEvaluations, prkEvaluations } from '../pndm'
import { floatTimesteps } from '../timesteps'
import { unipcEvaluations } from '../unipc'
import {
  alphasOf,
  checkFixed,
  type Fields,
  isSince,
  pick,
  predictions,
  type SchedulerConfig,
  thresholdOf,
  unsupported,
} from './scheduler-config'
import { formulaOf, wholeFormulaLevels } from './sigma'

interface Call {
  readonly steps?: number
  readonly strength?: number
}

function stepsOf({ steps }: Call, most: number, least = 1): number {
  if (steps !== undefined && steps >= least && steps <= most) return steps
  throw invalidArgument('steps', `an integer from ${least} to ${most}`, steps)
}

/** What would change the numbers. */
const solverFixed = { use_flow_sigmas: false, use_dynamic_shifting: false }

/** Those of DPMSolverMultistepScheduler. */
function solverLevels(
  c: Fields<'DEISMultistepScheduler' | 'UniPCMultistepScheduler'>,
  sigmas: Float64Array,
  { steps = 0, strength }: Call,
): NoiseLevel[] {
  const formula = formulaOf(c)
  const uniform = () =>
    Array.from(solverTimesteps(steps, sigmas.length, c.timestep_spacing, c.steps_offset), (t) => ({
      t,
      sigma: sigmas[t],
    }))
  return lastPart(formula === 'uniform' ? uniform() : wholeFormulaLevels(formula, steps, sigmas), strength)
}

export function deisPlan(_: SchedulerConfig, c: Fields<'DEISMultistepScheduler'>, o: Call): SamplingPlan {
  const T = c.num_train_timesteps
  stepsOf(o, T)
  // The noise is what is predicted, and has no threshold.
  checkFixed(c, { ...solverFixed, thresholding: false })
  const sigmas = sigmasOf(alphasOf(c))
  const levels = solverLevels(c, sigmas, o)
  const evaluations = deisEvaluations(levels, {
    parameterization: pick(predictions, 'prediction_type', c.prediction_type),
    order: c.solver_order,
    lowerOrderFinal: c.lower_order_final && levels.length < 15,
    final: sigmas[0],
  })
  return makePlan(evaluations, T, { clip: false })
}

/** Before 0.28 it ended with the noise of timestep 0. */
export function unipcPlan(config: SchedulerConfig, c: Fields<'UniPCMultistepScheduler'>, o: Call): SamplingPlan {
  const T = c.num_train_timesteps
  stepsOf(o, T)
  checkFixed(c, { ...solverFixed, predict_x0: true })
  const sigmas = sigmasOf(alphasOf(c))
  const { final_sigmas_type: end = isSince(config, 28) ? 'zero' : 'sigma_min' } = c
  const evaluations = unipcEvaluations(solverLevels(c, sigmas, o), {
    order: c.solver_order,
    parameterization: pick(predictions, 'prediction_type', c.prediction_type),
    variant: c.solver_type,
    lowerOrderFinal: c.lower_order_final,
    uncorrected: c.disable_corrector,
    final: end === 'zero' ? 0 : sigmas[0],
  })
  return makePlan(evaluations, T, { clip: false, threshold: thresholdOf(c) })
}

export function pndmPlan(_: SchedulerConfig, c: Fields<'PNDMScheduler'>, o: Call): SamplingPlan {
  const T = c.num_train_timesteps
  const least = c.skip_prk_steps ? 2 : 4
  if (T < least) throw unsupported('skip_prk_steps', ['true for a model of so few timesteps'], c.skip_prk_steps)
  const steps = stepsOf(o, T, least)
  const parameterization = pick(predictions, 'prediction_type', c.prediction_type)
  if (parameterization === 'x0') throw unsupported('prediction_type', ["'epsilon'", "'v_prediction'"], 'sample')
  const bars = alphasOf(c)
  const spread = floatTimesteps(steps, T, c.timestep_spacing, c.steps_offset).map(roundToEven)
  const timesteps = c.skip_prk_steps ? lastEvaluations(spread, o.strength) : lastPart(spread, o.strength)
  if (timesteps.length < least) throw invalidArgument('strength', `at least ${least} steps`, o.strength)
  const last = c.set_alpha_to_one ? 1 : bars[0]
  const evaluations = (c.skip_prk_steps ? plmsEvaluations : prkEvaluations)(timesteps, {
    bar: (t) => (t >= 0 ? bars[Math.min(t, T - 1)] : last),
    stride: Math.floor(T / steps),
    parameterization,
  })
  return makePlan(evaluations, T, { clip: false })
}

/**
 * As diffusers' image to image counts them: in the list that has the second timestep twice, from as many before its last as there are
 * steps left. What begins in the middle takes its second evaluation for one of the first step, too, and so skips a step.
 */
function lastEvaluations(spread: readonly number[], strength: number | undefined): number[] {
  const [first, second, ...later] = spread
  const left = lastPart(spread, strength).length
  return [first, second, second, ...later].slice(spread.length - left)
}

export function lcmPlan(config: SchedulerConfig, c: Fields<'LCMScheduler'>, o: Call): SamplingPlan {
  const { num_train_timesteps: T } = c
  // The default is that of models of 1000 timesteps.
  const { original_inference_steps: original = Math.min(c.original_inference_steps, T) } = config as Partial<typeof c>
  const steps = stepsOf(o, Math.min(original, T))
  if (c.clip_sample && c.clip_sample_range !== 1) throw unsupported('clip_sample_range', ['1'], c.clip_sample_range)
  const timesteps = lcmTimesteps(steps, original, T)
  if (!timesteps) throw invalidArgument('original_inference_steps', `at most ${T}`, original)
  const evaluations = lcmEvaluations(lastPart(timesteps, o.strength), {
    bars: alphasOf(c),
    parameterization: pick(predictions, 'prediction_type', c.prediction_type),
    timestepScaling: c.timestep_scaling,
  })
  return makePlan(evaluations, T, { clip: c.clip_sample, threshold: thresholdOf(c) })
}
