/** The one comparer of numeric tests. */
import assert from 'node:assert/strict'

export interface Tolerance {
  /** |actual - expected| <= abs + rel * |expected| for every element. */
  abs: number
  rel: number
}

type Numbers = ArrayLike<number>

/** Fails on different lengths, on anything non-finite, and otherwise with the worst element. */
export function assertClose(actual: Numbers, expected: Numbers, { abs, rel }: Tolerance, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`)
  let worst = -1
  let worstRatio = 1
  for (let i = 0; i < expected.length; i++) {
    if (!Number.isFinite(expected[i])) assert.fail(`${what}: the expected value [${i}] is ${expected[i]}`)
    if (!Number.isFinite(actual[i])) assert.fail(`${what}: [${i}] is ${actual[i]}, expected ${expected[i]}`)
    const error = Math.abs(actual[i] - expected[i])
    const ratio = error === 0 ? 0 : error / (abs + rel * Math.abs(expected[i]))
    if (ratio > worstRatio) {
      worst = i
      worstRatio = ratio
    }
  }
  if (worst < 0) return
  const found = `[${worst}] of ${expected.length} is ${actual[worst]}, expected ${expected[worst]}`
  assert.fail(`${what}: ${found}, ${worstRatio.toPrecision(3)} times the tolerance (abs ${abs}, rel ${rel})`)
}

export function largestOf(values: Numbers): number {
  let largest = 0
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]))
  return largest
}

/** Tolerance in units of the tensor's largest value: what sums in float32 allow for. */
export function assertCloseToScale(actual: Numbers, expected: Numbers, tolerance: number, what: string): void {
  assertClose(actual, expected, { abs: tolerance * largestOf(expected), rel: tolerance }, what)
}

/** The same bits, NaN included. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`)
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length)
  const e = new Uint32Array(expected.buffer, expected.byteOffset, expected.length)
  const i = a.findIndex((bits, k) => bits !== e[k])
  if (i >= 0) assert.fail(`${what}: [${i}] is ${actual[i]}, expected exactly ${expected[i]}`)
}
