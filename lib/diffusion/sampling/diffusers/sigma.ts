/** diffusers' schedulers after k-diffusion, by their own configurations: which noise levels they pass. */
import { DiffusionError, invalidArgument } from '../../../errors'
import type { Prediction } from '../../process/prediction'
import { roundToEven } from '../../process/schedule'
import { lastPart } from '../image'
import { type NoiseLevel, sigmasOf } from '../noise-levels'
import { type Evaluation, makePlan, type SamplingPlan } from '../plan'
import { formulaLevels, levelsAt, type SigmaSchedule } from '../sigmas'
import { floatTimesteps } from '../timesteps'
import {
  alphasOf,
  type CommonFields,
  checkFixed,
  pick,
  predictions,
  type SigmaFields,
  unsupported,
} from './scheduler-config'

type FormulaFields = Pick<SigmaFields, 'use_karras_sigmas' | 'use_exponential_sigmas' | 'use_beta_sigmas'>

/** Throws `invalid-argument` where more than one is on. */
export function formulaOf(c: FormulaFields): SigmaSchedule {
  const formulas = (['karras', 'exponential', 'beta'] as const).filter((name) => c[`use_${name}_sigmas`])
  if (formulas.length < 2) return formulas[0] ?? 'uniform'
  const argument = `use_${formulas[1]}_sigmas`
  throw new DiffusionError(
    'invalid-argument',
    `scheduler: ${argument} and use_${formulas[0]}_sigmas exclude each other`,
    {
      argument,
    },
  )
}

/**
 * The levels of the multistep and singlestep solvers, which tell whole timesteps alone: Karras' rounded (`rounds`; default), those of
 * other formulas cut off.
 */
export function wholeFormulaLevels(
  formula: Exclude<SigmaSchedule, 'uniform'>,
  steps: number,
  sigmas: Float64Array,
  rounds = formula === 'karras',
): NoiseLevel[] {
  // What float32 lacks to a whole timestep is not cut off.
  const whole = (t: number) => (rounds ? roundToEven(t) : Math.floor(t + 2 ** -10))
  return formulaLevels(formula, steps, sigmas).map(({ t, sigma }) => ({ t: whole(t), sigma }))
}

type Build = (
  levels: readonly NoiseLevel[],
  o: { readonly parameterization: Prediction; readonly sigmas: Float64Array; readonly final: number },
) => Evaluation[]

/** `rounds`: it tells whole timesteps where Karras' levels are. */
export function sigmaPlan(
  build: Build,
  { rounds = false } = {},
): (_: unknown, c: CommonFields & SigmaFields, o: { steps?: number; strength?: number }) => SamplingPlan {
  return (_, c, { steps, strength }) => {
    const T = c.num_train_timesteps
    if (steps === undefined || steps > T) throw invalidArgument('steps', `an integer from 1 to ${T}`, steps)
    checkFixed(c, { timestep_type: 'discrete' })
    if (c.clip_sample && c.clip_sample_range !== 1) throw unsupported('clip_sample_range', ['1'], c.clip_sample_range)
    const sigmas = sigmasOf(alphasOf(c))
    const uniform = levelsAt(floatTimesteps(steps, T, c.timestep_spacing, c.steps_offset), sigmas)
    const formula = formulaOf(c)
    const logLinear = formula === 'uniform' && c.interpolation_type === 'log_linear'
    const ends = { most: c.sigma_max ?? uniform[0].sigma, least: c.sigma_min ?? uniform[steps - 1].sigma }
    const spread = () => {
      if (formula === 'uniform') return uniform
      const given = formulaLevels(formula, steps, sigmas, ends)
      return rounds && formula === 'karras' ? given.map(({ t, sigma }) => ({ t: roundToEven(t), sigma })) : given
    }
    // Of these there is one more, which comes before the final one; but the timesteps remain.
    const even = () =>
      formulaLevels('exponential', steps + 1, sigmas).map(({ sigma }, i) => ({ t: uniform[i]?.t ?? 0, sigma }))
    const levels = logLinear ? even() : spread()
    const last = c.final_sigmas_type === 'sigma_min' ? sigmas[0] : 0
    const final = logLinear ? levels[steps].sigma : last
    const parameterization = pick(predictions, 'prediction_type', c.prediction_type)
    const evaluations = build(lastPart(levels.slice(0, steps), strength), { parameterization, sigmas, final })
    return makePlan(evaluations, T, { clip: c.clip_sample ?? false })
  }
}
