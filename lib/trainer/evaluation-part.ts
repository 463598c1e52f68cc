/** What a shard adds to an evaluation. */
import { maxTotal, type Shard } from '../shard'

/** Exact sums over a shard's images: each is that of the numbers of a list. Arrays are by timestep. */
export interface EvaluationSums {
  readonly bitsPerDim: readonly number[]
  readonly priorBpd: readonly number[]
  readonly vb: readonly (readonly number[])[]
  readonly xstartMse: readonly (readonly number[])[]
  readonly mse: readonly (readonly number[])[]
}

/** What a shard adds to an evaluation: an object that JSON holds. */
export interface EvaluationPart {
  readonly shard: Shard
  /** Its first image. */
  readonly first: number
  readonly images: number
  readonly sums: EvaluationSums
}

/** Numbers of a sum at most: float64 has 2098 bits, 53 in each. */
const maxNumbers = 40

export function isEvaluationSums(value: unknown): value is EvaluationSums {
  const isSum = (v: unknown) => Array.isArray(v) && v.length <= maxNumbers && v.every(Number.isFinite)
  const { bitsPerDim, priorBpd, vb, xstartMse, mse } = (value ?? {}) as Partial<EvaluationSums>
  const T = vb?.length
  const isByTime = (v: unknown) => Array.isArray(v) && v.length === T && v.every(isSum)
  return [bitsPerDim, priorBpd].every(isSum) && [vb, xstartMse, mse].every(isByTime)
}

export function isEvaluationPart(value: unknown): value is EvaluationPart {
  const { shard, first, images, sums } = (value ?? {}) as Partial<EvaluationPart>
  const { index, total } = (shard ?? {}) as Partial<Shard>
  const numbers = [index, total, first, images]
  if (!numbers.every(Number.isSafeInteger) || !isEvaluationSums(sums)) return false
  return index! >= 1 && index! <= total! && total! <= maxTotal && first! >= 0 && images! >= 1
}
