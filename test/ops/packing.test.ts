import assert from 'node:assert/strict'
import type { Dims } from '../../lib/native'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { compileGraph, normals, type RunOptions, runGraph, winogradUpsample } from '../support/run-graph'

/** x, output channels, kernel, stride, whether the input is upsampled. */
type Layer = readonly [x: Dims, out: number, kernel: number, stride: number, upsampled?: boolean]

// Of the kernels' ways to have weights packed, kernels/cpu/panels.h, each occurs: shared by all tasks for the large maps,
// a task's own for the small ones and for sums so long that they go in parts.
const layers: readonly Layer[] = [
  [[1, 4, 4, 70], 40, 3, 1],
  [[2, 20, 20, 40], 70, 3, 1],
  [[1, 48, 44, 8], 33, 3, 1],
  [[1, 8, 8, 300], 40, 3, 1],
  [[2, 3, 3, 500], 20, 3, 1],
  [[1, 24, 25, 20], 37, 3, 2],
  [[1, 5, 5, 9], 5, 3, 2],
  [[3, 12, 16, 24], 40, 3, 1, true],
  [[2, 1, 1, 700], 33, 1, 1],
  [[1, 30, 30, 33], 129, 1, 1],
]
const algorithms = { chosen: undefined, direct: 0, winograd2: 1, winograd4: 2, winogradUpsample }

describe('packed weights on cpu', () => {
  for (const [x, out, kernel, stride, upsampled = false] of layers) {
    const random = new Random(9)
    const shape = [out, x[3], kernel, kernel]
    const weights = random.normals(
      shape.reduce((a, b) => a * b),
      1 / Math.sqrt(kernel * kernel * x[3]),
    )
    const scale = upsampled ? 2 : 1
    const y: Dims = [x[0], Math.ceil((scale * x[1]) / stride), Math.ceil((scale * x[2]) / stride), out]
    const pad = (kernel - 1) / 2
    const feeds = { x: normals(random, x), target: normals(random, y), w: normals(random, [x[0], 1, 1, 1]) }
    // Frozen weights, so that those of the gradient of x may be kept, too.
    const run = (options: RunOptions, device: 'cpu' | 'reference' = 'cpu') =>
      runGraph(
        device,
        feeds,
        (g, v) => {
          const weight = g.parameter({ name: 'w', shape, offset: 0, frozen: true })
          const input = upsampled ? g.upsampleNearest(v.x, { factor: 2 }) : v.x
          const y = g.conv2d(input, weight, undefined, { stride, padding: [pad, pad, pad, pad] })
          const [dx] = g.backward(g.weightedSum(g.loss(y, v.target, { type: 'l2' }), v.w), [v.x])
          return { y, dx: dx! }
        },
        { ...options, banks: { frozen: weights } },
      )

    it(`gives the same bits whether they are kept or not: ${x.join('x')} -> ${out}, stride ${stride}`, async () => {
      const expected = await run({}, 'reference')
      for (const [name, forceAlgo] of Object.entries(algorithms)) {
        const own = await run({ forceAlgo, packedBytes: 0 })
        for (const output of ['y', 'dx']) assertCloseToScale(own[output], expected[output], 2e-5, `${name} ${output}`)
        for (const options of [
          { packedBytes: 1e9 },
          { packedBytes: 1e9, threads: 3 },
          { packedBytes: 0, threads: 3 },
        ]) {
          const other = await run({ forceAlgo, ...options })
          for (const output of ['y', 'dx']) {
            assertSameBits(other[output], own[output], `${name} ${output}, ${JSON.stringify(options)}`)
          }
        }
      }
    })
  }

  const program = (options: RunOptions) =>
    compileGraph(
      'cpu',
      (g) => {
        let value = g.input('x', [1, 4, 4, 64])
        for (let i = 0; i < 4; i++) {
          const weight = g.parameter({ name: `w${i}`, shape: [64, 64, 3, 3], offset: i * 64 * 64 * 9 })
          // Twice, as a network is for guidance.
          for (let use = 0; use < 2; use++) {
            value = g.conv2d(value, weight, undefined, { stride: 1, padding: [1, 1, 1, 1] })
          }
        }
        return { value }
      },
      options,
    )

  it('are kept within packedBytes, each once', () => {
    const layer = 4 * 64 * 64 * 9
    for (const [packedBytes, kept] of [
      [0, 0],
      [layer - 1, 0],
      [layer, 1],
      [2.5 * layer, 2],
      [1e9, 4],
    ]) {
      const one = program({ forceAlgo: 0, packedBytes })
      assert.equal(one.memory().packed, kept * layer, `of ${packedBytes}`)
      assert.equal((one.describe().match(/ConvPackWeights/g) ?? []).length, kept)
      one.release()
    }
  })

  it('of a weight that two layers pack each in its way are within packedBytes, too', () => {
    const layer = 4 * 64 * 64 * 9
    for (const [packedBytes, kept] of [
      [layer, 0],
      [2 * layer, 2],
    ]) {
      const one = compileGraph(
        'cpu',
        (g) => {
          const weight = g.parameter({ name: 'w', shape: [64, 64, 3, 3], offset: 0 })
          const conv = (name: string, pad: number) =>
            g.conv2d(g.input(name, [1, 4, 4, 64]), weight, undefined, { stride: 1, padding: [pad, pad, pad, pad] })
          return { a: conv('x', 1), b: conv('z', 0) }
        },
        { forceAlgo: 0, packedBytes },
      )
      assert.equal(one.memory().packed, kept * layer)
      one.release()
    }
  })

  it('are at most 192 MiB without packedBytes', () => {
    const floats = 1024 * 1024 * 9
    const one = compileGraph('cpu', (g) => {
      let value = g.input('x', [1, 4, 4, 1024])
      for (let i = 0; i < 5; i++) {
        const weight = g.parameter({ name: `w${i}`, shape: [1024, 1024, 3, 3], offset: i * floats })
        value = g.conv2d(value, weight, undefined, { stride: 1, padding: [1, 1, 1, 1] })
      }
      return { value }
    })
    const { packed } = one.memory()
    one.release()
    const most = 192 * 2 ** 20
    assert.ok(packed <= most && packed > most / 2, `${packed} of ${most}`)
  })

  it('packedBytes is a size', () => {
    for (const packedBytes of [-1, Number.NaN, 1e300, '1' as unknown as number]) {
      assert.throws(() => program({ packedBytes }), { code: 'invalid-argument', argument: 'packedBytes' })
    }
  })
})
