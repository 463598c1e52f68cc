/**
 * Products of operands that the CPU rounds to bf16 (ops.h, Precision): as of operands that were rounded before, with sums
 * in float32. Where this process has none, that they are refused; test/bf16-kernels.test.ts runs this file with each
 * implementation.
 */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { type WeightFormat, weightFormats } from '../../lib/native'
import { formatBytes, type ParameterSlot } from '../../lib/parameter-slot'
import {
  type Attended,
  attended,
  attentionFeeds,
  build,
  buildAttention,
  convolve,
  feedsOf,
  forced,
  type Layer,
  layers,
  rounded,
  scaleOf,
  titleOf,
} from '../support/bf16-cases'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { addInputs, compileGraph, count, type Feed, type Feeds, runGraph } from '../support/run-graph'
import { held, toBfloat16 } from '../support/weight-formats'

/** Of sums in float32 of numbers that are exact, as in fp32. */
const tolerance = 1e-5

/** softmax(scale q k) v of the rounded operands in float64, and what the numerators' rounding may change: half a unit of each. */
function attend([q, keys, heads]: Attended, feeds: Feeds, scale: number): { y: Float64Array; slack: Float64Array } {
  const [n, h, w, c] = q
  const [queries, count, dim] = [h * w, keys[0] * keys[1], c / heads]
  const factor = Math.fround(Math.fround(scale) * Math.fround(Math.LOG2E))
  const scaled = Float32Array.from(feeds.q.data, (x) => toBfloat16(Math.fround(x * factor)))
  const [k, v] = [rounded(feeds.k).data, rounded(feeds.value).data]
  const [y, slack] = [new Float64Array(n * queries * c), new Float64Array(n * queries * c)]
  for (let i = 0; i < n * queries; i++) {
    const sample = Math.floor(i / queries)
    for (let head = 0; head < heads; head++) {
      const rowOf = (key: number) => (sample * count + key) * c + head * dim
      const weights = Float64Array.from({ length: count }, (_, key) => {
        if (feeds.mask?.data[(i % (feeds.mask.data.length / count)) * count + key] === 0) return 0
        let score = 0
        for (let j = 0; j < dim; j++) score += scaled[i * c + head * dim + j] * k[rowOf(key) + j]
        return 2 ** score
      })
      const total = weights.reduce((a, b) => a + b, 0)
      for (let j = 0; j < dim; j++) {
        const at = i * c + head * dim + j
        for (let key = 0; key < count; key++) {
          const term = (weights[key] / total) * v[rowOf(key) + j]
          y[at] += term
          slack[at] += Math.abs(term) * 2 ** -8
        }
      }
    }
  }
  return { y, slack }
}

const info = Device.open('cpu').info()

