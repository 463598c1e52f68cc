import type { Dims } from '../../lib/native'
import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

const twice = ([n, h, w, c]: Dims): Dims => [n, h, w, 2 * c]

testOp(
  'gaussianSample',
  awkwardShapes.map((y) => ({
    title: titleOf(y),
    inputs: { moments: normals(new Random(71), twice(y)), noise: normals(new Random(72), y) },
    build: (g, v) => g.gaussianSample(v.moments, v.noise),
    wrt: ['moments'],
    views: ['moments', 'noise'],
  })),
)

testOp(
  'gaussianKl',
  awkwardShapes.map((y) => ({
    title: titleOf(y),
    inputs: { moments: normals(new Random(73), twice(y)) },
    build: (g, v) => g.gaussianKl(v.moments),
    views: ['moments'],
  })),
)

/** Pixels and codes of c numbers, so many codes. */
const codebooks: readonly [z: Dims, codes: number][] = [
  [[1, 1, 1, 1], 1],
  [[3, 5, 4, 3], 7],
  [[1, 9, 11, 4], 300],
  [[2, 3, 3, 40], 33],
]

testOp(
  'nearestCode',
  codebooks.map(([z, codes]) => ({
    title: `${titleOf(z)} of ${codes}`,
    inputs: { z: normals(new Random(74), z), codebook: normals(new Random(75), [codes, 1, 1, z[3]]) },
    build: (g, v) => g.nearestCode(v.z, v.codebook).number,
    wrt: [],
    views: ['z'],
  })),
)

testOp(
  'straightThrough',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { x: normals(new Random(76), x) },
    // The gradient of x itself: y is x.
    build: (g, v) => g.straightThrough(g.add(v.x, g.straightThrough(g.silu(v.x))), v.x),
    wrt: [],
    views: ['x'],
  })),
)

for (const backend of ['reference' as const, ...testedBackends]) {
  describe(`latents on ${backend}`, () => {
    const row = (...data: number[]) => ({ dims: [1, 1, 1, data.length] as const, data: Float32Array.from(data) })

    it('log variances outside of [-30, 20] are clamped, and have no gradient', async () => {
      const feeds = { moments: row(1, 2, 3, -31, 21, 0), noise: row(1, 1, 1), one: row(1) }
      const { y, kl, dSample, dKl } = await runGraph(backend, feeds, (g, v) => {
        const y = g.gaussianSample(v.moments, v.noise)
        const kl = g.gaussianKl(v.moments)
        const zeros = g.affine(y, { scale: 0 })
        const [dSample] = g.backward(g.weightedSum(g.loss(y, zeros, { type: 'l1' }), v.one), [v.moments])
        const [dKl] = g.backward(g.weightedSum(kl, v.one), [v.moments])
        return { y, kl, dSample: dSample!, dKl: dKl! }
      })
      const tolerance = { abs: 1e-6, rel: 1e-6 }
      assertClose(y, [1 + Math.exp(-15), 2 + Math.exp(10), 4], tolerance, 'sample')
      const terms = [1 + Math.exp(-30) - 1 + 30, 4 + Math.exp(20) - 1 - 20, 9]
      assertClose(kl, [terms.reduce((sum, term) => sum + term / 2, 0)], tolerance, 'kl')
      assertClose(
        dSample,
        [1, 1, 1, 0, 0, 0.5].map((d) => d / 3),
        tolerance,
        'gradient of the sample',
      )
      assertClose(dKl, [1, 2, 3, 0, 0, 0], tolerance, 'gradient of the divergence')
    })

    it('of equally near codes the first is taken', async () => {
      const feeds = { z: row(0.5), codebook: { dims: [4, 1, 1, 1] as const, data: Float32Array.of(9, 1, 0, 1) } }
      const { y } = await runGraph(backend, feeds, (g, v) => ({ y: g.nearestCode(v.z, v.codebook).number }))
      assertClose(y, [1], { abs: 0, rel: 0 }, 'code')
    })

    it('a straight-through estimate is one value with the gradient of another', async () => {
      const feeds = { x: row(1, 2), through: row(7, 8), one: row(1) }
      const { y, dThrough } = await runGraph(backend, feeds, (g, v) => {
        const y = g.straightThrough(v.x, v.through)
        const loss = g.loss(y, g.straightThrough(g.affine(y, { scale: 0 })), { type: 'l2' })
        const [dX, dThrough] = g.backward(g.weightedSum(loss, v.one), [v.x, v.through])
        if (dX) throw new Error('x has a gradient')
        return { y, dThrough: dThrough! }
      })
      assertClose(y, [1, 2], { abs: 0, rel: 0 }, 'value')
      assertClose(dThrough, [1, 2], { abs: 1e-6, rel: 0 }, 'gradient')
    })
  })
}
