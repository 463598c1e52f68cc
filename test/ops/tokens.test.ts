import { Random } from '../support/random'
import { normals } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

testOp(
  'concatTokens',
  awkwardShapes.map(([n, h, w, c]) => ({
    title: titleOf([n, h, w, c]),
    inputs: { a: normals(new Random(61), [n, 1, 2, c]), b: normals(new Random(62), [n, h, w, c]) },
    build: (g, v) => g.concatTokens(v.a, v.b),
    views: ['b'],
  })),
)

testOp(
  'sliceTokens',
  awkwardShapes.map((x) => {
    const [, h, w] = x
    const o = h * w === 1 ? { start: 0, height: 1, width: 1 } : { start: 1, height: 1, width: Math.ceil((h * w) / 2) }
    return {
      title: titleOf(x),
      inputs: { x: normals(new Random(63), x) },
      build: (g, v) => g.sliceTokens(v.x, o),
      views: ['x'],
    }
  }),
)

testOp(
  'reshape',
  awkwardShapes.map(([n, h, w, c]) => ({
    title: titleOf([n, h, w, c]),
    inputs: { x: normals(new Random(64), [n, h, w, c]) },
    build: (g, v) => g.reshape(v.x, [n * h, 1, c, w]),
    views: ['x'],
    mixed: true,
  })),
)
