/** The kernel distance of two sets of features. */
import { invalidArgument } from '../errors'
import type { Seed } from '../options'
import { below, Purpose, words } from '../rng'
import type { FeatureRows, Products } from './products'

/** Over subsets. */
export interface Spread {
  readonly mean: number
  /** Standard deviation, divided by their number. */
  readonly std: number
}

export interface KidOptions {
  readonly subsets: number
  /** Of each; where a set has less, all of it. */
  readonly subsetSize: number
  readonly seed: Seed
}

/** Streams of the seed (rng.ts), beside those of other uses. */
const subsetsOf = { samples: 8, reference: 9 }

/**
 * KID: the squared maximum mean discrepancy by the kernel (x.y / d + 1)^3, unbiased (Binkowski et al. 2018, section 3 and eq. 4), of
 * random subsets without replacement. Throws `invalid-argument` for sets of fewer than two.
 */
export async function kernelDistance(
  products: Products,
  samples: FeatureRows,
  reference: FeatureRows,
  { subsets, subsetSize, seed }: KidOptions,
  onSubset: (done: number) => unknown = () => {},
): Promise<Spread> {
  const m = Math.min(subsetSize, samples.count, reference.count)
  if (m < 2) throw invalidArgument('samples', 'at least two images on both sides for KID', m)
  const values: number[] = []
  for (let s = 0; s < subsets; s++) {
    const X = subset(samples, m, products.d, words(seed, Purpose.user, s, subsetsOf.samples, m))
    const Y = subset(reference, m, products.d, words(seed, Purpose.user, s, subsetsOf.reference, m))
    const [xx, yy, xy] = [
      await kernelSum(products, X, X, true),
      await kernelSum(products, Y, Y, true),
      await kernelSum(products, X, Y, false),
    ]
    values.push((xx + yy) / (m * (m - 1)) - (2 * xy) / (m * m))
    await onSubset(values.length)
  }
  return spread(values)
}

/** `m` rows of a set: the beginning of a shuffle by Fisher & Yates. */
function subset({ values, count }: FeatureRows, m: number, d: number, random: Uint32Array): FeatureRows {
  const order = Uint32Array.from({ length: count }, (_, i) => i)
  const out = new Float32Array(m * d)
  for (let i = 0; i < m; i++) {
    const j = i + below(random[i], count - i)
    const picked = order[j]
    order[j] = order[i]
    out.set(values.subarray(picked * d, (picked + 1) * d), i * d)
  }
  return { values: out, count: m }
}

async function kernelSum(products: Products, X: FeatureRows, Y: FeatureRows, withoutSelf: boolean): Promise<number> {
  let sum = 0
  await products.forEach(X, Y, (x0, y0, { values, rows, columns }) => {
    for (let i = 0; i < rows; i++) {
      const self = withoutSelf ? x0 + i - y0 : -1
      for (let j = 0; j < columns; j++) {
        const base = values[i * columns + j] / products.d + 1
        if (j !== self) sum += base * base * base
      }
    }
  })
  return sum
}

export function spread(values: readonly number[]): Spread {
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  return { mean, std: Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / values.length) }
}
