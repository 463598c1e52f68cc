import type { Dims } from '../../lib/native'
import { Random } from '../support/random'
import { normals } from '../support/run-graph'
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
