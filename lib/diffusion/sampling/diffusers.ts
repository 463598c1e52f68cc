/**
 * The samplers of diffusers (0.27) by their own configurations: what a scheduler_config.json describes, step for step. Where they
 * differ from the papers, so does this: a step of DDPMScheduler and DDIMScheduler leads T / steps timesteps down, wherever the
 * next one lies.
 */
import { DiffusionError, describe, invalidArgument } from '../../errors'
import { array, boolean, integer, number, oneOf, type Parsed, parseOptions, string } from '../../options'
import {
  makeBetaSchedule,
  maxTimesteps,
  type Parameterization,
  rescaleZeroTerminalSnr,
  roundToEven,
  timestepSpacings,
} from '../schedule'
import { ancestralStep } from './ancestral'
import { ddimStep } from './ddim'
import { type DpmAlgorithm, dpmEvaluations } from './dpm-solver'
import { lastPart } from './image'
import { karrasLevels, sigmasOf, solverTimesteps } from './noise-levels'
import { type Evaluation, makePlan, type SamplingPlan } from './plan'

/** scheduler_config.json: `_class_name` and the constructor's keyword arguments, in snake_case. */
export type SchedulerConfig = Readonly<Record<string, unknown>>

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

const common = {
  num_train_timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  beta_start: number(1e-4, { min: 0, max: 1 }),
  beta_end: number(2e-2, { min: 0, max: 1 }),
  beta_schedule: oneOf(['linear', 'scaled_linear', 'squaredcos_cap_v2'], 'linear'),
  trained_betas: array(number(), undefined, maxTimesteps),
  prediction_type: oneOf(['epsilon', 'sample', 'v_prediction'], 'epsilon'),
  steps_offset: integer(0, { min: 0 }),
  thresholding: boolean(false),
  // Only used with thresholding.
  dynamic_thresholding_ratio: number(0.995),
  sample_max_value: number(1),
}
const clipping = {
  clip_sample: boolean(true),
  clip_sample_range: number(1, { min: 0 }),
  timestep_spacing: oneOf(timestepSpacings, 'leading'),
  rescale_betas_zero_snr: boolean(false),
}
const schemas = {
  DDPMScheduler: {
    ...common,
    ...clipping,
    variance_type: oneOf(['fixed_small', 'fixed_small_log', 'fixed_large', 'learned_range'], 'fixed_small'),
  },
  DDIMScheduler: { ...common, ...clipping, set_alpha_to_one: boolean(true) },
  DPMSolverMultistepScheduler: {
    ...common,
    solver_order: integer(2, { min: 1, max: 3 }),
    algorithm_type: oneOf<DpmAlgorithm>(
      ['dpmsolver++', 'dpmsolver', 'sde-dpmsolver++', 'sde-dpmsolver'],
      'dpmsolver++',
    ),
    solver_type: oneOf(['midpoint', 'heun'], 'midpoint'),
    lower_order_final: boolean(true),
    euler_at_final: boolean(false),
    use_karras_sigmas: boolean(false),
    use_lu_lambdas: boolean(false),
    final_sigmas_type: oneOf(['zero', 'sigma_min'], 'zero'),
    variance_type: string(),
    timestep_spacing: oneOf(timestepSpacings, 'linspace'),
  },
} as const
type ClassName = keyof typeof schemas
type Common = Parsed<typeof common>

const parameterizationOf: Readonly<Record<Common['prediction_type'], Parameterization>> = {
  epsilon: 'eps',
  sample: 'x0',
  v_prediction: 'v',
}

/**
 * The plan of a scheduler for a model with `numTimesteps`. Throws `unsupported` for another class, thresholding and Lu's lambdas,
 * `unknown-option` and `invalid-argument` with the field's name.
 */
