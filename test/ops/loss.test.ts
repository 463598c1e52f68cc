import { lossTypes } from '../../lib/graph'
import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

// What is smaller than this is squared, what is larger goes straight: both are among normal numbers.
const delta = 0.5

for (const type of lossTypes) {
  testOp(
    `loss ${type}`,
    awkwardShapes.map((x) => ({
      title: titleOf(x),
      // Apart from each other: finite differences must not step over the corner of |x|.
      inputs: { pred: normals(new Random(37), x, 0.3), truth: normals(new Random(38), x, 0.1, 2) },
      build: (g, v) => g.loss(v.pred, v.truth, { type, delta }),
      views: ['pred'],
    })),
  )

  testOp(
    `elementLoss ${type}`,
    awkwardShapes.map((x) => ({
      title: titleOf(x),
      inputs: { pred: normals(new Random(37), x), truth: normals(new Random(38), x) },
      build: (g, v) => g.elementLoss(v.pred, v.truth, { type, delta }),
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

testOp(
  'crossEntropy',
  [
    [1, 1],
    [3, 2],
    [5, 1000],
  ].map(([n, k]) => ({
    title: `${n} samples of ${k} classes`,
    inputs: {
      logits: normals(new Random(41), [n, 1, 1, k], 3),
      label: { dims: [n, 1, 1, 1], data: Int32Array.from({ length: n }, (_, i) => (i * 7) % k) },
    },
    build: (g, v) => g.crossEntropy(v.logits, v.label),
    views: ['logits'],
  })),
)

describe('crossEntropy', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`is -log softmax, without overflow (${backend})`, async () => {
      const feeds = {
        logits: { dims: [4, 1, 1, 2] as const, data: Float32Array.of(0, Math.log(3), 3e4, -3e4, 1, 2, 1, 2) },
        label: { dims: [4, 1, 1, 1] as const, data: Int32Array.of(1, 1, 0, 1) },
      }
      const { loss } = await runGraph(backend, feeds, (g, v) => ({
        loss: g.crossEntropy(v.logits, v.label),
      }))
      const far = Math.log(1 + Math.E)
      assertClose(loss, [Math.log(4 / 3), 6e4, far, far - 1], { abs: 1e-6, rel: 1e-6 }, 'loss')
    })
  }
})

describe('loss', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`is Huber's by its closed form (${backend})`, async () => {
      const d = [0, 0.25, -0.25, 0.5, -2, 3]
      const row = (data: number[]) => ({ dims: [1, 1, 1, data.length] as const, data: Float32Array.from(data) })
      const feeds = { pred: row(d), target: row(d.map(() => 0)), weight: row([d.length]) }
      const huber = d.map((v) => (Math.abs(v) < delta ? (v * v) / 2 : delta * (Math.abs(v) - delta / 2)))
      const slopes = d.map((v) => Math.min(Math.max(v, -delta), delta))
      const root = d.map((v) => Math.sqrt(v * v + delta * delta))
      const expected = {
        huber: { values: huber, slopes },
        smooth_l1: { values: huber.map((v) => v / delta), slopes: slopes.map((v) => v / delta) },
        pseudo_huber: {
          values: root.map((r) => 2 * delta * (r - delta)),
          slopes: d.map((v, i) => (2 * delta * v) / root[i]),
        },
      }
      for (const type of ['huber', 'smooth_l1', 'pseudo_huber'] as const) {
        const { values, slopes } = await runGraph(backend, feeds, (g, v) => {
          const loss = g.weightedSum(g.loss(v.pred, v.target, { type, delta }), v.weight)
          const [slopes] = g.backward(loss, [v.pred])
          return { values: g.elementLoss(v.pred, v.target, { type, delta }), slopes: slopes! }
        })
        assertClose(values, expected[type].values, { abs: 1e-7, rel: 1e-6 }, `${type}, values`)
        assertClose(slopes, expected[type].slopes, { abs: 1e-7, rel: 1e-6 }, `${type}, slopes`)
      }
    })

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
