/** What sets cuda-host-contracted, on which `npm run test:contracted` runs the tests of one device, apart from cuda-host. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import type { Graph } from '../../lib/graph'
import { type RunOptions, runGraph, type Values } from '../support/run-graph'

/** x . w, by a linear layer. */
async function dot(device: 'cuda-host' | 'cuda-host-contracted', x: number[], w: number[], options: RunOptions) {
  const feed = (data: number[]) => ({ dims: [1, 1, 1, data.length] as const, data: Float32Array.from(data) })
  const none = { stride: 1, padding: [0, 0, 0, 0] }
  const build = (g: Graph, v: Values) => ({ y: g.conv2d(v.x, v.w, undefined, none) })
  return (await runGraph(device, { x: feed(x), w: feed(w) }, build, options)).y[0]
}

describe('cuda-host-contracted', () => {
  let absent = ''
  before(function () {
    try {
      Device.open('cuda-host-contracted')
    } catch (error) {
      absent = (error as Error).message
      console.log(`Not tested: ${absent}`)
      this.skip()
    }
  })

  it('rounds a multiply-add once', async () => {
    const a = 1 + 2 ** -12
    const [x, w] = [
      [-1, a, 0, 0],
      [1 + 2 ** -11, a, 0, 0],
    ]
    assert.equal(await dot('cuda-host', x, w, {}), 0)
    assert.equal(await dot('cuda-host-contracted', x, w, {}), 2 ** -24)
  })

  /** 1 and seven times a b. */
  const eight = (a: number, b: number): number[][] => [a, b].map((factor) => [1, ...Array(7).fill(factor)])

  it('adds eight products of 16 bits at once, and cuts off what they add up to', async () => {
    const [x, w] = eight(2 ** -12, 2 ** -12)
    assert.equal(await dot('cuda-host', x, w, { precision: 'bf16' }), 1)
    assert.equal(await dot('cuda-host-contracted', x, w, { precision: 'bf16' }), 1 + 3 * 2 ** -23)
  })

  it('cuts off each product where the largest ends', async () => {
    const [x, w] = eight(-3 * 2 ** -14, 2 ** -12)
    assert.equal(await dot('cuda-host', x, w, { precision: 'bf16' }), 1 - 7 * 2 ** -24)
    assert.equal(await dot('cuda-host-contracted', x, w, { precision: 'bf16' }), 1)
  })
})
