import type { Dims } from '../../lib/native'
import { Random } from '../support/random'
import { normals } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

/** q, map of k and v, heads. */
const shapes: readonly [q: Dims, keys: [number, number], heads: number][] = [
  [[1, 1, 1, 2], [1, 3], 1],
  [[3, 2, 3, 4], [2, 3], 2],
  [[1, 5, 3, 21], [1, 7], 3],
  [[2, 8, 8, 32], [4, 17], 4], // as with memory before the pixels
  [[2, 9, 11, 40], [9, 11], 1], // more than a tile of channels and of tokens
]

testOp(
  'linearAttention',
  shapes.flatMap(([q, [h, w], heads]) =>
    [true, false].map((querySoftmax) => {
      const random = new Random(12)
      const kv: Dims = [q[0], h, w, q[3]]
      return {
        title: `${titleOf(q)}, ${h * w} keys, ${heads} heads${querySoftmax ? ', softmax of the queries' : ''}`,
        inputs: { q: normals(random, q), k: normals(random, kv, 2), value: normals(random, kv) },
        build: (g, v) => g.linearAttention(v.q, v.k, v.value, { heads, scale: Math.sqrt(heads / q[3]), querySoftmax }),
        views: ['q', 'k', 'value'],
        mixed: true,
        tolerance: 2e-5,
      }
    }),
  ),
)

testOp(
  'prependTokens',
  awkwardShapes.map((x, i) => {
    const random = new Random(13)
    return {
      title: titleOf(x),
      inputs: { x: normals(random, x), table: normals(random, [2, 1, 1, (1 + i) * x[3]]) },
      build: (g, v) => g.prependTokens(v.x, v.table, { row: i % 2 }),
      views: ['x'],
      mixed: true,
    }
  }),
)
