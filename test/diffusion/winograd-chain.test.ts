// A sampling chain of the shipped model with Winograd convolution and without; bench/chain.ts has the long one.
import assert from 'node:assert/strict'
import { agreement, drawChain } from '../../bench/chain'

describe('a sampling chain of the shipped model', () => {
  const options = { batch: 2, steps: 20 }
  let direct: Float32Array
  before(async () => {
    direct = await drawChain(0, options)
  })

  const algorithms = [
    ['F(2x2, 3x3)', 1],
    ['F(4x4, 3x3)', 2],
    ['the chosen algorithms', undefined],
  ] as const
  for (const [name, algorithm] of algorithms) {
    it(`with ${name} differs from that with direct convolution by less than 1/255 in 99.9 % of the pixels`, async () => {
      const { share } = agreement(await drawChain(algorithm, options), direct)
      assert.ok(share >= 0.999, `${(100 * share).toFixed(2)} %`)
    })
  }
})