export function schedulerPlan(config: SchedulerConfig, numTimesteps: number, o: SchedulerCall): SamplingPlan {
  const { _class_name: name } = config
  if (typeof name !== 'string' || !Object.hasOwn(schemas, name)) {
    throw unsupported('_class_name', Object.keys(schemas).join(', '), name)
  }
  const own = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith('_')))
  const parsed = <N extends ClassName>(n: N) => parseOptions(n, own, schemas[n])
  checkCommon(parseOptions(name, own, schemas[name as ClassName]), numTimesteps)
  for (const [key, owner] of Object.entries({
    timesteps: 'DDPMScheduler',
    eta: 'DDIMScheduler',
    clippedNoise: 'DDIMScheduler',
  })) {
    if (o[key as keyof SchedulerCall] === undefined || name === owner) continue
    throw new DiffusionError('invalid-argument', `${key} belongs to ${owner}, not to ${name}`, { argument: key })
  }
  if (name === 'DDPMScheduler') return ddpmPlan(parsed(name), o)
  return name === 'DDIMScheduler' ? ddimPlan(parsed(name), o) : dpmPlan(parsed('DPMSolverMultistepScheduler'), o)
}

function checkCommon(c: Common, numTimesteps: number): void {
  if (c.num_train_timesteps !== numTimesteps) {
    throw invalidArgument('num_train_timesteps', `the model's, ${numTimesteps}`, c.num_train_timesteps)
  }
  if (c.thresholding) throw unsupported('thresholding', 'false', true)
}

