/**
 * How the CUDA backend divides a convolution in mixed precision: every tile forced on shapes that cross its edges, which
 * tile and how many parts are chosen, and that the choice does not change a sample's result.
 */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { assertSameBits } from '../support/compare'
import { checkMixed } from '../support/mixed'
import { Random } from '../support/random'
import { addInputs, compileGraph, type Feeds, normals, runGraph, type Values } from '../support/run-graph'
import { type OpCase, titleOf } from '../support/test-op'

const tiles = { tile128x128: 4, tile128x64: 5, tile64x64: 6, tile32x64: 7, tile128x16: 8 }

interface Conv {
  x: Dims
  out: number
  kernel?: number
  stride?: number
}

function convFeeds({ x, out, kernel = 3 }: Conv): Feeds {
  const random = new Random(31)
  return {
    x: normals(random, x),
    weight: normals(random, [out, kernel, kernel, x[3]], 1 / (kernel * Math.sqrt(x[3]))),
    bias: normals(random, [1, 1, 1, out]),
  }
}

function buildConv(g: Graph, v: Values, { kernel = 3, stride = 1 }: Conv): Value {
  const pad = (kernel - 1) / 2
  return g.conv2d(v.x, v.weight, v.bias, { stride, padding: [pad, pad, pad, pad] })
}

describe('convolution on tensor cores', () => {
  // More than one tile of each kind in both directions, the last of them partial; sums that end within a step of 32.
  const shapes: readonly Conv[] = [
    { x: [2, 9, 9, 8], out: 136 },
    { x: [1, 12, 11, 136], out: 72, kernel: 1 },
    { x: [1, 7, 5, 24], out: 80, stride: 2 },
    { x: [3, 4, 4, 64], out: 24 }, // in parts
    { x: [1, 9, 8, 3], out: 40 }, // few channels
    { x: [1, 9, 8, 40], out: 3 },
    { x: [2, 5, 5, 12], out: 20 }, // no vectors of 8
  ]
  for (const conv of shapes) {
    const title = `every tile: ${titleOf(conv.x)} -> ${conv.out}, ${conv.kernel ?? 3}x${conv.kernel ?? 3}`
    it(title, async () => {
      const feeds = convFeeds(conv)
      const { x, out, stride = 1 } = conv
      const dims: Dims = [x[0], Math.ceil(x[1] / stride), Math.ceil(x[2] / stride), out]
      const random = new Random(32)
      const c: OpCase = {
        title,
        inputs: { ...feeds, e: normals(random, [x[0], 1, 1, out]), residual: normals(random, dims) },
        build: (g, v) => g.add(g.addSample(buildConv(g, v, conv), v.e), v.residual),
        mixedAlgorithms: Object.values(tiles),
      }
      await checkMixed(c, ['x', 'weight', 'bias'], dims)
    })
  }

  /** The algorithm of the convolution on cuda-host, and in how many parts. */
  const planOf = (conv: Conv, deterministic: boolean): string => {
    const program = compileGraph(
      'cuda-host',
      (g) => {
        const v = addInputs(g, convFeeds(conv))
        return { y: buildConv(g, v, conv) }
      },
      { precision: 'bf16', deterministic },
    )
    const plan = program.describe()
    program.release()
    const found = /^Conv2d (\S+(?: in \d+ parts)?)/m.exec(plan)
    assert.ok(found, plan)
    return found[1]
  }

  it('chooses the tile by the shape of the layer', () => {
    // On cuda-host, which says that it has 4 multiprocessors.
    const expected: readonly [Conv, RegExp][] = [
      [{ x: [1, 4, 4, 256], out: 256 }, /^tile32x64/],
      [{ x: [1, 8, 8, 64], out: 64, kernel: 1 }, /^tile32x64/],
      [{ x: [4, 8, 8, 64], out: 64, kernel: 1 }, /^tile64x64/],
      [{ x: [1, 32, 32, 64], out: 64 }, /^tile128x64/],
      [{ x: [1, 32, 32, 64], out: 128 }, /^tile128x128/],
      [{ x: [1, 32, 32, 64], out: 3 }, /^tile128x16/],
    ]
    for (const [conv, tile] of expected) assert.match(planOf(conv, false), tile, `${titleOf(conv.x)} -> ${conv.out}`)
  })

  it('divides long sums of small maps into parts', () => {
    assert.match(planOf({ x: [1, 4, 4, 256], out: 64 }, true), / in 8 parts$/)
    assert.match(planOf({ x: [64, 4, 4, 256], out: 64 }, true), / in 8 parts$/)
    assert.match(planOf({ x: [1, 4, 4, 256], out: 64 }, false), / in 4 parts$/) // as many as multiprocessors
    assert.doesNotMatch(planOf({ x: [64, 4, 4, 256], out: 64 }, false), /parts/) // there are tiles enough
  })

  const layers: readonly Conv[] = [
    { x: [5, 4, 4, 64], out: 72 },
    { x: [5, 6, 6, 24], out: 40, stride: 2 },
    { x: [5, 8, 8, 3], out: 24 },
  ]
  for (const precision of ['fp32', 'fp16', 'bf16'] as const) {
    it(`${precision}: deterministic, the bits of a sample and its gradient do not depend on the batch`, async () => {
      for (const conv of layers) {
        const [of, h, w] = conv.x
        const { stride = 1, out } = conv
        const random = new Random(33)
        const feeds: Feeds = {
          ...convFeeds(conv),
          target: normals(random, [of, h / stride, w / stride, out]),
          share: normals(random, [of, 1, 1, 1]),
        }
        const batch = (n: number) =>
          runGraph(
            'cuda-host',
            Object.fromEntries(
              Object.entries(feeds).map(([name, { dims, data }]) => [
                name,
                dims[0] === of
                  ? { dims: [n, dims[1], dims[2], dims[3]] as Dims, data: data.subarray(0, (data.length / of) * n) }
                  : { dims, data },
              ]),
            ),
            (g, v) => {
              const y = buildConv(g, v, conv)
              const [dx] = g.backward(g.weightedSum(g.loss(y, v.target, { type: 'l2' }), v.share), [v.x])
              assert.ok(dx)
              return { y, dx }
            },
            { precision, deterministic: true },
          )
        const all = await batch(of)
        for (const n of [1, 2]) {
          const few = await batch(n)
          for (const name of ['y', 'dx']) {
            const expected = all[name].subarray(0, few[name].length)
            assertSameBits(few[name], expected, `${name} of ${titleOf(conv.x)}, ${n} samples of ${of}`)
          }
        }
      }
    })
  }
})
