// DiagonalGaussianDistribution against latent-diffusion's.
import assert from 'node:assert/strict'
import { DiagonalGaussianDistribution } from '../../lib/stages/gaussian'
import { Tensor } from '../../lib/tensor'
import { tensorOf } from '../nn/check-autoencoder'
import { assertScaled } from '../nn/check-golden'
import { Golden } from '../nn/golden'

describe('DiagonalGaussianDistribution', () => {
  let golden: Golden
  before(async () => {
    golden = await Golden.open('gaussian.safetensors')
  })

  for (const id of ['plain', 'wide', 'deterministic']) {
    it(`${id}: is PyTorch's`, async () => {
      const c = golden.config.cases.find((one: { id: string }) => one.id === id)
      const { deterministic } = c
      const of = (name: string) => DiagonalGaussianDistribution.from(tensorOf(golden, `in/${name}`), { deterministic })
      const posterior = await of(c.moments)
      const { mean, logvar, std, var: variance } = posterior
      const sample = tensorOf(golden, 'in/sample')
      const found: Record<string, Tensor> = {
        ...{ mean, logvar, std, var: variance, mode: posterior.mode(), kl: posterior.kl() },
        sample: await posterior.sample({ noise: tensorOf(golden, 'in/noise') }),
        nll: await posterior.nll(sample),
        ...(golden.has(`out/${id}/kl_other`) && { kl_other: posterior.kl(await of('other_moments')) }),
        ...(golden.has(`out/${id}/nll_dims_2_3`) && { nll_dims_2_3: await posterior.nll(sample, [2, 3]) }),
      }
      assert.deepEqual(Object.keys(found).sort(), golden.names(`out/${id}/`).sort())
      for (const [name, tensor] of Object.entries(found)) {
        const expected = tensorOf(golden, `out/${id}/${name}`)
        assert.deepEqual(tensor.shape, expected.shape, name)
        assertScaled(await tensor.data(), await expected.data(), 1e-5, 0, name)
      }
    })
  }

  it('draws sample i of a seed the same in any batch', async () => {
    const [n, size] = [3, 2 * 6 * 20]
    const moments = new Float32Array(n * size).map((_, i) => Math.sin(i))
    const all = await DiagonalGaussianDistribution.from(Tensor.from(moments, [n, 12, 4, 5]))
    const first = await DiagonalGaussianDistribution.from(Tensor.from(moments.subarray(0, size), [1, 12, 4, 5]))
    const [many, one] = [await all.sample({ seed: 9 }), await first.sample({ seed: 9 })]
    assert.deepEqual((await many.data()).slice(0, size / 2), await one.data())
    assert.notDeepEqual(await (await first.sample({ seed: 8 })).data(), await one.data())
    assert.deepEqual(await (await first.sample()).data(), await (await first.sample({ seed: 0 })).data())
  })

  it('says what is wrong with its input', async () => {
    const wrong = (shape: number[]) => DiagonalGaussianDistribution.from(Tensor.randn(shape))
    await assert.rejects(wrong([1, 3, 2, 2]), { code: 'invalid-argument', argument: 'parameters' })
    const posterior = await wrong([1, 4, 2, 2])
    const other = await wrong([1, 4, 2, 3])
    assert.throws(() => posterior.kl(other), { code: 'invalid-argument', argument: 'other' })
    await assert.rejects(posterior.nll(Tensor.randn([1, 2, 2, 3])), { code: 'invalid-argument', argument: 'sample' })
    await assert.rejects(posterior.nll(posterior.mode(), [4]), { code: 'invalid-argument', argument: 'dims' })
    await assert.rejects(posterior.sample({ noise: Tensor.randn([2]) }), {
      code: 'invalid-argument',
      argument: 'noise',
    })
  })
})
