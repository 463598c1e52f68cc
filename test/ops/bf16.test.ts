/**
 * Products of operands that the CPU rounds to bf16 (ops.h, Precision): as of operands that were rounded before, with sums
 * in float32. Where this process has none, that they are refused; test/bf16-kernels.test.ts runs this file with each
 * implementation.
 */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { type Dims, type WeightFormat, weightFormats } from '../../lib/native'
import { formatBytes, type ParameterSlot } from '../../lib/parameter-slot'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import {
  addInputs,
  compileGraph,
  count,
  directBf16,
  type Feed,
  type Feeds,
  normals,
  runGraph,
} from '../support/run-graph'
import { held, toBfloat16 } from '../support/weight-formats'

/** Of sums in float32 of numbers that are exact, as in fp32. */
const tolerance = 1e-5

const forced = { precision: 'bf16', forceAlgo: directBf16 } as const

const rounded = ({ dims, data }: Feed): Feed => ({ dims, data: Float32Array.from(data, toBfloat16) })

/** x, [out, kernel h, kernel w], stride, padding [top, left, bottom, right], upsampled. */
type Layer = [x: Dims, out: number, kernel: [number, number], stride?: number, padding?: number[], upsample?: boolean]

const layers: readonly Layer[] = [
  [[1, 1, 1, 1], 1, [1, 1]],
  [[3, 1, 1, 70], 33, [1, 1]],
  [[2, 5, 7, 64], 40, [1, 1]],
  [[1, 32, 32, 33], 100, [1, 1]], // a chunk's input of each task
  [[2, 3, 3, 900], 48, [1, 1]], // a depth in parts
  [[2, 6, 7, 9], 18, [1, 1], 2],
  [[1, 4, 5, 6], 7, [1, 1], 1, [1, 1, 1, 1]],
  [[3, 5, 4, 6], 7, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 9, 11, 35], 65, [3, 3], 1, [1, 1, 1, 1]],
  [[2, 8, 6, 20], 24, [3, 3], 2, [1, 1, 1, 1]],
  [[3, 8, 8, 8], 8, [3, 3], 2, [0, 0, 1, 1]],
  [[1, 6, 7, 5], 3, [5, 2], 3, [2, 0, 1, 1]],
  [[1, 4, 4, 200], 40, [3, 3], 1, [1, 1, 1, 1]],
  [[2, 5, 3, 17], 20, [3, 3], 1, [1, 1, 1, 1], true],
]

const titleOf = ([x, out, kernel, stride = 1, padding = [0, 0, 0, 0], upsample]: Layer) =>
  `${x.join('x')}${upsample ? ' upsampled' : ''} -> ${out}, ${kernel.join('x')}, stride ${stride}, padding ${padding}`

function convolve(g: Graph, v: Readonly<Record<string, Value>>, weight: Value, layer: Layer): Value {
  const [, , , stride = 1, padding = [0, 0, 0, 0], upsample] = layer
  const x = upsample ? g.upsampleNearest(v.x, { factor: 2 }) : v.x
  return g.conv2d(x, weight, v.bias, { stride, padding })
}

/** Feeds of a layer, and of the gradient of its output: signs of an l1 loss by factors that bf16 has. */
function feedsOf(layer: Layer): { feeds: Feeds; dims: Dims } {
  const [x, out, [r, s]] = layer
  const random = new Random(11)
  const operands = {
    x: normals(random, x),
    weight: normals(random, [out, r, s, x[3]], 1 / Math.sqrt(r * s * x[3])),
    bias: normals(random, [1, 1, 1, out]),
  }
  let dims: Dims = [1, 1, 1, 1]
  compileGraph('cpu', (g) => {
    const v = addInputs(g, operands)
    const y = convolve(g, v, v.weight, layer)
    dims = y.dims
    return { y }
  }).release()
  const [n, , , c] = dims
  const factors = new Float32Array(2 * n * c)
  for (let i = 0; i < factors.length; i++) factors[i] = Math.fround(0.5 + random.integers(1, 192)[0] / 128 - 1)
  const feeds = {
    ...operands,
    residual: normals(random, dims),
    sampleBias: normals(random, [n, 1, 1, c]),
    target: { dims, data: random.normals(count(dims)).map((z) => 1e4 * Math.sign(z)) },
    factors: { dims: [n, 1, 1, 2 * c] as Dims, data: factors },
    lossWeights: { dims: [n, 1, 1, 1] as Dims, data: new Float32Array(n).fill(count(dims) / n) },
  }
  return { feeds, dims }
}

function build(layer: Layer) {
  return (g: Graph, v: Readonly<Record<string, Value>>): Record<string, Value> => {
    const y = convolve(g, v, v.weight, layer)
    const sum = g.add(g.addSample(convolve(g, v, v.weight, layer), v.sampleBias), v.residual)
    const loss = g.loss(g.scaleShift(y, v.factors), v.target, { type: 'l1' })
    const [dx] = g.backward(g.weightedSum(loss, v.lossWeights), [v.x])
    assert.ok(dx)
    return { y, sum, dx }
  }
}

/** q, map of k and v, heads, whether there is a mask. */
type Attended = [q: Dims, keys: [number, number], heads: number, masked?: boolean]

const attended: readonly Attended[] = [
  [[1, 1, 1, 1], [1, 1], 1],
  [[3, 2, 3, 8], [2, 3], 2],
  [[2, 5, 7, 80], [7, 11], 2], // text
  [[1, 9, 11, 48], [9, 11], 1],
  [[1, 12, 13, 99], [12, 25], 3], // more than a block of keys, channels that are no pairs
  [[2, 3, 5, 24], [5, 29], 2, true],
]

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
        const { feeds } = feedsOf(layer)
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
      const { feeds } = feedsOf(layer)
      const program = compileGraph('cpu', (g) => build(layer)(g, addInputs(g, feeds)), forced)
      assert.match(program.describe(), /^Conv2d directBf16 /m)
      assert.match(program.describe(), /^Conv2dDgrad directBf16 /m)
      program.release()
    })

    it('a sample is the same in any batch', async () => {
      const { feeds } = feedsOf(layer)
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
        const { feeds } = feedsOf(layer)
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
        const random = new Random(10)
        const kv: Dims = [q[0], h, w, q[3]]
        const scale = 2 * Math.sqrt(heads / q[3])
        const mask = { dims: [1, q[1], q[2], h * w] as Dims, data: new Float32Array(q[1] * q[2] * h * w) }
        mask.data.forEach((_, i) => {
          mask.data[i] = i % (h * w) === 0 || random.integers(1, 3)[0] > 0 ? 1 : 0
        })
        const feeds: Feeds = {
          q: normals(random, q),
          k: normals(random, kv),
          value: normals(random, kv),
          ...(masked && { mask }),
        }
        const graph = (g: Graph, v: Readonly<Record<string, Value>>) => ({
          y: g.attention(v.q, v.k, v.value, { heads, scale, mask: v.mask }),
        })
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
