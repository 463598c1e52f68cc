import assert from 'node:assert/strict'
import type { Dims } from '../../lib/native'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph } from '../support/run-graph'
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
