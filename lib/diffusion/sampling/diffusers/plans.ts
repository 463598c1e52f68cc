/**
 * The samplers of diffusers (0.27 to 0.35) by their own configurations: what a scheduler_config.json describes, step for step. Where
 * they differ from the papers, so does this: before 0.31 a step of DDPMScheduler and DDIMScheduler leads T / steps timesteps down,
 * wherever the next one lies.
 */
import { DiffusionError, invalidArgument } from '../../../errors'
import { roundToEven } from '../../process/schedule'
import { ancestralStep } from '../ancestral'
import { ddimStep } from '../ddim'
import { dpmSdeEvaluations } from '../dpm-ancestral'
import { singlestepEvaluations } from '../dpm-singlestep'
import { dpmEvaluations } from '../dpm-solver'
import { eulerAncestralEvaluations, eulerEvaluations } from '../euler'
import { heunEvaluations } from '../heun'
import { lastPart } from '../image'
import { kdpm2Evaluations } from '../kdpm2'
import { lmsEvaluations } from '../lms'
import { sigmasOf, solverTimesteps } from '../noise-levels'
import { type Evaluation, makePlan, type SamplingPlan } from '../plan'
import { floatTimesteps } from '../timesteps'
import { ignoredFields } from './ignored-fields'
import { deisPlan, lcmPlan, pndmPlan, unipcPlan } from './others'
import {
  alphasOf,
  type ClippingFields,
  type CommonFields,
  checkFixed,
  classOf,
  type Fields,
  isSince,
  pick,
  predictions,
  type SchedulerConfig,
  schedulerFields,
  schemas,
  thresholdOf,
  unsupported,
  variances,
} from './scheduler-config'
import { formulaOf, sigmaPlan, wholeFormulaLevels } from './sigma'

export interface SchedulerCall {
  /** num_inference_steps. */
  readonly steps?: number
  /** Descending, in place of steps; DDPMScheduler only. */
  readonly timesteps?: readonly number[]
  /** DDIMScheduler's. */
  readonly eta?: number
  /** DDIMScheduler's use_clipped_model_output. */
  readonly clippedNoise?: boolean
  readonly strength?: number
}

const planners: {
  [N in keyof typeof schemas]: (config: SchedulerConfig, c: Fields<N>, o: SchedulerCall) => SamplingPlan
} = {
  DDPMScheduler: ddpmPlan,
  DDIMScheduler: ddimPlan,
  DPMSolverMultistepScheduler: dpmPlan,
  EulerDiscreteScheduler: sigmaPlan(eulerEvaluations),
  EulerAncestralDiscreteScheduler: sigmaPlan(eulerAncestralEvaluations),
  HeunDiscreteScheduler: sigmaPlan(heunEvaluations),
  LMSDiscreteScheduler: sigmaPlan((levels, o) => lmsEvaluations(levels, { ...o, order: 4 })),
  KDPM2DiscreteScheduler: sigmaPlan((levels, o) => kdpm2Evaluations(levels, { ...o, eta: 0 }), { rounds: true }),
  KDPM2AncestralDiscreteScheduler: sigmaPlan((levels, o) => kdpm2Evaluations(levels, { ...o, eta: 1 }), {
    rounds: true,
  }),
  DPMSolverSDEScheduler: sigmaPlan(dpmSdeEvaluations),
  DEISMultistepScheduler: deisPlan,
  UniPCMultistepScheduler: unipcPlan,
  PNDMScheduler: pndmPlan,
  LCMScheduler: lcmPlan,
  DPMSolverSinglestepScheduler: singlestepPlan,
}

/** Options of one class alone. */
const owners = { timesteps: 'DDPMScheduler', eta: 'DDIMScheduler', clippedNoise: 'DDIMScheduler' } as const

/**
 * The plan of a scheduler for a model with `numTimesteps`; its warnings name the fields that no class has. Throws `unsupported` for
 * another class and Lu's lambdas, and `invalid-argument` with the field's name.
 */
export function schedulerPlan(config: SchedulerConfig, numTimesteps: number, o: SchedulerCall): SamplingPlan {
  return planOf(classOf(config, Object.keys(schemas) as (keyof typeof schemas)[]), config, numTimesteps, o)
}

