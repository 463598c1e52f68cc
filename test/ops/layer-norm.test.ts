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

testOp(
  'rmsNorm',
  awkwardShapes.map((x) => {
    const random = new Random(11)
    return {
      title: titleOf(x),
      inputs: { x: normals(random, x, 2, 0.5), gamma: normals(random, [1, 1, 1, x[3]], 0.2, 1) },
      build: (g, v) => g.rmsNorm(v.x, v.gamma, { eps: 1e-12 }),
      // A single channel is its sign.
      wrt: x[3] > 1 ? undefined : ['gamma'],
      views: x[3] > 1 ? ['x'] : undefined,
      mixed: true,
      tolerance: 2e-5,
    }
  }),
)

testOp('rmsNorm of what is shorter than eps', [
  {
    title: 'is linear',
    inputs: { x: normals(new Random(12), [2, 3, 3, 5], 0.01), gamma: normals(new Random(13), [1, 1, 1, 5], 0.2, 1) },
    build: (g, v) => g.rmsNorm(v.x, v.gamma, { eps: 0.5 }),
  },
])
