import type { Dims } from '../../lib/native'
import { Random } from '../support/random'
import { integers, normals } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

const channels = ([n, h, w]: Dims, c: number): Dims => [n, h, w, c]
const perSample = ([n]: Dims, c: number): Dims => [n, 1, 1, c]

testOp(
  'add',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { a: normals(new Random(15), x), b: normals(new Random(16), x) },
    build: (g, v) => g.add(v.a, v.b),
    views: ['a', 'b'],
  })),
)

testOp('add', [
  {
    title: 'a value to itself: both gradients',
    inputs: { x: normals(new Random(15), [3, 5, 4, 6]) },
    build: (g, v) => g.add(v.x, v.x),
  },
])

testOp(
  'addSample',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { x: normals(new Random(17), x), e: normals(new Random(18), perSample(x, x[3])) },
    build: (g, v) => g.addSample(v.x, v.e),
    views: ['x', 'e'],
    mixed: true, // its gradient sums the pixels
  })),
)

/** A divisor for each sample, one for all, and integers. */
testOp(
  'divSample',
  awkwardShapes.flatMap((x) =>
    [
      { title: 'by floats', d: normals(new Random(26), perSample(x, 1), 0.5, 3) },
      { title: 'by one', d: normals(new Random(27), [1, 1, 1, 1], 0.5, 3) },
      { title: 'by integers', d: integers(new Random(28), perSample(x, 1), 1000) },
    ].map(({ title, d }) => ({
      title: `${titleOf(x)} ${title}`,
      inputs: { x: normals(new Random(19), x), d: { ...d, data: d.data.map((v) => v || 7) } },
      build: (g, v) => g.divSample(v.x, v.d),
      wrt: ['x'],
      views: ['x'],
    })),
  ),
)

testOp(
  'scaleShift',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { x: normals(new Random(19), x), e: normals(new Random(20), perSample(x, 2 * x[3])) },
    build: (g, v) => g.scaleShift(v.x, v.e),
    views: ['x', 'e'],
  })),
)

testOp(
  'concat',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: {
      a: normals(new Random(21), x),
      b: normals(new Random(22), channels(x, 3)),
      c: normals(new Random(23), channels(x, 1)),
    },
    build: (g, v) => g.concat([v.a, g.silu(v.b), v.c]),
  })),
)

testOp('concat', [
  {
    title: 'a value that is there twice, and in another concatenation',
    inputs: { a: normals(new Random(24), [2, 3, 3, 5]), b: normals(new Random(25), [2, 3, 3, 4]) },
    build: (g, v) => {
      const y = g.silu(v.a)
      return g.concat([g.concat([y, v.b]), y, g.concat([v.b, y])])
    },
  },
])

testOp(
  'slice',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { x: normals(new Random(26), channels(x, x[3] + 4)) },
    build: (g, v) => g.slice(v.x, { start: 3, count: x[3] }),
    views: ['x'],
  })),
)

testOp('slice', [
  {
    title: 'parts that overlap and leave a gap: their gradients are summed',
    inputs: { x: normals(new Random(27), [2, 3, 3, 9]) },
    build: (g, v) => g.concat([g.slice(v.x, { start: 0, count: 4 }), g.slice(v.x, { start: 2, count: 5 })]),
  },
])
