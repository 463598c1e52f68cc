import { Random } from '../support/random'
import { normals } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

testOp(
  'layerNorm',
  awkwardShapes
    .filter(([, , , c]) => c > 1)
    .map((x) => {
      const random = new Random(9)
      return {
        title: titleOf(x),
        inputs: {
          x: normals(random, x, 2, 0.5),
          gamma: normals(random, [1, 1, 1, x[3]], 0.2, 1),
          beta: normals(random, [1, 1, 1, x[3]], 0.2),
        },
        build: (g, v) => g.layerNorm(v.x, v.gamma, v.beta, { eps: 1e-6 }),
        views: ['x'],
        mixed: true,
        tolerance: 2e-5,
      }
    }),
)
