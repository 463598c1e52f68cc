import type { Dims } from '../../lib/native'
import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

for (const op of ['silu', 'gelu', 'quickGelu', 'tanh'] as const) {
  testOp(
    op,
    awkwardShapes.map((x) => ({
      title: titleOf(x),
      inputs: { x: normals(new Random(13), x, 3) },
      build: (g, v) => g[op](v.x),
      views: ['x'],
      mixed: true,
    })),
  )
}

/** Not so near to 0 that finite differences cross it. */
const apartFromZero = (v: number) => v + 0.02 * Math.sign(v)

testOp(
  'relu',
  awkwardShapes.map((x) => {
    const { data } = normals(new Random(15), x, 3)
    return {
      title: titleOf(x),
      inputs: { x: { dims: x, data: data.map(apartFromZero) } },
      build: (g, v) => g.relu(v.x),
      views: ['x'],
      mixed: true,
    }
  }),
)

testOp(
  'geglu',
  awkwardShapes.map((y) => {
    const x: Dims = [y[0], y[1], y[2], 2 * y[3]]
    return {
      title: titleOf(x),
      inputs: { x: normals(new Random(14), x, 2) },
      build: (g, v) => g.geglu(v.x),
      views: ['x'],
      mixed: true,
    }
  }),
)

describe('activations far out', () => {
  const x = Float32Array.of(-1e30, -1000, -100, -90, -20, -1e-30, 0, 1e-30, 20, 90, 1000, 1e30)
  for (const backend of testedBackends) {
    for (const op of ['silu', 'gelu', 'quickGelu', 'relu', 'tanh'] as const) {
      it(`${op} on ${backend}`, async () => {
        const feeds = { x: { dims: [1, 1, 1, x.length] as const, data: x } }
        const { y } = await runGraph(backend, feeds, (g, v) => ({ y: g[op](v.x) }))
        const { y: expected } = await runGraph('reference', feeds, (g, v) => ({ y: g[op](v.x) }))
        assertClose(y, expected, { abs: 1e-8, rel: 1e-6 }, op)
      })
    }
  }
})
