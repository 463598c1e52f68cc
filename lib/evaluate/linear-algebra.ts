/**
 * What the Frechet distance needs of linear algebra, in float64 and row by row in memory. Libraries for JavaScript compute the vectors,
 * too, and go down columns: minutes for 2048 features, where this takes seconds.
 */
import { DiffusionError } from '../errors'

/** A = L L^T. */
export interface Factor {
  /** [n, rank] */
  readonly L: Float64Array
  readonly rank: number
}

/** How far below 0 a diagonal may be, beside the largest, that should not be: float32 of others rounds so. */
const rounding = 1e-4

/**
 * Of a symmetric positive semidefinite A [n, n], whatever its rank: Cholesky with the largest diagonal first (Higham 2002,
 * "Accuracy and stability of numerical algorithms", section 10.3), until what is left is rounding. Throws `invalid-argument` for a
 * matrix that is none.
 */
export function choleskyFactor(A: Float64Array, n: number): Factor {
  const F = new Float64Array(n * n)
  const order = Int32Array.from({ length: n }, (_, i) => i) // of A's columns; F's are in it until the end
  const left = Float64Array.from({ length: n }, (_, i) => A[i * n + i])
  const largest = left.reduce((a, b) => Math.max(a, b), 0)
  const limit = n * Number.EPSILON * largest
  let k = 0
  for (; k < n; k++) {
    let pivot = k
    for (let j = k + 1; j < n; j++) if (left[j] > left[pivot]) pivot = j
    if (!(left[pivot] > limit)) break
    if (pivot !== k) {
      for (const array of [order, left]) [array[k], array[pivot]] = [array[pivot], array[k]]
      for (let i = 0; i < k; i++) [F[i * n + k], F[i * n + pivot]] = [F[i * n + pivot], F[i * n + k]]
    }
    const row = k * n
    for (let j = k; j < n; j++) F[row + j] = A[order[k] * n + order[j]]
    subtractRows(F, k, n)
    const root = Math.sqrt(left[k])
    F[row + k] = root
    for (let j = k + 1; j < n; j++) {
      F[row + j] /= root
      left[j] -= F[row + j] ** 2
    }
  }
  if (left.subarray(k).some((v) => !(v >= -rounding * largest))) {
    throw new DiffusionError('invalid-argument', 'a covariance is not positive semidefinite, or not finite', {
      argument: 'covariance',
    })
  }
  const L = new Float64Array(n * k)
  for (let i = 0; i < k; i++) for (let j = i; j < n; j++) L[order[j] * k + i] = F[i * n + j]
  return { L, rank: k }
}

/** Row k of F, from column k on, less F[i, k] times row i of all i before it; four at once. */
function subtractRows(F: Float64Array, k: number, n: number): void {
  const row = k * n
  let i = 0
  for (; i + 4 <= k; i += 4) {
    const [p, q, r, s] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n]
    const [a, b, c, d] = [F[p + k], F[q + k], F[r + k], F[s + k]]
    for (let j = k; j < n; j++) F[row + j] -= a * F[p + j] + b * F[q + j] + c * F[r + j] + d * F[s + j]
  }
  for (; i < k; i++) {
    const a = F[i * n + k]
    for (let j = k; j < n; j++) F[row + j] -= a * F[i * n + j]
  }
}

/** Rows of B that stay in a cache while all of S is gone through. */
const blockRows = 64

/**
 * S [m, n] += A^T B of A [rows, m] and B [rows, n]; with `upper`, what is below the diagonal of S is left to be anything. Two rows of S
 * and four of B at a time: what is read is used more than once.
 */
