/** What distinguishes one sampler from another: where it evaluates the denoiser, and the coefficients of its steps. */
import { DiffusionError } from '../../errors'
import { type VarianceRow, varianceRowLength } from '../process/learned-variance'
import type { Row } from '../process/prediction'
import { roundToEven, type Schedule } from '../process/schedule'
import type { Settings, Threshold } from '../process/settings'
import { rowLength, tableRows } from '../process/step-tables'

export interface PlanContext {
  readonly schedule: Schedule
  readonly settings: Settings
}

/**
 * One evaluation of the denoiser at the point x, and where it leads. All coefficients are float64 and are rounded once.
 *
 *     m_0  = prediction[0]*x + prediction[1]*out, clipped where the plan says so
 *     s    = correct ? correct.point*x + correct.base*s' + sum_i correct.m[i]*m_i : x
 *     next = next.state*s + next.out*out + sum_i next.m[i]*m_i + next.noise*z
 *     x0   = start ? start.state*s + sum_i start.m[i]*m_i : m_0
 *
 * m_1, m_2, ... are the predictions of the evaluations before (those that forget are not counted), s' is the s of the last one.
 */
export interface Evaluation {
  /** What the denoiser is told: a timestep, or a number between two where the sampler's noise levels lie there. */
  readonly t: number
  /** sqrt(alpha_bar) of the point. Default: the timestep's. */
  readonly alpha?: number
  readonly prediction: Row
  /** The state is not the point itself. */
  readonly correct?: { readonly point: number; readonly base: number; readonly m: readonly number[] }
  readonly next: {
    readonly state: number
    readonly out?: number
    readonly m: readonly number[]
    readonly noise?: number
  }
  /** Where m_0 is not the prediction of x_0. */
  readonly start?: { readonly state: number; readonly m: readonly number[] }
  /** The noise has the variance that the network learned, by this row; see learned-variance.ts. next.noise only says if. */
  readonly variance?: VarianceRow
  /** Of a step of ancestral sampling: how much a classifier's gradient moves its mean, as a row of learned-variance.ts. */
  readonly meanShift?: VarianceRow
  /** Before it, noise is added to the state again, which becomes jump[0]*x + jump[1]*z. */
  readonly jump?: Row
  /** Of one step of several evaluations, not the last. */
  readonly partial?: boolean
  /** Later steps don't see m_0. */
  readonly forget?: boolean
}

export interface SamplingPlan {
  /** In the order of sampling. */
  readonly evaluations: readonly Evaluation[]
  /** Of all tables. */
  readonly rows: number
  /** The nearest timesteps, [rows]: which row each evaluation has of a table by timestep. */
  readonly timesteps: Int32Array
  /** Some evaluations lie between timesteps. */
  readonly fractional: boolean
  /** The coefficients of the fused step, a row for each evaluation; see step-tables.ts. */
  readonly table: Float32Array
  /** Rows of learned variances, where the steps have them. */
  readonly variance?: Float32Array
  /** Rows by which a classifier's gradient moves the means, where all steps have them. */
  readonly meanShift?: Float32Array
  /** The other coefficients, a column for each that is used, [tableRows] each; names as in `columnName`. */
  readonly columns: Readonly<Record<string, Float32Array>>
  /** How many earlier predictions the steps use. */
  readonly history: number
  readonly corrects: boolean
  /** x0 is a combination of its own. */
  readonly starts: boolean
  /** Clip m to [-1, 1]. */
  readonly clip: boolean
  /** Dynamic thresholding in place of the clipping, with clip. */
  readonly threshold?: Threshold
  /** What the user should know of it; see DiffusionModel.warnings. */
  readonly warnings?: readonly string[]
  /** False when all noise coefficients are zero: none is drawn then. */
  readonly noisy: boolean
}

/** What each evaluation tells, [rows]. */
export function timesTable({ evaluations, rows }: SamplingPlan): Float32Array {
  const table = new Float32Array(rows)
  table.set(evaluations.map(({ t }) => t))
  return table
}

/** `use`: correct, next or start; `of`: point, base, state, m0, m1, ... */
export function columnName(use: 'correct' | 'next' | 'start', of: string): string {
  return `${use}.${of}`
}

export function makePlan(
  evaluations: readonly Evaluation[],
  numTimesteps: number,
  o: { readonly clip: boolean; readonly threshold?: Threshold },
): SamplingPlan {
  const rows = Math.max(tableRows(numTimesteps), evaluations.length)
  const corrects = evaluations.some(({ correct }) => correct)
  const starts = evaluations.some(({ start }) => start)
  const used = (m: readonly number[] = []) => m.findLastIndex((v) => v !== 0)
  const history = Math.max(0, ...evaluations.flatMap((e) => [e.correct, e.next, e.start].map((part) => used(part?.m))))

  const table = new Float32Array(rows * rowLength)
  const columns: Record<string, Float32Array> = {}
  const set = (name: string, row: number, value: number) => {
    columns[name] ??= new Float32Array(rows)
    columns[name][row] = value
  }
  const setAll = (use: 'correct' | 'start' | 'next', row: number, m: readonly number[], from: number) => {
    for (let i = from; i <= history; i++) set(columnName(use, `m${i}`), row, m[i] ?? 0)
  }
  for (const [row, { prediction, correct, next, start }] of evaluations.entries()) {
    // With a corrector, x itself has no part in the step but through s.
    const state = corrects ? 0 : next.state
    table.set([...prediction, next.m[0] ?? 0, state, next.out ?? 0, next.noise ?? 0], row * rowLength)
    setAll('next', row, next.m, 1)
    if (corrects) {
      const { point, base, m } = correct ?? { point: 1, base: 0, m: [] }
      set(columnName('correct', 'point'), row, point)
      set(columnName('correct', 'base'), row, base)
      setAll('correct', row, m, 0)
      set(columnName('next', 'state'), row, next.state)
    }
    if (starts) {
      const { state: s, m } = start ?? { state: 0, m: [1] }
      set(columnName('start', 'state'), row, s)
      setAll('start', row, m, 0)
    }
  }
  if (!table.every(Number.isFinite) || !Object.values(columns).every((column) => column.every(Number.isFinite))) {
    const message = 'sampler: a step of it has no finite coefficients with this schedule (alpha_bar of 0 or 1)'
    throw new DiffusionError('invalid-argument', message, { argument: 'sampler' })
  }
  const varianceRows = (has: boolean) => (has ? new Float32Array(rows * varianceRowLength) : undefined)
  const variance = varianceRows(evaluations.some((e) => e.variance))
  const meanShift = varianceRows(evaluations.every((e) => e.meanShift))
  for (const [row, e] of evaluations.entries()) {
    variance?.set(e.variance ?? [], row * varianceRowLength)
    meanShift?.set(e.meanShift ?? [], row * varianceRowLength)
  }
  const timesteps = new Int32Array(rows)
  timesteps.set(evaluations.map(({ t }) => roundToEven(t)))
  const noisy = evaluations.some(({ next }) => (next.noise ?? 0) !== 0)
  return {
    evaluations,
    rows,
    timesteps,
    fractional: evaluations.some(({ t }) => !Number.isInteger(t)),
    table,
    variance,
    meanShift,
    columns,
    history,
    corrects,
    starts,
    noisy,
    ...o,
    clip: o.clip || o.threshold !== undefined,
  }
}
