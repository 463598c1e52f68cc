/** Layers and attentions whose operands the CPU rounds to bf16: what test/ops/bf16.test.ts checks and bf16-outputs.ts hashes. */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { Random } from './random'
import { addInputs, compileGraph, count, directBf16, type Feed, type Feeds, normals } from './run-graph'
import { toBfloat16 } from './weight-formats'

export const forced = { precision: 'bf16', forceAlgo: directBf16 } as const

export const rounded = ({ dims, data }: Feed): Feed => ({ dims, data: Float32Array.from(data, toBfloat16) })

/** x, [out, kernel h, kernel w], stride, padding [top, left, bottom, right], upsampled. */
export type Layer = [
  x: Dims,
  out: number,
  kernel: [number, number],
  stride?: number,
  padding?: number[],
  upsample?: boolean,
]

export const layers: readonly Layer[] = [
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

export const titleOf = ([x, out, kernel, stride = 1, padding = [0, 0, 0, 0], upsample]: Layer) =>
  `${x.join('x')}${upsample ? ' upsampled' : ''} -> ${out}, ${kernel.join('x')}, stride ${stride}, padding ${padding}`

export function convolve(g: Graph, v: Readonly<Record<string, Value>>, weight: Value, layer: Layer): Value {
  const [, , , stride = 1, padding = [0, 0, 0, 0], upsample] = layer
  const x = upsample ? g.upsampleNearest(v.x, { factor: 2 }) : v.x
  return g.conv2d(x, weight, v.bias, { stride, padding })
}

/** Feeds of a layer, and of the gradient of its output: signs of an l1 loss by factors that bf16 has. */
export function feedsOf(layer: Layer): Feeds {
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
  return {
    ...operands,
    residual: normals(random, dims),
    sampleBias: normals(random, [n, 1, 1, c]),
    target: { dims, data: random.normals(count(dims)).map((z) => 1e4 * Math.sign(z)) },
    factors: { dims: [n, 1, 1, 2 * c] as Dims, data: factors },
    lossWeights: { dims: [n, 1, 1, 1] as Dims, data: new Float32Array(n).fill(count(dims) / n) },
  }
}

export function build(layer: Layer) {
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
export type Attended = [q: Dims, keys: [number, number], heads: number, masked?: boolean]

export const attended: readonly Attended[] = [
  [[1, 1, 1, 1], [1, 1], 1],
  [[3, 2, 3, 8], [2, 3], 2],
  [[2, 5, 7, 80], [7, 11], 2], // text
  [[1, 9, 11, 48], [9, 11], 1],
  [[1, 12, 13, 99], [12, 25], 3], // more than a block of keys, channels that are no pairs
  [[2, 3, 5, 24], [5, 29], 2, true],
]

export const scaleOf = ([q, , heads]: Attended): number => 2 * Math.sqrt(heads / q[3])

export function attentionFeeds([q, [h, w], , masked]: Attended): Feeds {
  const random = new Random(10)
  const kv: Dims = [q[0], h, w, q[3]]
  const mask = { dims: [1, q[1], q[2], h * w] as Dims, data: new Float32Array(q[1] * q[2] * h * w) }
  mask.data.forEach((_, i) => {
    mask.data[i] = i % (h * w) === 0 || random.integers(1, 3)[0] > 0 ? 1 : 0
  })
  return { q: normals(random, q), k: normals(random, kv), value: normals(random, kv), ...(masked && { mask }) }
}

export const buildAttention = (shape: Attended) => (g: Graph, v: Readonly<Record<string, Value>>) => ({
  y: g.attention(v.q, v.k, v.value, { heads: shape[2], scale: scaleOf(shape), mask: v.mask }),
})
