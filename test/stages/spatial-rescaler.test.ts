// SpatialRescaler against ldm's, and its gradients.
import assert from 'node:assert/strict'
import { resamplingMatrix, resamplingMethods } from '../../lib/nn/resampling'
import { Rescaler } from '../../lib/nn/rescaler'
import { SpatialRescaler, type SpatialRescalerOptions } from '../../lib/stages/spatial-rescaler'
import { Tensor } from '../../lib/tensor'
import { assertScaled } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { testDevice } from '../support/devices'
import { Random } from '../support/random'
import { normals, testedBackends } from '../support/run-graph'
import { testOp } from '../support/test-op'

interface Case {
  id: string
  rescaler: { n_stages?: number; method?: never; multiplier?: number; out_channels?: number; bias?: boolean }
}

for (const backend of testedBackends) {
  it(`SpatialRescaler on ${backend}: ldm's outputs, with each method`, async () => {
    const golden = await Golden.open('spatial_rescaler.safetensors')
    const { data, shape } = golden.tensors['in/x']
    const x = Tensor.from(data as Float32Array, shape)
    for (const { id, rescaler } of golden.config.cases as Case[]) {
      const { n_stages: nStages, out_channels: outChannels, ...o } = rescaler
      const options: SpatialRescalerOptions = { nStages, outChannels, ...o, device: backend }
      using stage = new SpatialRescaler(options)
      const prefix = `param/${id}/`
      const weights = golden.names(prefix).map((name) => {
        const tensor = golden.tensors[prefix + name]
        return [name, Tensor.from(tensor.data as Float32Array, tensor.shape)]
      })
      if (weights.length > 0) await stage.loadStateDict(Object.fromEntries(weights))
      using y = await stage.encode(x)
      assert.deepEqual(y.shape, golden.tensors[`out/${id}/out`].shape, id)
      assertScaled(await y.data(), golden.floats(`out/${id}/out`), 1e-5, 0, id)
    }
  })
}

testOp(
  'rescaler',
  resamplingMethods.map((method, i) => ({
    title: method,
    inputs: { x: normals(new Random(70 + i), [2, 7, 9, 3]) },
    build: (g, v) => new Rescaler({ method, multiplier: i % 2 ? 1.5 : 0.6 }).build(g, v.x),
  })),
)

describe('SpatialRescaler', () => {
  it('places pixels by the multiplier and not by the sizes', () => {
    // 0.3 * 7 = 2.1, so that two pixels are at 1.17 and 4.5 and not, as by 7 / 2, at 1.25 and 4.75.
    const matrix = resamplingMatrix('bilinear', 7, 0.3)
    assert.equal(matrix.length, 14)
    const near = (actual: number, expected: number) => assert.ok(Math.abs(actual - expected) < 1e-6, String(actual))
    near(matrix[1], 5 / 6)
    near(matrix[2], 1 / 6)
    near(matrix[7 + 4], 0.5)
    near(matrix[7 + 5], 0.5)
  })

  it('refuses images of other shapes, and those of which nothing is left', async () => {
    using stage = new SpatialRescaler({ device: testDevice })
    for (const x of [Tensor.randn([1, 4, 8, 8]), Tensor.randn([3, 8, 8]), new Float32Array(192)]) {
      await assert.rejects(stage.encode(x as Tensor), { code: 'invalid-argument', argument: 'x' })
    }
    const small = stage.encode(Tensor.randn([1, 3, 8, 1]))
    await assert.rejects(small, { code: 'invalid-argument', argument: 'multiplier' })
    for (const method of ['linear', 'trilinear']) {
      assert.throws(() => new SpatialRescaler({ method: method as never }), { argument: 'method' })
    }
  })
})