function planOf<N extends keyof typeof schemas>(
  name: N,
  config: SchedulerConfig,
  numTimesteps: number,
  o: SchedulerCall,
): SamplingPlan {
  const { fields, ignored } = schedulerFields(name, config)
  const { num_train_timesteps: given } = fields as CommonFields
  if (given !== numTimesteps) throw invalidArgument('num_train_timesteps', `the model's, ${numTimesteps}`, given)
  for (const [key, owner] of Object.entries(owners)) {
    if (o[key as keyof typeof owners] === undefined || name === owner) continue
    throw new DiffusionError('invalid-argument', `${key} belongs to ${owner}, not to ${name}`, { argument: key })
  }
  return { ...planners[name](config, fields, o), warnings: ignoredFields('scheduler', ignored) }
}

const parameterizationOf = (c: CommonFields) => pick(predictions, 'prediction_type', c.prediction_type)

/** set_timesteps of DDPMScheduler and DDIMScheduler, descending. */
function timestepsOf(c: ClippingFields & CommonFields, steps: number | undefined): number[] {
  const T = c.num_train_timesteps
  if (steps === undefined || !Number.isSafeInteger(steps) || steps < 1 || steps > T) {
    throw invalidArgument('steps', `an integer from 1 to ${T}`, steps)
  }
  return floatTimesteps(steps, T, c.timestep_spacing, c.steps_offset).map(roundToEven)
}

/** Where a step leads: to the next timestep, or before 0.31 by a fixed stride, which leaves some noise where steps do not divide T. */
function nextTimestep(config: SchedulerConfig, timesteps: readonly number[], T: number): (i: number) => number {
  if (isSince(config, 31)) return (i) => timesteps[i + 1] ?? -1
  const stride = Math.floor(T / timesteps.length)
  return (i) => timesteps[i] - stride
}

function ddpmPlan(config: SchedulerConfig, c: Fields<'DDPMScheduler'>, o: SchedulerCall): SamplingPlan {
  const bars = alphasOf(c)
  const T = bars.length
  if ((o.steps === undefined) === (o.timesteps === undefined)) {
    throw new DiffusionError('invalid-argument', 'a scheduler needs either steps or timesteps', { argument: 'steps' })
  }
  const timesteps = o.timesteps ?? timestepsOf(c, o.steps)
  const descending = timesteps.every((t, i) => Number.isInteger(t) && t >= 0 && t < (i === 0 ? T : timesteps[i - 1]))
  if (!descending || timesteps.length === 0) throw invalidArgument('timesteps', `descending, below ${T}`, timesteps)
  const next = o.timesteps ? (i: number) => timesteps[i + 1] ?? -1 : nextTimestep(config, timesteps, T)
  const vPosterior = pick(variances, 'variance_type', c.variance_type)
  const parameterization = parameterizationOf(c)
  const steps = timesteps.map((t, i) => {
    const to = next(i)
    return ancestralStep(t, {
      bar: bars[t],
      previous: to >= 0 ? bars[to] : 1,
      noisy: t > 0,
      parameterization,
      vPosterior,
      varianceType: c.variance_type === 'learned_range' ? 'learned_range' : 'fixed',
    })
  })
  return clippedPlan(lastPart(steps, o.strength), c)
}

/** diffusers' own has the fixed stride in every version; with 'trailing' that is a fault, which is not repeated for recent ones. */
function ddimPlan(config: SchedulerConfig, c: Fields<'DDIMScheduler'>, o: SchedulerCall): SamplingPlan {
  const bars = alphasOf(c)
  const timesteps = timestepsOf(c, o.steps)
  const exact = c.timestep_spacing === 'trailing' ? config : {}
  const next = nextTimestep(exact, timesteps, bars.length)
  const parameterization = parameterizationOf(c)
  const steps = timesteps.map((t, i) => {
    const to = next(i)
    return ddimStep(t, {
      bar: bars[t],
      previous: to >= 0 ? bars[to] : c.set_alpha_to_one ? 1 : bars[0],
      eta: o.eta ?? 0,
      parameterization,
      clippedNoise: o.clippedNoise,
    })
  })
  return clippedPlan(lastPart(steps, o.strength), c)
}

/** The fused step clips to [-1, 1]: for another range, m_0 is x_0 divided by it. */
function clippedPlan(steps: readonly Evaluation[], c: CommonFields & ClippingFields): SamplingPlan {
  if (c.thresholding) return makePlan(steps, c.num_train_timesteps, { clip: true, threshold: thresholdOf(c) })
  const range = c.clip_sample ? c.clip_sample_range : 1
  const scaled = steps.map((step): Evaluation => {
    const [x, out] = step.prediction
    const next = { ...step.next, m: step.next.m.map((v) => v * range) }
    return { ...step, prediction: [x / range, out / range], next, start: { state: 0, m: [range] } }
  })
  return makePlan(range === 1 ? steps : scaled, c.num_train_timesteps, { clip: c.clip_sample })
}