export function addProduct(
  S: Float64Array,
  A: Float64Array,
  B: Float64Array,
  { rows, m, n, upper = false }: { rows: number; m: number; n: number; upper?: boolean },
): void {
  for (let begin = 0; begin < rows; begin += blockRows) {
    const end = Math.min(rows, begin + blockRows)
    for (let i = 0; i < m; i += 2) {
      const s = i * n
      const s2 = i + 1 < m ? s + n : s
      const second = i + 1 < m ? 1 : 0 // nothing is added twice where the last row is alone
      const from = upper ? i : 0
      let r = begin
      for (; r + 4 <= end; r += 4) {
        const [a, b] = [r * m + i, r * n]
        const [b1, b2, b3] = [b + n, b + 2 * n, b + 3 * n]
        const [x, x1, x2, x3] = [A[a], A[a + m], A[a + 2 * m], A[a + 3 * m]]
        if (second === 0) {
          for (let j = from; j < n; j++) S[s + j] += x * B[b + j] + x1 * B[b1 + j] + x2 * B[b2 + j] + x3 * B[b3 + j]
          continue
        }
        const [y, y1, y2, y3] = [A[a + 1], A[a + m + 1], A[a + 2 * m + 1], A[a + 3 * m + 1]]
        for (let j = from; j < n; j++) {
          const p = B[b + j]
          const q = B[b1 + j]
          const t = B[b2 + j]
          const u = B[b3 + j]
          S[s + j] += x * p + x1 * q + x2 * t + x3 * u
          S[s2 + j] += y * p + y1 * q + y2 * t + y3 * u
        }
      }
      for (; r < end; r++) {
        const b = r * n
        for (let k = 0; k <= second; k++) {
          const x = A[r * m + i + k]
          for (let j = from; j < n; j++) S[s + k * n + j] += x * B[b + j]
        }
      }
    }
  }
}

/**
 * The sum of the singular values of M [m, n], which is overwritten. They are the absolute eigenvalues of the symmetric tridiagonal
 * matrix of 0s with the bidiagonal form of M woven into its off-diagonal, each of them twice (Golub, Kahan 1965, section 3), so that
 * small ones are as exact as large ones: those of M^T M would have lost half of the digits.
 */
export function nuclearNorm(M: Float64Array, m: number, n: number): number {
  if (m < n) return nuclearNorm(transposed(M, m, n), n, m)
  if (n === 0) return 0
  const { diagonal, above } = bidiagonal(M, m, n)
  const size = 2 * n
  const beside = new Float64Array(size)
  for (let i = 0; i < n; i++) {
    beside[2 * i] = diagonal[i]
    beside[2 * i + 1] = i + 1 < n ? above[i] : 0
  }
  return eigenvalues(new Float64Array(size), beside).reduce((sum, v) => sum + Math.abs(v), 0) / 2
}

function transposed(M: Float64Array, m: number, n: number): Float64Array {
  const out = new Float64Array(M.length)
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) out[j * m + i] = M[i * n + j]
  return out
}

/**
 * Householder reflections from both sides, m >= n (Golub, Kahan 1965, section 2). Memory is what takes the time, so each row is
 * gone through once a step: it is reflected from both sides, and added to what the next step's reflection of the columns needs.
 */
function bidiagonal(M: Float64Array, m: number, n: number) {
  const diagonal = new Float64Array(n)
  const above = new Float64Array(n)
  const right = new Float64Array(n)
  const columns = new Float64Array(n) // the column's vector times the rows
  const next = new Float64Array(n) // sum of M[i, k] * row i over the rows i >= k
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) next[j] += M[i * n] * M[i * n + j]
  for (let k = 0; k < n; k++) {
    // from the left: column k becomes its norm
    const first = k * n
    let square = 0
    for (let i = k; i < m; i++) square += M[i * n + k] ** 2
    const x = M[first + k]
    const norm = x > 0 ? -Math.sqrt(square) : Math.sqrt(square)
    const v = x - norm // the vector's first; the others are the column's
    const left = square > 0 ? 1 / (square - x * norm) : 0 // 2 / |vector|^2
    diagonal[k] = norm
    for (let j = k + 1; j < n; j++) {
      columns[j] = left * (next[j] - norm * M[first + j])
      M[first + j] -= v * columns[j]
    }
    if (k + 1 === n) break
    // from the right: row k becomes its norm
    let rest = 0
    for (let j = k + 1; j < n; j++) {
      right[j] = M[first + j]
      rest += right[j] ** 2
    }
    const y = right[k + 1]
    const length = y > 0 ? -Math.sqrt(rest) : Math.sqrt(rest)
    const scale = rest > 0 ? 1 / (rest - y * length) : 0
    above[k] = length
    right[k + 1] = y - length
    next.fill(0)
    for (let i = k + 1; i < m; i += 2) reflect(M, i, Math.min(i + 1, m - 1), k, n, { columns, right, scale, next })
  }
  return { diagonal, above }
}

