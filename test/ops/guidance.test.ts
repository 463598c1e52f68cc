import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { testOp, titleOf } from '../support/test-op'

const shapes = [[1, 1, 1, 1] as const, [3, 1, 1, 5] as const, [2, 1, 1, 3000] as const]

for (const amount of [0, 0.7, 1]) {
  testOp(
    `rescaleGuidance by ${amount}`,
    shapes.map((x) => ({
      title: titleOf(x),
      inputs: { x: normals(new Random(71), x, 3, 1), reference: normals(new Random(72), x, 0.5, -2) },
      build: (g, v) => g.rescaleGuidance(v.x, v.reference, { amount }),
      wrt: [],
      views: ['x', 'reference'],
    })),
  )
}

describe('rescaleGuidance', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`gives each sample the deviation of its own reference, and leaves one without any (${backend})`, async () => {
      const rows = (data: number[][]) => ({
        dims: [data.length, 1, 1, 4] as const,
        data: Float32Array.from(data.flat()),
      })
      const [even, flat] = [
        [-2, 2, -2, 2],
        [5, 5, 5, 5],
      ]
      const feeds = { x: rows([even, even, flat]), reference: rows([[0, 1, 0, 1], flat, even]) }
      const { y } = await runGraph(backend, feeds, (g, v) => ({
        y: g.rescaleGuidance(v.x, v.reference, { amount: 1 }),
      }))
      assertClose(y, [-0.5, 0.5, -0.5, 0.5, 0, 0, 0, 0, ...flat], { abs: 1e-6, rel: 1e-6 }, 'y')
    })
  }
})
