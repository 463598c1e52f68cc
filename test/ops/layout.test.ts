import assert from 'node:assert/strict'
import { Random } from '../support/random'
import { normals, runGraph, testedBackends } from '../support/run-graph'
import { awkwardShapes, testOp, titleOf } from '../support/test-op'

testOp(
  'toNhwc',
  awkwardShapes.map(([n, height, width, channels]) => ({
    title: titleOf([n, height, width, channels]),
    inputs: { x: normals(new Random(30), [n, 1, 1, channels * height * width]) },
    build: (g, v) => g.toNhwc(v.x, { channels, height, width }),
    mixed: true,
  })),
)

testOp(
  'toNchw',
  awkwardShapes.map((x) => ({
    title: titleOf(x),
    inputs: { x: normals(new Random(31), x) },
    build: (g, v) => g.toNchw(v.x),
  })),
)

describe('layout', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`CHW becomes HWC on ${backend}`, async () => {
      const chw = Float32Array.of(0, 1, 2, 10, 11, 12) // 2 channels, 1 x 3
      const { y } = await runGraph(backend, { x: { dims: [1, 1, 1, 6], data: chw } }, (g, v) => ({
        y: g.toNhwc(v.x, { channels: 2, height: 1, width: 3 }),
      }))
      assert.deepEqual([...y], [0, 10, 1, 11, 2, 12])
    })
  }
})
