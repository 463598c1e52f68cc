import assert from 'node:assert/strict'
import type { Graph } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { count, type Feed, normals, runGraph, testedBackends, type Values } from '../support/run-graph'
import { testOp, titleOf } from '../support/test-op'

/** q, map of k and v, heads. */
const shapes: readonly [q: Dims, keys: [number, number], heads: number][] = [
  [[1, 1, 1, 1], [1, 1], 1],
  [[3, 2, 3, 4], [2, 3], 2],
  [[1, 5, 3, 21], [1, 7], 3], // text is not as long as the image
  [[2, 1, 1, 6], [4, 5], 1],
  [[2, 8, 8, 32], [8, 8], 4],
  [[1, 9, 11, 40], [9, 11], 1],
  [[1, 12, 12, 72], [11, 13], 1], // more than a block of queries, of keys and of channels
]

/** Head dims and lengths about the tiles of the tensor cores' kernels: 64 tokens, 64 or 128 channels of a head. */
const mixedShapes: readonly [q: Dims, keys: [number, number], heads: number][] = [
  [[2, 8, 8, 32], [8, 9], 2],
  [[1, 5, 13, 64], [13, 10], 1],
  [[1, 3, 3, 72], [5, 8], 1],
  [[1, 1, 7, 136], [3, 11], 1],
  [[1, 2, 3, 297], [2, 5], 1],
]

testOp(
  'attention',
  shapes.map(([q, [h, w], heads]) => {
    const random = new Random(10)
    const kv: Dims = [q[0], h, w, q[3]]
    return {
      title: `${titleOf(q)}, ${h * w} keys, ${heads} heads`,
      inputs: { q: normals(random, q), k: normals(random, kv), value: normals(random, kv) },
      build: (g, v) => g.attention(v.q, v.k, v.value, { heads, scale: Math.sqrt(heads / q[3]) }),
      // A single key has all the weight, whatever it is.
      wrt: h * w > 1 ? undefined : ['value'],
      views: h * w > 1 ? ['q', 'k', 'value'] : undefined,
      mixed: true,
      roundsInside: true,
    }
  }),
)

testOp(
  'attention in 16 bits',
  mixedShapes.map(([q, [h, w], heads]) => {
    const random = new Random(20)
    const kv: Dims = [q[0], h, w, q[3]]
    return {
      title: `${titleOf(q)}, ${h * w} keys, ${heads} heads`,
      inputs: { q: normals(random, q), k: normals(random, kv), value: normals(random, kv) },
      build: (g, v) => g.attention(v.q, v.k, v.value, { heads, scale: Math.sqrt(heads / q[3]) }),
      mixed: true,
      roundsInside: true,
    }
  }),
)

testOp(
  'attentionQkv',
  (['heads-first', 'qkv-first'] as const).flatMap((order) =>
    shapes.map(([q, , heads]) => ({
      title: `${titleOf(q)}, ${heads} heads, ${order}`,
      inputs: { qkv: normals(new Random(11), [q[0], q[1], q[2], 3 * q[3]]) },
      build: (g, v) => g.attentionQkv(v.qkv, { heads, scale: Math.sqrt(heads / q[3]), order }),
      views: ['qkv'],
      mixed: true,
      roundsInside: true,
    })),
  ),
)

/** 0 and 1: of each query two thirds of the keys, of query 1 of the first sample none, and the last key for no query. */
function maskOf(dims: Dims): Feed {
  const [, h, w, keys] = dims
  const data = Float32Array.from({ length: count(dims) }, (_, i) => {
    const query = Math.floor(i / keys)
    if ((query === 1 && h * w > 1) || (i % keys === keys - 1 && keys > 1)) return 0
    return (query * 7 + (i % keys) * 5) % 3 === 0 ? 0 : 1
  })
  return { dims, data }
}

testOp(
  'attention with a mask',
  [...shapes, ...mixedShapes].map(([q, [h, w], heads], i) => {
    const random = new Random(30)
    const kv: Dims = [q[0], h, w, q[3]]
    return {
      title: `${titleOf(q)}, ${h * w} keys, ${heads} heads, a mask ${i % 2 ? 'for all' : 'for each sample'}`,
      inputs: {
        q: normals(random, q),
        k: normals(random, kv),
        value: normals(random, kv),
        mask: maskOf([i % 2 ? 1 : q[0], q[1], q[2], h * w]),
      },
      build: (g, v) => g.attention(v.q, v.k, v.value, { heads, scale: Math.sqrt(heads / q[3]), mask: v.mask }),
      wrt: h * w > 2 ? ['q', 'k', 'value'] : ['value'],
      views: h * w > 2 && i < 5 ? ['q', 'k', 'value'] : undefined,
      mixed: true,
      roundsInside: true,
    }
  }),
)

describe('attention with a causal mask', () => {
  for (const backend of testedBackends) {
    it(`on ${backend}: later tokens change nothing of earlier ones, to the bit`, async () => {
      const [length, channels] = [150, 8]
      const dims: Dims = [1, 1, length, channels]
      const mask = Float32Array.from({ length: length ** 2 }, (_, i) => (i % length <= i / length ? 1 : 0))
      const run = async (x: Feed) => {
        const feeds = { x, mask: { dims: [1, 1, length, length] as const, data: mask } }
        const build = (g: Graph, v: Values) => ({
          y: g.attention(v.x, v.x, v.x, { heads: 2, scale: 0.5, mask: v.mask }),
        })
        return (await runGraph(backend, feeds, build)).y
      }
      const x = normals(new Random(31), dims)
      const changed = { dims, data: (x.data as Float32Array).map((v, i) => (i < 70 * channels ? v : 3 - v)) }
      const [before, after] = [await run(x), await run(changed)]
      assertSameBits(after.subarray(0, 70 * channels), before.subarray(0, 70 * channels), 'the first 70 tokens')
      assert.notDeepEqual(after, before)
    })
  }
})

testOp('attention, far scores', [
  {
    title: 'scores beyond what exp can hold',
    inputs: { qkv: normals(new Random(12), [1, 4, 4, 24], 12) },
    build: (g, v) => g.attentionQkv(v.qkv, { heads: 1, scale: 1, order: 'heads-first' }),
    wrt: [], // one key has all the weight, and gradients are those of rounding
  },
])
