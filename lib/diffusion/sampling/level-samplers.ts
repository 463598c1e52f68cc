/** The samplers that go from one noise level to the next, by name. */
import { invalidArgument } from '../../errors'
import type { Prediction } from '../process/prediction'
import { respacedTimesteps, type TimestepSpacing } from '../process/schedule'
import type { Churn } from './churn'
import { deisEvaluations } from './deis'
import { dpm2sAncestralEvaluations, dpmSdeEvaluations } from './dpm-ancestral'
import { singlestepEvaluations } from './dpm-singlestep'
import { type DpmAlgorithm, dpmEvaluations } from './dpm-solver'
import { eulerAncestralEvaluations, eulerEvaluations } from './euler'
import { heunEvaluations } from './heun'
import { lastPart } from './image'
import { kdpm2Evaluations } from './kdpm2'
import { lmsEvaluations } from './lms'
import { lineTimes, type NoiseLevel, scheduleSigmas, solverTimesteps } from './noise-levels'
import { type Evaluation, makePlan, type PlanContext, type SamplingPlan } from './plan'
import type { Sampler } from './sampler-names'
import { type Coordinates, exploding, straight } from './sigma-space'
import { formulaLevels, levelsAt, type SigmaSchedule } from './sigmas'
import { unipcEvaluations } from './unipc'

interface StepOptions {
  readonly parameterization: Prediction
  readonly coordinates: Coordinates
  /** By timestep. */
  readonly sigmas: Float64Array
  readonly order: number
  readonly eta: number
  readonly churn?: Churn
}

interface LevelSampler {
  /** Where its orders can be chosen. */
  readonly order?: { readonly fallback: number; readonly most: number }
  /** It takes `eta`, by default 1. */
  readonly noisy?: boolean
  /** It takes sChurn. */
  readonly churns?: boolean
  /** Of a flow's velocity it follows the straight line, in its own time; others go by sigma. */
  readonly straight?: boolean
  /** It predicts the noise, which can't be clipped. */
  readonly predictsNoise?: boolean
  /** What is blended into a point would not stay. */
  readonly maskless?: boolean
  /** Whose timesteps it takes: with all of k-diffusion's it ends at timestep 0, DPM-Solver's leave that out. */
  readonly timesteps: 'k-diffusion' | 'dpm-solver'
  readonly evaluations: (levels: readonly NoiseLevel[], o: StepOptions) => Evaluation[]
}

const dpm = (algorithm: DpmAlgorithm) => (levels: readonly NoiseLevel[], o: StepOptions) =>
  dpmEvaluations(levels, 0, { ...o, algorithm, solverType: 'midpoint', lowerOrderFinal: levels.length < 15 })
const kdpm2 = (levels: readonly NoiseLevel[], o: StepOptions) => kdpm2Evaluations(levels, o)

const table = {
  euler: { timesteps: 'k-diffusion', straight: true, churns: true, evaluations: eulerEvaluations },
  'euler-ancestral': { timesteps: 'k-diffusion', noisy: true, evaluations: eulerAncestralEvaluations },
  heun: { timesteps: 'k-diffusion', straight: true, churns: true, evaluations: heunEvaluations },
  lms: {
    timesteps: 'k-diffusion',
    order: { fallback: 4, most: 4 },
    predictsNoise: true,
    evaluations: lmsEvaluations,
  },
  kdpm2: { timesteps: 'k-diffusion', evaluations: (levels, o) => kdpm2(levels, { ...o, eta: 0 }) },
  'kdpm2-ancestral': { timesteps: 'k-diffusion', noisy: true, evaluations: kdpm2 },
  'dpmsolver++': { timesteps: 'dpm-solver', order: { fallback: 2, most: 3 }, evaluations: dpm('dpmsolver++') },
  'sde-dpmsolver++': { timesteps: 'dpm-solver', order: { fallback: 2, most: 2 }, evaluations: dpm('sde-dpmsolver++') },
  'dpmsolver++singlestep': {
    timesteps: 'dpm-solver',
    order: { fallback: 2, most: 3 },
    // A block goes on from the point where it began.
    maskless: true,
    evaluations: (levels, o) =>
      singlestepEvaluations(levels, 0, {
        ...o,
        algorithm: 'dpmsolver++',
        solverType: 'midpoint',
        lowerOrderFinal: true,
      }),
  },
  'dpmsolver++2s-ancestral': { timesteps: 'k-diffusion', noisy: true, evaluations: dpm2sAncestralEvaluations },
  'dpmsolver++sde': { timesteps: 'k-diffusion', noisy: true, evaluations: dpmSdeEvaluations },
  deis: {
    timesteps: 'dpm-solver',
    order: { fallback: 2, most: 3 },
    predictsNoise: true,
    evaluations: (levels, o) => deisEvaluations(levels, { ...o, lowerOrderFinal: true }),
  },
  unipc: {
    timesteps: 'dpm-solver',
    order: { fallback: 2, most: 3 },
    // A corrected state does not contain what was blended into the point.
    maskless: true,
    evaluations: unipcEvaluations,
  },
} as const satisfies Partial<Record<Sampler, LevelSampler>>

export type LevelSamplerName = keyof typeof table
export const levelSamplers: Readonly<Record<LevelSamplerName, LevelSampler>> = table

export function isLevelSampler(sampler: Sampler): sampler is LevelSamplerName {
  return Object.hasOwn(table, sampler)
}

/** Throws `invalid-argument`. */
export function levelPlan(
  sampler: LevelSamplerName,
  { schedule, settings }: PlanContext,
  o: {
    steps: number
    sigmas?: SigmaSchedule
    spacing?: TimestepSpacing
    order?: number
    eta?: number
    churn?: Omit<Churn, 'sigmas'>
    clipDenoised?: boolean
    strength?: number
  },
): SamplingPlan {
  const { order: orders, timesteps, evaluations } = levelSamplers[sampler]
  const order = o.order ?? orders?.fallback ?? 1
  if (orders && order > orders.most) {
    throw invalidArgument('solverOrder', `an integer from 1 to ${orders.most}, for '${sampler}'`, order)
  }
  const T = schedule.alphasCumprod.length
  const { parameterization } = settings
  // Noise is added by sigma.
  const isStraight = levelSamplers[sampler].straight && parameterization === 'flow' && !o.churn
  const sigmas = isStraight ? lineTimes(schedule) : scheduleSigmas(schedule)
  const spread = (spacing: TimestepSpacing = 'linspace') => {
    if (timesteps === 'dpm-solver') return solverTimesteps(o.steps, T, spacing)
    return respacedTimesteps(o.steps, T, spacing, settings.stepsOffset).reverse()
  }
  const { sigmas: formula = 'uniform' } = o
  // Also for the check of steps.
  const uniform = levelsAt([...spread(o.spacing)], sigmas)
  const levels = lastPart(
    formula === 'uniform' ? uniform : formulaLevels(formula, o.steps, sigmas, { line: isStraight }),
    o.strength,
  )
  const coordinates = isStraight ? straight : exploding
  const churn = o.churn && { ...o.churn, sigmas }
  const given = { parameterization, coordinates, sigmas, order, eta: o.eta ?? 1, churn }
  return makePlan(evaluations(levels, given), T, { clip: o.clipDenoised ?? false })
}
