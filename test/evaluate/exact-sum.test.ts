import assert from 'node:assert/strict'
import { ExactSum } from '../../lib/evaluate/exact-sum'
import { Random } from '../support/random'

/** A multiple of 2^-1074, the smallest step of float64. */
function exact(x: number): bigint {
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, x)
  const bits = view.getBigUint64(0)
  const exponent = (bits >> 52n) & 0x7ffn
  const fraction = bits & (2n ** 52n - 1n)
  const size = exponent === 0n ? fraction : (fraction + 2n ** 52n) << (exponent - 1n)
  return bits >> 63n ? -size : size
}

/** Whether no number of float64 is nearer to the sum, and of two the value is the even one. */
function isNearest(value: number, sum: bigint): boolean {
  const distance = (x: number) => (exact(x) > sum ? exact(x) - sum : sum - exact(x))
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, value)
  const bits = view.getBigUint64(0)
  return [bits - 1n, bits + 1n].every((other) => {
    view.setBigUint64(0, other)
    const neighbour = view.getFloat64(0)
    if (value === 0 || !Number.isFinite(neighbour)) return true
    return distance(value) < distance(neighbour) || (distance(value) === distance(neighbour) && bits % 2n === 0n)
  })
}

const sumOf = (terms: Iterable<number>) => {
  const sum = new ExactSum()
  for (const term of terms) sum.add(term)
  return sum
}

describe('ExactSum', () => {
  const random = new Random(3)
  const terms = (n: number, spread: number) =>
    [...random.normals(n)].map((x, i) => x * 2 ** (((i * 37) % (2 * spread + 1)) - spread))

  it('is the nearest number to the sum of all terms', () => {
    for (const spread of [0, 10, 60, 300]) {
      for (let i = 0; i < 50; i++) {
        const given = terms(1 + ((i * 7) % 40), spread)
        const value = sumOf(given).value
        assert.ok(
          isNearest(
            value,
            given.map(exact).reduce((a, b) => a + b),
          ),
          `${given}`,
        )
      }
    }
    assert.equal(sumOf([]).value, 0)
    assert.equal(sumOf([1e100, 1, -1e100]).value, 1)
    // Halfway between two numbers: to the even one, unless there is more.
    assert.equal(sumOf([1, 2 ** -53]).value, 1)
    assert.equal(sumOf([1, 2 ** -53, 2 ** -120]).value, 1 + 2 ** -52)
    assert.equal(sumOf([1 + 2 ** -52, 2 ** -53]).value, 1 + 2 ** -51)
    assert.equal(sumOf([1 + 2 ** -52, 2 ** -53, -(2 ** -120)]).value, 1 + 2 ** -52)
  })

  it('does not depend on order, nor on how terms are divided', () => {
    const given = terms(500, 30)
    const { value } = sumOf(given)
    assert.notEqual(
      given.reduce((a, b) => a + b),
      given.toReversed().reduce((a, b) => a + b),
    ) // as plain sums do
    assert.equal(sumOf(given.toReversed()).value, value)
    assert.equal(sumOf(given.toSorted((a, b) => a - b)).value, value)
    const parts = [given.slice(0, 7), given.slice(7, 300), given.slice(300)].map((some) => sumOf(some).parts)
    const again = JSON.parse(JSON.stringify(parts)) as number[][]
    assert.equal(new ExactSum(again.flat()).value, value)
    assert.equal(new ExactSum(again.toReversed().flat()).value, value)
  })

  it('is not finite where a term is not', () => {
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY])
      assert.ok(Number.isNaN(sumOf([1, wrong, 2, -wrong]).value))
  })
})
