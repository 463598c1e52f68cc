/** How much of one set of features lies where the other does. */
import { invalidArgument } from '../errors'
import type { FeatureRows, Products } from './products'

export interface PrecisionRecall {
  /** Samples that lie within the reference. */
  readonly precision: number
  /** Of the reference, what lies within the samples. */
  readonly recall: number
}

/**
 * Improved precision and recall: a set is covered by balls around its members that reach to their k-th nearest neighbour in it
 * (Kynkaanniemi et al. 2019, eq. 1 and 2). Throws `invalid-argument` for sets that don't have that many.
 */
export async function precisionRecall(
  products: Products,
  samples: FeatureRows,
  reference: FeatureRows,
  { neighbours, signal }: { readonly neighbours: number; readonly signal?: AbortSignal },
): Promise<PrecisionRecall> {
  const count = Math.min(samples.count, reference.count)
  if (count <= neighbours)
    throw invalidArgument('samples', `more than ${neighbours} images on both sides for precision and recall`, count)
  const [own, other] = [squares(samples, products.d), squares(reference, products.d)]
  const radii = await radiiOf(products, samples, own, neighbours, signal)
  const otherRadii = await radiiOf(products, reference, other, neighbours, signal)
  const precise = new Uint8Array(samples.count)
  const recalled = new Uint8Array(reference.count)
  await products.forEach(
    samples,
    reference,
    (x0, y0, { values, rows, columns }) => {
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          const distance = own[x0 + i] + other[y0 + j] - 2 * values[i * columns + j]
          if (distance <= otherRadii[y0 + j]) precise[x0 + i] = 1
          if (distance <= radii[x0 + i]) recalled[y0 + j] = 1
        }
      }
    },
    signal,
  )
  const share = (hits: Uint8Array) => hits.reduce((a, b) => a + b, 0) / hits.length
  return { precision: share(precise), recall: share(recalled) }
}

/** Of each row the squared length. */
function squares({ values, count }: FeatureRows, d: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    let sum = 0
    for (let k = i * d; k < (i + 1) * d; k++) sum += values[k] ** 2
    return sum
  })
}

/** Of each row the squared distance to its k-th neighbour, itself left out. */
async function radiiOf(
  products: Products,
  X: FeatureRows,
  own: Float64Array,
  k: number,
  signal: AbortSignal | undefined,
): Promise<Float64Array> {
  const nearest = new Float64Array(X.count * k).fill(Number.POSITIVE_INFINITY) // ascending, k of each row
  await products.forEach(
    X,
    X,
    (x0, y0, { values, rows, columns }) => {
      for (let i = 0; i < rows; i++) {
        const row = x0 + i
        const last = (row + 1) * k - 1
        for (let j = 0; j < columns; j++) {
          const distance = own[row] + own[y0 + j] - 2 * values[i * columns + j]
          if (distance >= nearest[last] || y0 + j === row) continue
          let at = last
          for (; at > row * k && nearest[at - 1] > distance; at--) nearest[at] = nearest[at - 1]
          nearest[at] = distance
        }
      }
    },
    signal,
  )
  return Float64Array.from({ length: X.count }, (_, i) => nearest[(i + 1) * k - 1])
}