function unsupported(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  const message = `scheduler: ${argument} can be ${expected}, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}

/**
 * alpha_bar by timestep, with the roundings of torch's float32 (over 1000 steps they add up to some 1e-5). ldm's names of the
 * schedules are others; see makeBetaSchedule.
 */
function alphasOf(c: Common & { rescale_betas_zero_snr?: boolean }): Float64Array {
  const T = c.num_train_timesteps
  const names = { linear: 'sqrt_linear', scaled_linear: 'linear', squaredcos_cap_v2: 'cosine' } as const
  if (c.trained_betas && c.trained_betas.length !== T)
    throw invalidArgument('trained_betas', `${T} betas`, c.trained_betas)
  const ramp = { linearStart: c.beta_start, linearEnd: c.beta_end, cosineS: 8e-3 }
  const given = c.trained_betas ? Float64Array.from(c.trained_betas) : makeBetaSchedule(names[c.beta_schedule], T, ramp)
  const betas = c.rescale_betas_zero_snr ? rescaleZeroTerminalSnr(given) : given
  let bar = 1
  return betas.map((beta) => {
    bar *= Math.fround(1 - Math.fround(beta))
    return Math.fround(bar)
  })
}

/** set_timesteps of DDPMScheduler and DDIMScheduler, descending. */
function timestepsOf(c: Parsed<typeof clipping> & Common, steps: number | undefined): number[] {
  const T = c.num_train_timesteps
  if (steps === undefined || !Number.isSafeInteger(steps) || steps < 1 || steps > T) {
    throw invalidArgument('steps', `an integer from 1 to ${T}`, steps)
  }
  const spread = (at: (i: number) => number) => Array.from({ length: steps }, (_, i) => at(steps - 1 - i))
  const timesteps = {
    linspace: () => spread((i) => (steps === 1 ? 0 : roundToEven((i * (T - 1)) / (steps - 1)))),
    leading: () => spread((i) => i * Math.floor(T / steps) + c.steps_offset),
    trailing: () => spread((i) => roundToEven(((i + 1) * T) / steps) - 1),
  }[c.timestep_spacing]()
  if (timesteps[0] < T) return timesteps
  throw invalidArgument('steps_offset', 'timesteps within the schedule', c.steps_offset)
}

function ddpmPlan(c: Parsed<(typeof schemas)['DDPMScheduler']>, o: SchedulerCall): SamplingPlan {
  const bars = alphasOf(c)
  const T = bars.length
  if ((o.steps === undefined) === (o.timesteps === undefined)) {
    throw new DiffusionError('invalid-argument', 'a scheduler needs either steps or timesteps', { argument: 'steps' })
  }
  const timesteps = o.timesteps ?? timestepsOf(c, o.steps)
  const descending = timesteps.every((t, i) => Number.isInteger(t) && t >= 0 && t < (i === 0 ? T : timesteps[i - 1]))
  if (!descending || timesteps.length === 0) throw invalidArgument('timesteps', `descending, below ${T}`, timesteps)
  const stride = o.timesteps ? 0 : Math.floor(T / o.steps!)
  const steps = timesteps.map((t, i) => {
    const to = stride > 0 ? t - stride : (timesteps[i + 1] ?? -1)
    return ancestralStep(t, {
      bar: bars[t],
      previous: to >= 0 ? bars[to] : 1,
      noisy: t > 0,
      parameterization: parameterizationOf[c.prediction_type],
      vPosterior: c.variance_type === 'fixed_large' ? 1 : 0,
      varianceType: c.variance_type === 'learned_range' ? 'learned_range' : 'fixed',
    })
  })
  return clippedPlan(lastPart(steps, o.strength), c)
}

function ddimPlan(c: Parsed<(typeof schemas)['DDIMScheduler']>, o: SchedulerCall): SamplingPlan {
  const bars = alphasOf(c)
  const timesteps = timestepsOf(c, o.steps)
  const stride = Math.floor(bars.length / timesteps.length)
  const steps = timesteps.map((t) =>
    ddimStep(t, {
      bar: bars[t],
      previous: t >= stride ? bars[t - stride] : c.set_alpha_to_one ? 1 : bars[0],
      eta: o.eta ?? 0,
      parameterization: parameterizationOf[c.prediction_type],
      clippedNoise: o.clippedNoise,
    }),
  )
  return clippedPlan(lastPart(steps, o.strength), c)
}

/** The fused step clips to [-1, 1]: for another range, m_0 is x_0 divided by it. */
function clippedPlan(steps: readonly Evaluation[], c: Common & Parsed<typeof clipping>): SamplingPlan {
  const range = c.clip_sample ? c.clip_sample_range : 1
  const scaled = steps.map((step): Evaluation => {
    const [x, out] = step.prediction
    const next = { ...step.next, m: step.next.m.map((v) => v * range) }
    return { ...step, prediction: [x / range, out / range], next, start: { state: 0, m: [range] } }
  })
  return makePlan(range === 1 ? steps : scaled, c.num_train_timesteps, { clip: c.clip_sample })
}

function dpmPlan(c: Parsed<(typeof schemas)['DPMSolverMultistepScheduler']>, o: SchedulerCall): SamplingPlan {
  if (c.use_lu_lambdas) throw unsupported('use_lu_lambdas', 'false', true)
  if (c.algorithm_type.startsWith('sde-') && c.solver_order === 3)
    throw unsupported('solver_order', '1 or 2 with sde-', 3)
  if (!c.algorithm_type.endsWith('++') && c.final_sigmas_type === 'zero') {
    throw unsupported('final_sigmas_type', `'sigma_min' with '${c.algorithm_type}'`, 'zero')
  }
  if (o.steps === undefined) throw invalidArgument('steps', 'a number of steps', o.steps)
  const sigmas = sigmasOf(alphasOf(c))
  const all = c.use_karras_sigmas
    ? karrasLevels(o.steps, sigmas)
    : Array.from(solverTimesteps(o.steps, sigmas.length, c.timestep_spacing, c.steps_offset), (t) => ({
        t,
        sigma: sigmas[t],
      }))
  const levels = lastPart(all, o.strength)
  const evaluations = dpmEvaluations(levels, c.final_sigmas_type === 'zero' ? 0 : sigmas[0], {
    algorithm: c.algorithm_type,
    order: c.solver_order,
    solverType: c.solver_type,
    lowerOrderFinal: c.lower_order_final && levels.length < 15,
    firstOrderFinal: c.euler_at_final,
    parameterization: parameterizationOf[c.prediction_type],
  })
  return makePlan(evaluations, c.num_train_timesteps, { clip: false })
}