if (!info.bf16) {
  describe('products of bf16', () => {
    it('are refused by this processor, and the error says what it lacks', () => {
      assert.ok(!info.precisions.includes('bf16'))
      const compile = () => compileGraph('cpu', (g) => ({ y: g.silu(g.input('x', [1, 1, 1, 1])) }), forced).release()
      assert.throws(compile, {
        code: 'unsupported',
        argument: 'precision',
        received: "'bf16'",
        message: /which needs /,
      })
      assert.throws(() => Device.open('cpu').checkPrecision('bf16'), {
        code: 'unsupported',
        argument: 'precision',
        received: 'bf16',
        message: /which needs /,
      })
    })
  })
} else {
  describe(`products of bf16, ${info.bf16}`, () => {
    for (const layer of layers) {
      it(titleOf(layer), async () => {
        const feeds = feedsOf(layer)
        const exact = { ...feeds, x: rounded(feeds.x), weight: rounded(feeds.weight) }
        const expected = await runGraph('reference', exact, build(layer))
        const actual = await runGraph('cpu', exact, build(layer), forced)
        for (const name of ['y', 'sum', 'dx']) assertCloseToScale(actual[name], expected[name], tolerance, name)
        const others = {
          'operands that it rounds': await runGraph('cpu', feeds, build(layer), forced),
          'one thread': await runGraph('cpu', feeds, build(layer), { ...forced, threads: 1 }),
          'three threads': await runGraph('cpu', feeds, build(layer), { ...forced, threads: 3 }),
        }
        for (const [how, outputs] of Object.entries(others))
          for (const name of ['y', 'sum', 'dx']) assertSameBits(outputs[name], actual[name], `${name}, ${how}`)
      })
    }

    const layer: Layer = [[3, 6, 5, 24], 40, [3, 3], 1, [1, 1, 1, 1]]

    it('are what the plan says', () => {
      const feeds = feedsOf(layer)
      const program = compileGraph('cpu', (g) => build(layer)(g, addInputs(g, feeds)), forced)
      assert.match(program.describe(), /^Conv2d directBf16 /m)
      assert.match(program.describe(), /^Conv2dDgrad directBf16 /m)
      program.release()
    })

    it('a sample is the same in any batch', async () => {
      const feeds = feedsOf(layer)
      const part = (name: string): Feed => {
        const { dims, data } = feeds[name]
        return { dims: [1, dims[1], dims[2], dims[3]], data: data.slice((2 * data.length) / 3) }
      }
      const graph = (g: Graph, v: Readonly<Record<string, Value>>) => ({ y: convolve(g, v, v.weight, layer) })
      const all = await runGraph('cpu', feeds, graph, forced)
      const one = await runGraph('cpu', { ...feeds, x: part('x') }, graph, forced)
      assertSameBits(one.y, all.y.subarray((2 * all.y.length) / 3), 'the third')
    })

    for (const format of weightFormats) {
      it(`weights in ${format}, kept packed or not`, async () => {
        const [x, k, [r, s]] = layer
        const c = x[3]
        const weights = held(format as WeightFormat, new Random(7).normals(k * c * r * s, 0.1), k)
        const units = Math.ceil((k * c * r * s * formatBytes[format]) / 64) * 16
        const bank = new Float32Array(units + (weights.scales?.length ?? 0))
        const { data } = weights
        new Uint8Array(bank.buffer).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
        if (weights.scales) bank.set(weights.scales, units)
        const slot: ParameterSlot = { name: 'weight', shape: [k, c, r, s], offset: 0, format, frozen: true }
        const whole = weights.scales ? { ...slot, scales: units } : slot
        const feeds = feedsOf(layer)
        // Banks have [out, kernel h, kernel w, in], as feeds do.
        const same: Feeds = { ...feeds, weight: { dims: [k, r, s, c], data: weights.values } }
        const expected = await runGraph('cpu', same, build(layer), forced)
        for (const packedBytes of [0, undefined]) {
          const outputs = await runGraph(
            'cpu',
            feeds,
            (g, v) => build(layer)(g, { ...v, weight: g.parameter(whole) }),
            { ...forced, packedBytes, banks: { frozen: bank } },
          )
          for (const name of ['y', 'dx']) assertSameBits(outputs[name], expected[name], name)
        }
      })
    }

    it('numbers are rounded to nearest even, NaN and infinities stay, those below 2^-126 are zeros', async () => {
      const numbers = [1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8 - 2 ** -20, 3.4e38, 2 ** -127, -(2 ** -130)]
      const expected = [1, 1 + 2 ** -6, -1 - 2 ** -7, Number.POSITIVE_INFINITY, 0, 0]
      const special = [Number.NaN, Number.NEGATIVE_INFINITY]
      const data = Float32Array.from([...numbers, ...special])
      const one: Feed = { dims: [1, 1, 1, 1], data: Float32Array.of(1) }
      const graph = (g: Graph, v: Readonly<Record<string, Value>>) => ({ y: g.linear(v.x, v.weight) })
      const column: Feed = { dims: [data.length, 1, 1, 1], data }
      const ofInput = (await runGraph('cpu', { x: column, weight: one }, graph, forced)).y
      const ofWeights = (await runGraph('cpu', { x: one, weight: column }, graph, forced)).y
      for (const y of [ofInput, ofWeights])
        assert.deepEqual(
          [...y].map((z) => z + 0),
          [...expected, ...special],
        )
    })

    for (const shape of attended) {
      const [q, [h, w], heads, masked] = shape
      it(`attention of ${q.join('x')} to ${h * w} keys, ${heads} heads${masked ? ', masked' : ''}`, async () => {
        const [feeds, graph, scale] = [attentionFeeds(shape), buildAttention(shape), scaleOf(shape)]
        const { y } = await runGraph('cpu', feeds, graph, forced)
        const expected = attend(shape, feeds, scale)
        const largest = expected.y.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        y.forEach((x, i) => {
          const allowed = expected.slack[i] + tolerance * largest
          assert.ok(Math.abs(x - expected.y[i]) <= allowed, `y[${i}] is ${x}, not ${expected.y[i]} +- ${allowed}`)
        })
        // Numerators of 1 are exact.
        const alike = { ...feeds, q: { dims: q, data: new Float32Array(count(q)) } }
        const mean = attend(shape, alike, scale)
        assertCloseToScale(
          (await runGraph('cpu', alike, graph, forced)).y,
          Float32Array.from(mean.y),
          tolerance,
          'mean',
        )
        for (const [how, same, o] of [
          ['operands that were rounded', { ...feeds, k: rounded(feeds.k), value: rounded(feeds.value) }, {}],
          ['one thread', feeds, { threads: 1 }],
          ['three threads', feeds, { threads: 3 }],
        ] as const)
          assertSameBits((await runGraph('cpu', same, graph, { ...forced, ...o })).y, y, how)
      })
    }
  })
}
