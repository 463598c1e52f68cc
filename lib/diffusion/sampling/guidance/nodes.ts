/** Guidance in the graph of a step: what it makes of the denoiser's predictions. */
import type { Graph, Value } from '../../../graph'
import type { Shape } from '../../../tensor'
import type { ConditionKind } from '../../process/condition'
import type { Core } from '../../process/core'
import type { DenoiserMode, DenoiserOutput } from '../../process/denoiser'
import { varianceRowLength } from '../../process/learned-variance'
import { type ByEvaluation, denoise } from '../../process/preconditioning'
import { type PreparedKind, preparedInputs } from '../prepared'

/** What the graph of a guided step depends on: a part of programs' keys. */
export interface GuidanceKind {
  /**
   * Which prediction is gone away from: the denoiser's own of another condition, or another model's. Inputs: `guidance` and
   * `1-guidance` (the factors) and `guidanceRow`; those of the condition, or `negative`.
   */
  readonly away?: 'condition' | 'model'
  /** Of the other condition. */
  readonly negative?: ConditionKind
  /** How much of the given prediction's standard deviation is restored. */
  readonly rescale?: number
  /**
   * Where the gradient of a classifier's log p(y | x_t), the input `gradient`, goes: into the prediction (inputs `score` and
   * `score.one`, a number for each timestep), or times the variance into the mean of the step (input `meanShift`, a table).
   */
  readonly gradient?: 'score' | 'mean'
}

interface At {
  readonly x: Value
  readonly t: Value
  readonly shape: Shape
  readonly by?: ByEvaluation
  readonly prepared?: PreparedKind
}

/** The denoiser of one condition. */
function denoised(
  core: Core,
  g: Graph,
  at: At,
  condition: ConditionKind,
  of: NonNullable<DenoiserMode['of']>,
): DenoiserOutput {
  const { shape, prepared: kind } = at
  const prepared = kind && preparedInputs(core, g, { shape, kind, condition, of })
  return denoise(core, g, { ...at, mode: { train: false, condition, of, prepared } })
}

/** x as flat samples and t to the guided output; the variance is that of the given condition. */
export function guidedOutput(
  core: Core,
  g: Graph,
  at: At,
  { condition, guidance = {} }: { condition: ConditionKind; guidance?: GuidanceKind },
): DenoiserOutput {
  const output = denoised(core, g, at, condition, 'given')
  const away = awayFrom(core, g, { ...at, given: output.prediction, guidance })
  return { ...output, prediction: guidance.gradient === 'score' ? moved(core, g, away, at.t) : away }
}

/** u + s (c - u): Ho & Salimans 2022, eq. 6 with s = 1 + w; Karras et al. 2024a, eq. 3, with another model's u. */
function awayFrom(
  core: Core,
  g: Graph,
  { given, guidance, ...at }: At & { given: Value; guidance: GuidanceKind },
): Value {
  const { away, negative, rescale: amount = 0 } = guidance
  if (!away) return given
  const other =
    away === 'model' ? g.input('negative', given.dims) : denoised(core, g, at, negative!, 'negative').prediction
  const factor = (name: string) => g.input(name, [1, 1, 1, 1])
  const row = g.input('guidanceRow', [given.dims[0], 1, 1, 1], 'i32')
  const guided = g.timestepAffine(given, factor('guidance'), row, other, factor('1-guidance'))
  return amount > 0 ? g.rescaleGuidance(guided, given, { amount }) : guided
}

/** Dhariwal & Nichol 2021, algorithm 2: the score of p(x_t) p(y | x_t), as a prediction. */
function moved(core: Core, g: Graph, prediction: Value, t: Value): Value {
  const table = (name: string) => g.input(name, [core.numTimesteps, 1, 1, 1])
  return g.timestepAffine(prediction, table('score.one'), t, g.input('gradient', prediction.dims), table('score'))
}

/** Algorithm 1 there: mean + Sigma * gradient. `variance`: what a learned variance is made of, or anything of x's dims. */
export function movedMean(
  g: Graph,
  mean: Value,
  { row, rows, variance }: { row: Value; rows: number; variance: Value },
): Value {
  const table = g.input('meanShift', [rows, 1, 1, varianceRowLength])
  return g.varianceNoise(mean, variance, table, row, g.input('gradient', mean.dims))
}
