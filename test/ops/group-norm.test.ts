import type { Graph, Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { Random } from '../support/random'
import { normals, type Values } from '../support/run-graph'
import { type OpCase, testOp, titleOf } from '../support/test-op'

const shapes: readonly [x: Dims, groups: number][] = [
  [[1, 3, 1, 1], 1],
  [[3, 1, 1, 6], 2],
  [[1, 7, 3, 2], 2], // one channel a group
  [[3, 5, 4, 6], 3],
  [[1, 9, 11, 38], 2],
  [[2, 8, 8, 64], 32],
  [[1, 4, 6, 96], 3], // of several vectors each
  [[3, 6, 5, 16], 4], // two in a vector of 16-bit numbers
  [[1, 32, 32, 24], 8],
]

/** What may follow the norm and is fused with it. */
const tails: Record<string, (g: Graph, y: Value, v: Values) => Value> = {
  norm: (_, y) => y,
  'norm, silu': (g, y) => g.silu(y),
  'norm, scale-shift, silu': (g, y, v) => g.silu(g.scaleShift(y, v.e)),
}

function normCase(x: Dims, groups: number, tail: string): OpCase {
  const random = new Random(6)
  const [n, , , c] = x
  const inputs = {
    x: normals(random, x, 2, 0.5),
    gamma: normals(random, [1, 1, 1, c], 0.2, 1),
    beta: normals(random, [1, 1, 1, c], 0.2),
  }
  return {
    title: `${titleOf(x)} in ${groups} groups: ${tail}`,
    inputs: tail.includes('shift') ? { ...inputs, e: normals(random, [n, 1, 1, 2 * c], 0.5) } : inputs,
    build: (g, v) => tails[tail](g, g.groupNorm(v.x, v.gamma, v.beta, { groups, eps: 1e-5 }), v),
    views: ['x'],
    mixed: x[1] * x[2] * c > 3, // upstream gradients of one sign would be the norm's null space
    tolerance: 2e-5,
  }
}

const random = new Random(8)

testOp('groupNorm', [
  ...shapes.flatMap(([x, groups]) => Object.keys(tails).map((tail) => normCase(x, groups, tail))),
  // Too much for a block's shared memory in f32, and in 16 bits not.
  normCase([1, 64, 64, 16], 2, 'norm, scale-shift, silu'),
  {
    ...normCase([1, 16, 16, 32], 4, 'norm'),
    title: 'a mean that is large beside the spread',
    inputs: {
      x: normals(random, [1, 16, 16, 32], 1, 100),
      gamma: normals(random, [1, 1, 1, 32]),
      beta: normals(random, [1, 1, 1, 32]),
    },
    views: undefined,
    mixed: false,
    tolerance: 1e-4,
  },
])
