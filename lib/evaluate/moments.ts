/** Mean and covariance of rows that come one after another, in float64. */
import { addProduct } from './linear-algebra'

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
    addProduct(this.#scatter, block, block, { rows: n, m: d, n: d, upper: true })
    const weight = Math.sqrt((this.#count * n) / total)
    for (let j = 0; j < d; j++) shift[j] *= weight
    addProduct(this.#scatter, shift, shift, { rows: 1, m: d, n: d, upper: true })
    this.#count = total
    this.#waiting = 0
  }
}
