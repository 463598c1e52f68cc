import assert from 'node:assert/strict'
import { EncoderUNet, type EncoderUNetOptions } from '../../lib/index'
import type { StateDict } from '../../lib/nn/parameters'
import { sizeOf, Tensor } from '../../lib/tensor'
import { testedBackends } from '../support/devices'
import { runGraph } from '../support/run-graph'
import { assertScaled, tolerance } from './check-golden'
import { Golden } from './golden'

/** Number i of a stream is a hash of the two, from -0.5 to 0.5: the fixture has no weights, but says how to make them. */
function hashed(stream: number, count: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    let x = (Math.imul(i + 1, 2654435761) + Math.imul(stream, 40503)) >>> 0
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d) >>> 0
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b) >>> 0
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32 - 0.5
  })
}

function weightsOf(encoder: EncoderUNet): StateDict {
  const entries = encoder.parameters.slots.map(({ name, shape }, i) => {
    const center = name.endsWith('weight') && shape.length === 1 ? 1 : 0
    const values = Float32Array.from(hashed(i, sizeOf(shape)), (v) => 0.4 * v + center)
    return [name, Tensor.from(values, [...shape])]
  })
  return Object.fromEntries(entries)
}

const camelCase = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())

const small = {
  ...{ imageSize: 8, inChannels: 1, modelChannels: 8, outChannels: 2, numResBlocks: 1, channelMult: [1, 2] },
  ...{ attentionResolutions: [], normGroups: 4 },
}

/** Each with its golden file. */
const pools = [
  ['adaptive', 'encoder_unet'],
  ['attention', 'encoder_unet'],
  ['spatial', 'encoder_unet_spatial'],
  ['spatial_v2', 'encoder_unet_spatial'],
] as const

describe('EncoderUNet', () => {
  for (const [pool, file] of pools) {
    for (const backend of testedBackends) {
      it(`is openaimodel's with the pool '${pool}': logits, loss, all gradients (${backend})`, async () => {
        const golden = await Golden.open(`${file}.safetensors`)
        const entries = Object.entries(golden.config[pool]).map(([name, value]) => [camelCase(name), value])
        const encoder = new EncoderUNet(Object.fromEntries(entries) as EncoderUNetOptions)
        const table = encoder.parameters
        const { flat } = await table.fromStateDict(weightsOf(encoder))
        const x = Float32Array.from(hashed(1000, 3 * 3 * 64), (v) => 4 * v)
        const feeds = {
          x: { dims: [3, 1, 1, 192] as const, data: x },
          t: { dims: [3, 1, 1, 1] as const, data: Int32Array.of(0, 17, 950) },
          y: { dims: [3, 1, 1, 1] as const, data: Int32Array.of(1, 6, 0) },
          mean: { dims: [3, 1, 1, 1] as const, data: new Float32Array(3).fill(1 / 3) },
        }
        const banks = { weights: flat, grads: new Float32Array(table.count) }
        const actual = await runGraph(
          backend,
          feeds,
          (graph, v) => {
            const images = graph.toNhwc(v.x, { channels: 3, height: 8, width: 8 })
            const out = encoder.build({ graph, train: false }, images, v.t)
            const loss = graph.weightedSum(graph.crossEntropy(out, v.y), v.mean)
            const [gradX] = graph.backward(loss, [v.x])
            return { out, loss, gradX: gradX! }
          },
          { banks },
        )
        const check = (values: Float32Array, name: string, scale: number, floor = 0) =>
          assertScaled(values, golden.floats(`${pool}/${name}`), scale, floor, name)
        check(actual.out, 'out', tolerance.out)
        check(actual.loss, 'loss', tolerance.loss)
        check(actual.gradX, 'grad_x', tolerance.gradient)
        const names = Object.entries(table.toStateDict(actual.grads))
        assert.equal(names.length, golden.names(`${pool}/grad/`).length)
        for (const [i, [name, tensor]] of names.entries()) {
          const gradient = await tensor.data()
          const direction = hashed(2000 + i, gradient.length)
          const norm = Math.sqrt(gradient.reduce((sum, v) => sum + v * v, 0))
          const product = gradient.reduce((sum, v, k) => sum + v * direction[k], 0)
          check(gradient.slice(0, 48), `grad/${name}`, tolerance.gradient, tolerance.gradientFloor)
          check(Float32Array.of(norm, product), `grad_sums/${name}`, tolerance.gradient, tolerance.gradientFloor)
        }
      })
    }
  }

  for (const [pool, file] of pools) {
    it(`its parameters with the pool '${pool}' have the names and order of the state_dict`, async () => {
      const golden = await Golden.open(`${file}.safetensors`)
      const entries = Object.entries(golden.config[pool]).map(([name, value]) => [camelCase(name), value])
      const { slots } = new EncoderUNet(Object.fromEntries(entries) as EncoderUNetOptions).parameters
      assert.deepEqual(
        slots.map(({ name }) => name),
        golden.names(`${pool}/grad/`),
      )
    })
  }

  it('refuses options that do not go together', () => {
    const refused = (o: object, argument: string) =>
      assert.throws(() => new EncoderUNet({ ...small, ...o } as EncoderUNetOptions), { argument })
    refused({ pool: 'attention' }, 'numHeadChannels')
    refused({ pool: 'attention', numHeadChannels: 5 }, 'numHeadChannels')
    refused({ imageSize: 9 }, 'imageSize')
    refused({ attentionResolutions: [8] }, 'attentionResolutions[0]')
    refused({ poool: 'attention' }, 'poool')
    assert.equal(new EncoderUNet({ ...small, pool: 'attention', numHeadChannels: 4 }).outChannels, 2)
  })
})
