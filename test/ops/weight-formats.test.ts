/** Convolutions and linear layers of weights that are held in 16 or 8 bits: the bits of the same weights held in float32. */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import { type Dims, type WeightFormat, weightFormats } from '../../lib/native'
import { formatBytes, type ParameterSlot } from '../../lib/parameter-slot'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { devicesOfFormat } from '../support/devices'
import { Random } from '../support/random'
import { count, type Feeds, normals, runGraph, winogradUpsample } from '../support/run-graph'
import { type Held, held } from '../support/weight-formats'

interface Layer {
  readonly x: Dims
  /** As in a state dict: [out, in, kh, kw]. */
  readonly weight: readonly [number, number, number, number]
  readonly algorithm?: number
  readonly upsample?: boolean
}

const layers: readonly Layer[] = [
  { x: [1, 1, 1, 1], weight: [1, 1, 1, 1] },
  { x: [2, 3, 5, 40], weight: [70, 40, 1, 1] },
  { x: [1, 24, 24, 33], weight: [48, 33, 1, 1] },
  { x: [2, 5, 7, 19], weight: [35, 19, 3, 3], algorithm: 0 },
  { x: [2, 9, 7, 19], weight: [35, 19, 3, 3], algorithm: 1 },
  { x: [2, 9, 7, 48], weight: [20, 48, 3, 3], algorithm: 2 },
  { x: [1, 24, 24, 16], weight: [16, 16, 3, 3], algorithm: 2 },
  { x: [1, 5, 4, 19], weight: [33, 19, 3, 3], algorithm: winogradUpsample, upsample: true },
]

/** The slot, and a bank that has nothing else but its scales behind it. */
function placed({ weight: [k, c, r, s] }: Layer, format: WeightFormat, weights: Held) {
  const units = Math.ceil((k * c * r * s * formatBytes[format]) / 64) * 16
  const bank = new Float32Array(units + (weights.scales?.length ?? 0))
  const { data } = weights
  new Uint8Array(bank.buffer).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  if (weights.scales) bank.set(weights.scales, units)
  const slot: ParameterSlot = { name: 'weight', shape: [k, c, r, s], offset: 0, format, frozen: true }
  return { bank, slot: weights.scales ? { ...slot, scales: units } : slot }
}

function build(layer: Layer, slot: ParameterSlot, backward: boolean) {
  const [, , r, s] = layer.weight
  return (g: Graph, v: Readonly<Record<string, Value>>): Record<string, Value> => {
    const padding = [r >> 1, s >> 1, r >> 1, s >> 1]
    const x = layer.upsample ? g.upsampleNearest(v.x, { factor: 2 }) : v.x
    const y = g.conv2d(x, g.parameter(slot), v.bias, { stride: 1, padding })
    if (!backward) return { y }
    const loss = g.loss(y, v.target, { type: 'l2' })
    return { y, dx: g.backward(g.weightedSum(loss, v.one), [v.x])[0]! }
  }
}

describe('weights in other formats', () => {
  for (const format of weightFormats.filter((name) => name !== 'fp32')) {
    for (const layer of layers) {
      const { x, weight, algorithm, upsample } = layer
      const title = `${format} [${weight}] of [${x}]${algorithm === undefined ? '' : `, algorithm ${algorithm}`}`
      const random = new Random(7)
      const [k, c, r, s] = weight
      const weights = held(format, random.normals(k * c * r * s, 0.1), k)
      const y: Dims = upsample ? [x[0], 2 * x[1], 2 * x[2], k] : [x[0], x[1], x[2], k]
      const feeds: Feeds = {
        x: normals(random, x),
        bias: normals(random, [1, 1, 1, k]),
        target: normals(random, y),
        one: { dims: [x[0], 1, 1, 1], data: new Float32Array(x[0]).fill(1 / x[0]) },
      }
      const narrow = placed(layer, format, weights)
      const wide = placed(layer, 'fp32', held('fp32', weights.values, k))
      const run = async (device: Parameters<typeof runGraph>[0], { slot, bank }: typeof wide, packedBytes?: number) => {
        const o = { deterministic: true, forceAlgo: algorithm, packedBytes, banks: { frozen: bank } }
        const { y, dx } = await runGraph(device, feeds, build(layer, slot, true), o)
        return { y, dx }
      }

      for (const device of devicesOfFormat(format)) {
        it(`${title} (${device})`, async () => {
          const expected = await run(device, wide)
          const outputs = [await run(device, narrow), await run(device, narrow, 0)]
          for (const output of outputs) {
            assertSameBits(output.y, expected.y, 'y')
            assertSameBits(output.dx, expected.dx, 'dx')
          }
          const reference = await run('reference', wide)
          assertCloseToScale(outputs[0].y, reference.y, 1e-5, 'y')
          assert.equal(outputs[0].y.length, count(y))
        })
      }
    }
  }

  const slot: ParameterSlot = { name: 'weight', shape: [4, 4], offset: 0, format: 'fp16' }
  const feeds: Feeds = { x: normals(new Random(1), [2, 1, 1, 4]), one: normals(new Random(1), [2, 1, 1, 1]) }
  const refused = (run: () => Promise<unknown>, expected: object) => async () => {
    await assert.rejects(run, expected)
  }
  it(
    'are not trained',
    refused(
      () =>
        runGraph('cpu', feeds, (g, v) => {
          const loss = g.loss(g.linear(v.x, g.parameter(slot)), v.x, { type: 'l2' })
          g.backward(g.weightedSum(loss, v.one))
          return { loss }
        }),
      { code: 'invalid-argument', argument: 'weights', received: 'f16' },
    ),
  )
  it(
    'are of layers alone',
    refused(
      () =>
        runGraph('cpu', feeds, (g, v) => ({
          y: g.layerNorm(v.x, g.parameter({ ...slot, shape: [4] }), v.x, { eps: 1 }),
        })),
      { code: 'invalid-argument', received: 'f16 weights' },
    ),
  )
})
