import assert from 'node:assert/strict'
import { assertClose, assertSameBits } from './compare'

describe('the comparer', () => {
  const tolerance = { abs: 0.1, rel: 0.01 }

  it('takes what is within abs + rel * |expected|', () => {
    assertClose([1, 100.9, 0.1], [1, 100, 0], tolerance, 'x')
  })

  it('names the worst element', () => {
    assert.throws(() => assertClose([1.2, 9, 0], [1, 5, 0], tolerance, 'x'), /x: \[1\] of 3 is 9, expected 5/)
  })

  it('fails on NaN, infinities and other lengths, and where the expected value is one', () => {
    assert.throws(() => assertClose([1, Number.NaN], [1, 2], tolerance, 'x'), /\[1\] is NaN/)
    assert.throws(() => assertClose([Number.POSITIVE_INFINITY], [1], tolerance, 'x'), /Infinity/)
    assert.throws(() => assertClose([Number.NaN], [Number.NaN], tolerance, 'x'), /expected value/)
    assert.throws(() => assertClose([1], [1, 2], tolerance, 'x'), /length/)
  })

  it('tells 0 from -0 where bits are asked for', () => {
    assertSameBits(Float32Array.of(1, Number.NaN), Float32Array.of(1, Number.NaN), 'x')
    assert.throws(() => assertSameBits(Float32Array.of(0), Float32Array.of(-0), 'x'), /\[0\]/)
  })
})