/** Two rows from column k + 1 on, or one of them, i = i2: see bidiagonal. */
function reflect(
  M: Float64Array,
  i: number,
  i2: number,
  k: number,
  n: number,
  o: {
    readonly columns: Float64Array
    readonly right: Float64Array
    readonly scale: number
    readonly next: Float64Array
  },
): void {
  const { columns, right, scale, next } = o
  const [row, row2] = [i * n, i2 * n]
  const [a, a2] = [M[row + k], M[row2 + k]]
  let [dot, dot2] = [0, 0]
  for (let j = k + 1; j < n; j++) {
    const c = columns[j]
    const v = M[row + j] - a * c
    const v2 = M[row2 + j] - a2 * c
    M[row + j] = v
    M[row2 + j] = v2
    dot += v * right[j]
    dot2 += v2 * right[j]
  }
  dot *= scale
  dot2 *= scale
  const first = right[k + 1]
  const b = M[row + k + 1] - dot * first
  const b2 = i2 > i ? M[row2 + k + 1] - dot2 * first : 0
  for (let j = k + 1; j < n; j++) {
    const v = M[row + j] - dot * right[j]
    const v2 = M[row2 + j] - dot2 * right[j]
    M[row + j] = v
    M[row2 + j] = v2
    next[j] += b * v + b2 * v2
  }
}

const maxSweeps = 60

/**
 * Of a symmetric tridiagonal matrix with `d` on its diagonal and `e` beside it, both overwritten: QL with implicit shifts
 * (Dubrulle, Martin, Wilkinson 1968). In no order.
 */
export function eigenvalues(d: Float64Array, e: Float64Array): Float64Array {
  const n = d.length
  e[n - 1] = 0
  for (let l = 0; l < n; l++) {
    for (let sweep = 0; ; sweep++) {
      let m = l
      while (m + 1 < n && Math.abs(e[m]) > Number.EPSILON * scaleAt(d, e, m)) m++
      if (m === l) break
      if (sweep === maxSweeps) throw new DiffusionError('internal', 'eigenvalues of a covariance do not converge')
      sweepOnce(d, e, l, m)
    }
  }
  return d
}

/** What an element beside the diagonal is compared with. With a diagonal of 0s that is its neighbours. */
function scaleAt(d: Float64Array, e: Float64Array, i: number): number {
  const around = Math.abs(d[i]) + Math.abs(d[i + 1])
  return around + (i > 0 ? Math.abs(e[i - 1]) : 0) + Math.abs(e[i + 1] ?? 0)
}

function sweepOnce(d: Float64Array, e: Float64Array, l: number, m: number): void {
  let g = (d[l + 1] - d[l]) / (2 * e[l])
  let r = Math.hypot(g, 1)
  g = d[m] - d[l] + e[l] / (g + (g < 0 ? -r : r))
  let [s, c, p] = [1, 1, 0]
  for (let i = m - 1; i >= l; i--) {
    const f = s * e[i]
    const b = c * e[i]
    r = Math.sqrt(f * f + g * g)
    e[i + 1] = r
    if (r === 0) {
      d[i + 1] -= p
      e[m] = 0
      return
    }
    s = f / r
    c = g / r
    g = d[i + 1] - p
    r = (d[i] - g) * s + 2 * c * b
    p = s * r
    d[i + 1] = g + p
    g = c * r - b
  }
  d[l] -= p
  e[l] = g
  e[m] = 0
}
