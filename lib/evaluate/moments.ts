/** Mean and covariance of rows that come one after another, in float64. */

/** Of d features. */
export interface Moments {
  /** [d] */
  readonly mean: Float64Array
  /** [d, d], unbiased as numpy.cov: sums of squares divided by the number of rows less one. */
  readonly covariance: Float64Array
}

/** Rows that are added together, whatever the batches that they came in: sums depend on the order alone. */
const blockRows = 64

/**
 * Blocks are centred by their own mean and then joined, which loses nothing where means are far from 0: Chan, Golub, LeVeque 1983,
 * "Algorithms for computing the sample variance", eq. 2.1.
 */
export class RunningMoments {
  readonly #d: number
  readonly #mean: Float64Array
  /** Sums of products of what is left without the mean: the upper triangle. */
  readonly #scatter: Float64Array
  readonly #block: Float64Array
  #waiting = 0
  #count = 0

  constructor(features: number) {
    this.#d = features
    this.#mean = new Float64Array(features)
    this.#scatter = new Float64Array(features * features)
    this.#block = new Float64Array(blockRows * features)
  }

  /** [n, d], row by row. */
  add(rows: ArrayLike<number>): void {
    const d = this.#d
    for (let from = 0; from < rows.length; from += d) {
      for (let j = 0; j < d; j++) this.#block[this.#waiting * d + j] = rows[from + j]
      if (++this.#waiting === blockRows) this.#join()
    }
  }

  /** Of all rows so far; no covariance where there are fewer than two. */
  result(): Moments {
    if (this.#waiting > 0) this.#join()
    const d = this.#d
    const covariance = new Float64Array(d * d)
    for (let i = 0; i < d; i++) {
      for (let j = i; j < d; j++) {
        const v = this.#scatter[i * d + j] / (this.#count - 1)
        covariance[i * d + j] = v
        covariance[j * d + i] = v
      }
    }
    return { mean: this.#mean.slice(), covariance }
  }

  #join(): void {
    const d = this.#d
    const n = this.#waiting
    const block = this.#block
    const mean = new Float64Array(d)
    for (let r = 0; r < n; r++) for (let j = 0; j < d; j++) mean[j] += block[r * d + j] / n
    for (let r = 0; r < n; r++) for (let j = 0; j < d; j++) block[r * d + j] -= mean[j]
    const total = this.#count + n
    const shift = mean // the way from the mean so far
    for (let j = 0; j < d; j++) {
      shift[j] -= this.#mean[j]
      this.#mean[j] += (shift[j] * n) / total
    }
    addProducts(this.#scatter, block, n, d)
    addRow(this.#scatter, shift, (this.#count * n) / total, d)
    this.#count = total
    this.#waiting = 0
  }
}

/** S += X^T X of n rows, of the upper triangle; four rows at once, which saves reading and writing S. */
function addProducts(S: Float64Array, X: Float64Array, n: number, d: number): void {
  let r = 0
  for (; r + 4 <= n; r += 4) {
    const [b, c, e, f] = [r * d, (r + 1) * d, (r + 2) * d, (r + 3) * d]
    for (let i = 0; i < d; i++) {
      const [x, y, z, w] = [X[b + i], X[c + i], X[e + i], X[f + i]]
      const row = i * d
      for (let j = i; j < d; j++) S[row + j] += x * X[b + j] + y * X[c + j] + z * X[e + j] + w * X[f + j]
    }
  }
  for (; r < n; r++) addRow(S, X.subarray(r * d, (r + 1) * d), 1, d)
}

/** S += scale v v^T, of the upper triangle. */
function addRow(S: Float64Array, v: Float64Array, scale: number, d: number): void {
  for (let i = 0; i < d; i++) {
    const x = scale * v[i]
    for (let j = i; j < d; j++) S[i * d + j] += x * v[j]
  }
}
