import type { Dims } from '../../lib/native'
import { Random } from '../support/random'
import { normals } from '../support/run-graph'
import { testOp, titleOf } from '../support/test-op'

const shapes: readonly [x: Dims, out: number][] = [
  [[1, 1, 1, 1], 1],
  [[3, 1, 1, 5], 9],
  [[1, 1, 1, 128], 512],
  [[2, 1, 7, 33], 17], // tokens
  [[3, 4, 5, 64], 6],
]

testOp(
  'linear',
  shapes.flatMap(([x, out]) =>
    [true, false].map((withBias) => {
      const random = new Random(5)
      const inputs = { x: normals(random, x), weight: normals(random, [out, 1, 1, x[3]], 1 / Math.sqrt(x[3])) }
      return {
        title: `${titleOf(x)} -> ${out}${withBias ? '' : ', no bias'}`,
        inputs: withBias ? { ...inputs, bias: normals(random, [1, 1, 1, out]) } : inputs,
        build: (g, v) => g.linear(v.x, v.weight, v.bias),
        views: withBias ? ['x'] : undefined,
        mixed: true,
      }
    }),
  ),
)
