import assert from 'node:assert/strict'
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

for (const ratio of [0, 0.37, 0.995, 1]) {
  testOp(
    `absQuantile of ${ratio}`,
    [...shapes, [2, 1, 1, 257] as const].map((x) => ({
      title: titleOf(x),
      inputs: { x: normals(new Random(73), x, 3, 1) },
      build: (g, v) => g.absQuantile(v.x, { ratio, least: 0, most: 100 }),
      wrt: [],
      views: ['x'],
    })),
  )
}

describe('absQuantile', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    const quantile = async (samples: number[][], o: { ratio: number; least?: number; most?: number }) => {
      const x = { dims: [samples.length, 1, 1, samples[0].length] as const, data: Float32Array.from(samples.flat()) }
      const { y } = await runGraph(backend, { x }, (g, v) => ({ y: g.absQuantile(v.x, { least: 0, most: 9, ...o }) }))
      return [...y]
    }

    it(`is on the line between two values, as torch.quantile has it, within its bounds (${backend})`, async () => {
      const x = [-4, 1, 2, -3, 0]
      assert.deepEqual(await quantile([x, [7, 0, 0, 0, 0]], { ratio: 0.5 }), [2, 0])
      assertClose(await quantile([x], { ratio: 0.9 }), [3.6], { abs: 1e-6, rel: 1e-6 }, 'y')
      assert.deepEqual(await quantile([x], { ratio: 1 }), [4])
      assert.deepEqual(await quantile([x], { ratio: 1, most: 2.5 }), [2.5])
      assert.deepEqual(await quantile([x], { ratio: 0.1, least: 1 }), [1])
      assert.deepEqual(await quantile([[-7]], { ratio: 0.3 }), [7])
    })

    it(`takes equal values, the smallest numbers and what is not finite in their order (${backend})`, async () => {
      const tiny = 2 ** -149
      assert.deepEqual(await quantile([[2, -2, 2, -2]], { ratio: 0.4 }), [2])
      assert.deepEqual(await quantile([[0, -tiny, 1]], { ratio: 0.5 }), [tiny])
      assert.deepEqual(await quantile([[-Infinity, 3, NaN]], { ratio: 0 }), [3])
      assert.deepEqual(await quantile([[-Infinity, 3, NaN]], { ratio: 0.5 }), [9])
      assert.deepEqual(await quantile([[-Infinity, 3, NaN]], { ratio: 1 }), [NaN])
    })
  }

  it('refuses bounds that are none', async () => {
    const x = normals(new Random(73), shapes[1])
    for (const [name, o] of Object.entries({
      ratio: { ratio: 1.1, least: 0, most: 1 },
      least: { ratio: 1, least: -1, most: 1 },
      most: { ratio: 1, least: 2, most: 1 },
    })) {
      const run = runGraph('reference', { x }, (g, v) => ({ y: g.absQuantile(v.x, o) }))
      await assert.rejects(run, { code: 'invalid-argument', argument: name })
    }
  })
})

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