/** What would change the numbers. */
const dpmFixed = {
  use_lu_lambdas: false,
  use_flow_sigmas: false,
  use_dynamic_shifting: false,
}

function dpmPlan(config: SchedulerConfig, c: Fields<'DPMSolverMultistepScheduler'>, o: SchedulerCall): SamplingPlan {
  checkFixed(c, dpmFixed)
  // The others solve for the noise.
  if (!c.algorithm_type.endsWith('++')) checkFixed(c, { thresholding: false })
  if (c.algorithm_type.startsWith('sde-') && c.solver_order === 3)
    throw unsupported('solver_order', ['1 or 2 with sde-'], 3)
  if (!c.algorithm_type.endsWith('++') && c.final_sigmas_type === 'zero') {
    throw unsupported('final_sigmas_type', [`'sigma_min' with '${c.algorithm_type}'`], 'zero')
  }
  if (o.steps === undefined) throw invalidArgument('steps', 'a number of steps', o.steps)
  const sigmas = sigmasOf(alphasOf(c))
  const spread = () => solverTimesteps(o.steps!, lastTimestep(c, sigmas), c.timestep_spacing, c.steps_offset)
  const formula = formulaOf(c)
  // From 0.33 on nothing is rounded on a cosine schedule.
  const rounds = formula === 'karras' && !(c.beta_schedule === 'squaredcos_cap_v2' && isSince(config, 33))
  const all =
    formula === 'uniform'
      ? Array.from(spread(), (t) => ({ t, sigma: sigmas[t] }))
      : wholeFormulaLevels(formula, o.steps, sigmas, rounds)
  const levels = lastPart(all, o.strength)
  const evaluations = dpmEvaluations(levels, c.final_sigmas_type === 'zero' ? 0 : sigmas[0], {
    algorithm: c.algorithm_type,
    order: c.solver_order,
    solverType: c.solver_type,
    lowerOrderFinal: c.lower_order_final && levels.length < 15,
    firstOrderFinal: c.euler_at_final,
    parameterization: parameterizationOf(c),
  })
  return makePlan(evaluations, c.num_train_timesteps, { clip: false, threshold: thresholdOf(c) })
}

function singlestepPlan(_: SchedulerConfig, c: Fields<'DPMSolverSinglestepScheduler'>, o: SchedulerCall): SamplingPlan {
  checkFixed(c, { use_flow_sigmas: false, use_dynamic_shifting: false })
  const solvesForImages = c.algorithm_type === 'dpmsolver++'
  if (!solvesForImages) checkFixed(c, { thresholding: false, final_sigmas_type: 'sigma_min' })
  if (o.steps === undefined) throw invalidArgument('steps', 'a number of steps', o.steps)
  const sigmas = sigmasOf(alphasOf(c))
  const formula = formulaOf(c)
  const spread = () =>
    solverTimesteps(o.steps!, lastTimestep({ ...c, timestep_spacing: 'linspace' }, sigmas), 'linspace')
  const all =
    formula === 'uniform'
      ? Array.from(spread(), (t) => ({ t, sigma: sigmas[t] }))
      : wholeFormulaLevels(formula, o.steps, sigmas)
  const evaluations = singlestepEvaluations(lastPart(all, o.strength), c.final_sigmas_type === 'zero' ? 0 : sigmas[0], {
    algorithm: c.algorithm_type,
    order: c.solver_order,
    solverType: c.solver_type,
    lowerOrderFinal: c.lower_order_final,
    parameterization: parameterizationOf(c),
  })
  return makePlan(evaluations, c.num_train_timesteps, { clip: false, threshold: thresholdOf(c) })
}

/** How many timesteps there are without those of too much noise: lambda = -log(sigma) below lambda_min_clipped. */
function lastTimestep(
  c: Pick<Fields<'DPMSolverMultistepScheduler'>, 'lambda_min_clipped' | 'timestep_spacing'>,
  sigmas: Float64Array,
): number {
  const kept = sigmas.filter((sigma) => -Math.log(sigma) >= c.lambda_min_clipped).length
  if (kept < sigmas.length && c.timestep_spacing === 'trailing') {
    throw unsupported('lambda_min_clipped', ["-Infinity with 'trailing'"], c.lambda_min_clipped)
  }
  return kept
}
