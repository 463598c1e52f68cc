/** UniPC: Zhao et al. 2023, for x_0. */
import { type Prediction, startRow } from '../process/prediction'
import { type NoiseLevel, type SolverPoint, solverPoint } from './noise-levels'
import type { Evaluation } from './plan'

export interface UnipcOptions {
  readonly order: number
  readonly parameterization: Prediction
  /** B(h): h ('bh1') or e^h - 1 ('bh2', default). */
  readonly variant?: Variant
  /** The last step has order 1, the one before 2 at most (default). */
  readonly lowerOrderFinal?: boolean
  /** Steps, counted from 0, whose end is not corrected. */
  readonly uncorrected?: readonly number[]
  /** The sigma of the images; default 0. */
  readonly final?: number
}

type Variant = 'bh1' | 'bh2'

/**
 * Each evaluation first corrects the state that it was made at (UniC), then predicts the next one (UniP): two orders of accuracy
 * from one evaluation.
 */
export function unipcEvaluations(levels: readonly NoiseLevel[], o: UnipcOptions): Evaluation[] {
  const { variant = 'bh2', lowerOrderFinal = true, uncorrected = [], final = 0 } = o
  const points = [...levels.map(({ sigma }) => sigma), final].map(solverPoint)
  const orderOf = (i: number) => Math.min(o.order, i + 1, lowerOrderFinal ? levels.length - i : o.order)
  return levels.map(({ t }, i) => {
    const { alpha } = points[i]
    const prediction = startRow(o.parameterization, alpha ** 2)
    // The m of the corrector begin with the new prediction.
    const corrects = i > 0 && !uncorrected.includes(i - 1)
    const correct = corrects ? correction(points.slice(0, i + 1).reverse(), orderOf(i - 1), variant) : undefined
    if (i === levels.length - 1 && final === 0) return { t, alpha, prediction, correct, next: { state: 0, m: [1] } }
    return { t, alpha, prediction, correct, next: predictor(points.slice(0, i + 2).reverse(), orderOf(i), variant) }
  })
}

/** UniP: weights of the predictions at the points from the second on. */
function predictor(points: readonly SolverPoint[], order: number, variant: Variant): Evaluation['next'] {
  const { r, state, first, scale, b } = integral(points, order, variant)
  const rho = order === 2 ? [0.5] : solve(vandermonde(r.slice(0, -1)), b.slice(0, -1))
  return { state, m: weights(first, scale, rho, r) }
}

/** UniC: weights of the predictions at all points, of which the first is the one that is corrected. */
function correction(
  points: readonly SolverPoint[],
  order: number,
  variant: Variant,
): NonNullable<Evaluation['correct']> {
  const { r, state, first, scale, b } = integral(points, order, variant)
  const rho = order === 1 ? [0.5] : solve(vandermonde(r), b)
  const own = rho[order - 1]
  const m = weights(first, scale, rho.slice(0, -1), r)
  m[0] -= scale * own
  return { point: 0, base: state, m: [scale * own, ...m] }
}

/** first * m_0 + scale * sum_i rho_i (m_i - m_0) / r_i. */
function weights(first: number, scale: number, rho: readonly number[], r: readonly number[]): number[] {
  const m = [first]
  for (const [i, v] of rho.entries()) {
    m.push((scale * v) / r[i])
    m[0] -= (scale * v) / r[i]
  }
  return m
}

/** What predictor and corrector share: Zhao et al. 2023, eq. 3 and theorem 3.1. */
function integral(points: readonly SolverPoint[], order: number, variant: Variant) {
  const [to, from] = points
  const h = to.lambda - from.lambda
  const r = Array.from({ length: order - 1 }, (_, i) => (points[i + 2].lambda - from.lambda) / h)
  const first = Math.expm1(-h)
  const base = variant === 'bh1' ? -h : first
  const b: number[] = []
  let phi = first / -h - 1
  let factorial = 1
  for (let k = 1; k <= order; k++) {
    b.push((phi * factorial) / base)
    factorial *= k + 1
    phi = phi / -h - 1 / factorial
  }
  return { r: [...r, 1], state: to.sigma / from.sigma, first: -to.alpha * first, scale: -to.alpha * base, b }
}

/** Row k: the k-th powers. */
function vandermonde(r: readonly number[]): number[][] {
  return r.map((_, k) => r.map((v) => v ** k))
}

/** Gaussian elimination with pivots; at most 3 unknowns. */
function solve(matrix: number[][], right: readonly number[]): number[] {
  const n = right.length
  const rows = matrix.map((row, i) => [...row, right[i]])
  for (let k = 0; k < n; k++) {
    const pivot = rows.slice(k).reduce((best, row, i) => (Math.abs(row[k]) > Math.abs(rows[best][k]) ? k + i : best), k)
    ;[rows[k], rows[pivot]] = [rows[pivot], rows[k]]
    for (let i = k + 1; i < n; i++) {
      const factor = rows[i][k] / rows[k][k]
      for (let j = k; j <= n; j++) rows[i][j] -= factor * rows[k][j]
    }
  }
  const x = new Array<number>(n).fill(0)
  for (let i = n - 1; i >= 0; i--) {
    const rest = x.reduce((sum, v, j) => (j > i ? sum + rows[i][j] * v : sum), 0)
    x[i] = (rows[i][n] - rest) / rows[i][i]
  }
  return x
}
