import assert from 'node:assert/strict'
import { Graph } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

testOp(
  'upsampleNearest',
  awkwardShapes.flatMap((x) =>
    [1, 2, 3].map((factor) => ({
      title: `${titleOf(x)} by ${factor}`,
      inputs: { x: normals(new Random(28), x) },
      build: (g, v) => g.upsampleNearest(v.x, { factor }),
      views: ['x'],
      mixed: factor === 2,
    })),
  ),
)

/** 7x5 by 2 and by 3 leave rows and columns that are dropped. */
const poolShapes: readonly [x: Dims, kernel: number][] = [
  [[1, 1, 1, 1], 1],
  [[3, 2, 2, 1], 2],
  [[1, 7, 5, 3], 2],
  [[3, 7, 5, 19], 3],
  [[2, 8, 8, 32], 2],
]

testOp(
  'avgPool',
  poolShapes.map(([x, kernel]) => ({
    title: `${titleOf(x)} by ${kernel}`,
    inputs: { x: normals(new Random(29), x) },
    build: (g, v) => g.avgPool(v.x, { kernel }),
    views: ['x'],
    mixed: true,
  })),
)

/** Shape, kernel, stride and [top, left, bottom, right]: as InceptionV3 has them, and what else is possible. */
const windows: readonly [x: Dims, kernel: number, stride: number, padding: readonly number[]][] = [
  [[1, 1, 1, 1], 1, 1, [0, 0, 0, 0]],
  [[3, 1, 1, 5], 3, 1, [1, 1, 1, 1]],
  [[2, 7, 9, 32], 3, 2, [0, 0, 0, 0]],
  [[2, 8, 8, 19], 3, 1, [1, 1, 1, 1]],
  [[1, 9, 11, 3], 4, 3, [2, 0, 1, 2]],
  [[3, 5, 4, 6], 2, 5, [1, 0, 0, 1]],
]

for (const op of ['maxPool', 'meanPool'] as const) {
  testOp(
    op,
    windows.map(([x, kernel, stride, padding]) => ({
      title: `${titleOf(x)}, ${kernel}x${kernel}, stride ${stride}, padding ${padding}`,
      inputs: { x: normals(new Random(32), x, 1, -3) }, // zeros of a padding would be the largest
      build: (g, v) => g[op](v.x, { kernel, stride, padding }),
      wrt: [],
      views: ['x'],
      mixed: true,
    })),
  )
}

const resizes: readonly [x: Dims, height: number, width: number][] = [
  [[1, 1, 1, 1], 1, 1],
  [[3, 1, 1, 5], 3, 2],
  [[2, 8, 8, 32], 8, 8],
  [[2, 5, 4, 3], 13, 9],
  [[1, 9, 11, 19], 4, 3],
  [[3, 7, 3, 6], 1, 30],
]

testOp(
  'resizeBilinear',
  resizes.map(([x, height, width]) => ({
    title: `${titleOf(x)} to ${height}x${width}`,
    inputs: { x: normals(new Random(33), x) },
    build: (g, v) => g.resizeBilinear(v.x, { height, width }),
    wrt: [],
    views: ['x'],
    mixed: true,
  })),
)

describe('pools and resizing', () => {
  const row = (...values: number[]) => ({ dims: [1, 1, values.length, 1] as const, data: Float32Array.from(values) })

  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`give what torch gives (${backend})`, async () => {
      const feeds = { x: row(-1, -2, -4, -8), holes: row(1, Number.NaN, 0, 2, Number.NEGATIVE_INFINITY) }
      const padding = [1, 1, 1, 1]
      const out = await runGraph(backend, feeds, (g, v) => ({
        most: g.maxPool(v.x, { kernel: 3, stride: 1, padding }),
        mean: g.meanPool(v.x, { kernel: 3, stride: 1, padding }),
        missing: g.maxPool(v.holes, { kernel: 3, stride: 1, padding }),
        wide: g.resizeBilinear(v.x, { height: 2, width: 6 }),
        narrow: g.resizeBilinear(v.x, { height: 1, width: 2 }),
      }))
      assert.deepEqual([...out.most], [-1, -1, -2, -4])
      assertCloseToScale(out.mean, [-1.5, -7 / 3, -14 / 3, -6], 1e-6, 'mean')
      assert.deepEqual([...out.missing], [Number.NaN, Number.NaN, Number.NaN, 2, 2])
      // At the places (q + 1/2) 4/6 - 1/2.
      const line = [-1, -1.5, -7 / 3, -11 / 3, -6, -8]
      assertCloseToScale(out.wide, [...line, ...line], 1e-6, 'wide')
      assertCloseToScale(out.narrow, [-1.5, -6], 1e-6, 'narrow')
    })
  }

  it('have no gradient, and say so', () => {
    for (const op of ['maxPool', 'meanPool', 'resizeBilinear'] as const) {
      const g = new Graph()
      const x = g.input('x', [1, 3, 3, 1])
      const y = g[op](x, { ...{ kernel: 3, stride: 1, padding: [0, 0, 0, 0] }, ...{ height: 1, width: 1 } })
      assert.throws(() => g.backward(y, [x]), { code: 'invalid-argument', message: new RegExp(op) })
    }
  })
})

/** Shape, taps, factors and [top, left, bottom, right]: as diffusers has them, and what else is possible. */
const filters: readonly [x: Dims, taps: readonly number[], up: number, down: number, padding: readonly number[]][] = [
  [[1, 1, 1, 1], [2], 1, 1, [0, 0, 0, 0]],
  [[2, 8, 8, 32], [0.125, 0.375, 0.375, 0.125], 1, 2, [1, 1, 1, 1]],
  [[2, 4, 4, 19], [0.25, 0.75, 0.75, 0.25], 2, 1, [2, 2, 1, 1]],
  [[3, 5, 4, 6], [1, -2, 3], 1, 2, [0, 1, 2, 0]],
  [[1, 7, 3, 1], [0.5, 2, 1, -1, 3], 3, 2, [4, 1, 0, 6]],
  [[3, 9, 11, 5], [1, 2], 2, 3, [-3, 0, 1, -2]],
  [[1, 1, 2, 4], [1, 2, 3, 4, 5, 6, 7, 8], 4, 4, [5, 5, 5, 5]],
]

testOp(
  'firResample',
  filters.map(([x, taps, up, down, padding]) => ({
    title: `${titleOf(x)}, ${taps.length} taps, up ${up}, down ${down}, padding ${padding}`,
    inputs: { x: normals(new Random(30), x) },
    build: (g, v) => g.firResample(v.x, { taps, up, down, padding }),
    views: ['x'],
    mixed: true,
  })),
)

describe('firResample', () => {
  it('with taps of one is repetition and averaging', async () => {
    const x = normals(new Random(31), [2, 4, 6, 3])
    const out = await runGraph('cpu', { x }, (g, v) => ({
      repeated: g.upsampleNearest(v.x, { factor: 2 }),
      up: g.firResample(v.x, { taps: [1, 1], up: 2, padding: [1, 1, 0, 0] }),
      averaged: g.avgPool(v.x, { kernel: 2 }),
      down: g.firResample(v.x, { taps: [0.5, 0.5], down: 2, padding: [0, 0, 0, 0] }),
    }))
    assert.deepEqual(out.up, out.repeated)
    assertCloseToScale(out.down, out.averaged, 1e-6, 'down')
  })
})
