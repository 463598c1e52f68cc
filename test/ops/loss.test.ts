import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

for (const type of ['l1', 'l2'] as const) {
  testOp(
    `loss ${type}`,
    awkwardShapes.map((x) => ({
      title: titleOf(x),
      // Apart from each other: finite differences must not step over the corner of |x|.
      inputs: { pred: normals(new Random(37), x, 0.3), truth: normals(new Random(38), x, 0.1, 2) },
      build: (g, v) => g.loss(v.pred, v.truth, { type }),
      views: ['pred'],
    })),
  )

  testOp(
    `elementLoss ${type}`,
    awkwardShapes.map((x) => ({
      title: titleOf(x),
      inputs: { pred: normals(new Random(37), x), truth: normals(new Random(38), x) },
      build: (g, v) => g.elementLoss(v.pred, v.truth, { type }),
      wrt: [],
    })),
  )
}

testOp(
  'weightedSum',
  [1, 3, 100].map((n) => ({
    title: `${n} samples`,
    inputs: { x: normals(new Random(39), [n, 1, 1, 1]), w: normals(new Random(40), [n, 1, 1, 1]) },
    build: (g, v) => g.weightedSum(v.x, v.w),
  })),
)

describe('loss', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`has the gradient 0 where the difference is 0 (l1 on ${backend})`, async () => {
      const row = (...data: number[]) => ({ dims: [1, 1, 1, data.length] as const, data: Float32Array.from(data) })
      const feeds = { pred: row(1, 2, 3, 4), target: row(1, 0, 5, 4), weight: row(8) }
      const { d } = await runGraph(backend, feeds, (g, v) => {
        const loss = g.weightedSum(g.loss(v.pred, v.target, { type: 'l1' }), v.weight)
        const [d] = g.backward(loss, [v.pred])
        return { d: d! }
      })
      assertClose(d, [0, 2, -2, 0], { abs: 0, rel: 0 }, 'gradient')
    })
  }
})
