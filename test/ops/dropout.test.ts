import assert from 'node:assert/strict'
import { assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

const rng = { dims: [1, 1, 1, 4] as const, data: Int32Array.of(123, -456, 7, 0) }

testOp(
  'dropout',
  awkwardShapes.flatMap((x) =>
    [0, 0.1, 0.5].map((p) => ({
      title: `${titleOf(x)}, p ${p}`,
      inputs: { x: normals(new Random(36), x, 1, 3), rng },
      build: (g, v) => g.dropout(v.x, v.rng, { p, layer: 2 }),
      views: p === 0.1 ? ['x'] : undefined,
      mixed: p === 0.1,
    })),
  ),
)

describe('dropout', () => {
  const x = { dims: [2, 16, 16, 33] as const, data: new Float32Array(2 * 16 * 16 * 33).fill(1) }

  for (const backend of testedBackends) {
    it(`keeps a share of 1 - p, and other elements for another step and layer (${backend})`, async () => {
      const run = async (step: number, layer: number) => {
        const feeds = { x, rng: { ...rng, data: Int32Array.of(1, 2, step, 0) } }
        return (await runGraph(backend, feeds, (g, v) => ({ y: g.dropout(v.x, v.rng, { p: 0.3, layer }) }))).y
      }
      const masks = [await run(0, 0), await run(1, 0), await run(0, 1)]
      const n = x.data.length
      const sigma = Math.sqrt(0.3 * 0.7 * n)
      for (const mask of masks) {
        const kept = mask.filter((value) => value !== 0)
        assert.ok(Math.abs(kept.length - 0.7 * n) < 4 * sigma, `${kept.length} of ${n} kept`)
        assert.ok(kept.every((value) => Math.abs(value - 1 / 0.7) < 1e-6))
      }
      for (const other of masks.slice(1)) {
        const both = other.filter((value, i) => value !== 0 && masks[0][i] !== 0).length
        assert.ok(Math.abs(both - 0.49 * n) < 4 * Math.sqrt(0.49 * 0.51 * n), `${both} of ${n} kept by both`)
      }
    })

    it(`has the reference's mask, bit for bit (${backend})`, async () => {
      const [a, b] = await Promise.all(
        ([backend, 'reference'] as const).map((name) =>
          runGraph(name, { x, rng }, (g, v) => ({ y: g.dropout(v.x, v.rng, { p: 0.25, layer: 0 }) })),
        ),
      )
      assertSameBits(a.y, b.y, 'y')
    })
  }
})
