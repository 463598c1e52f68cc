import assert from 'node:assert/strict'
import type { Dims } from '../../lib/native'
import { libraryAlgo } from '../support/fake-cudnn'
import { Random } from '../support/random'
import { addInputs, compileGraph, normals, runGraph, winogradUpsample } from '../support/run-graph'
import { type OpCase, testOp, titleOf } from '../support/test-op'

// direct, F(2x2, 3x3), F(4x4, 3x3), cuDNN; those that a shape or a backend does not have are direct
const algorithms = [0, 1, 2, libraryAlgo]

/** x, [out, kernel h, kernel w], stride, padding [top, left, bottom, right]. */
type Shape = [x: Dims, out: number, kernel: [number, number], stride: number, padding: number[]]

const shapes: readonly Shape[] = [
  [[1, 1, 1, 1], 1, [1, 1], 1, [0, 0, 0, 0]],
  [[1, 1, 1, 1], 1, [3, 3], 1, [1, 1, 1, 1]],
  [[3, 5, 4, 6], 7, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 7, 9, 3], 17, [3, 3], 1, [1, 1, 1, 1]],
  [[2, 8, 8, 32], 16, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 16, 16, 3], 32, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 4, 4, 65], 35, [3, 3], 1, [1, 1, 1, 1]],
  [[2, 8, 6, 20], 24, [3, 3], 2, [1, 1, 1, 1]],
  [[1, 7, 5, 9], 4, [3, 3], 2, [1, 1, 1, 1]],
  [[3, 8, 8, 8], 8, [3, 3], 2, [0, 0, 1, 1]], // diffusers' downsampling
  [[1, 9, 8, 5], 6, [3, 3], 1, [0, 2, 1, 0]],
  [[2, 6, 7, 33], 18, [1, 1], 1, [0, 0, 0, 0]],
  [[1, 6, 7, 5], 3, [5, 2], 3, [2, 0, 1, 1]],
  [[1, 5, 5, 2], 3, [1, 1], 2, [0, 0, 0, 0]], // pixels that no tap reads
  [[1, 8, 7, 8], 1040, [1, 1], 2, [0, 0, 0, 0]], // the same, of so many channels that the sum goes in parts
]

function convCase(shape: Shape, views: boolean): OpCase {
  const [x, out, [r, s], stride, padding] = shape
  const random = new Random(3)
  return {
    title: `${titleOf(x)} -> ${out}, ${r}x${s}, stride ${stride}, padding ${padding}`,
    inputs: {
      x: normals(random, x),
      weight: normals(random, [out, r, s, x[3]], 1 / Math.sqrt(r * s * x[3])),
      bias: normals(random, [1, 1, 1, out]),
    },
    build: (g, v) => g.conv2d(v.x, v.weight, v.bias, { stride, padding }),
    views: views ? ['x'] : undefined,
    mixed: true,
    algorithms,
  }
}

/** Of which the input is upsampled. */
const upsampledShapes: readonly Shape[] = [
  [[1, 1, 1, 1], 1, [3, 3], 1, [1, 1, 1, 1]],
  [[3, 5, 4, 6], 7, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 3, 7, 35], 65, [3, 3], 1, [1, 1, 1, 1]],
  [[2, 8, 8, 32], 16, [3, 3], 1, [1, 1, 1, 1]],
  [[1, 9, 6, 5], 6, [3, 3], 1, [1, 1, 0, 2]],
  [[2, 4, 5, 9], 12, [3, 3], 1, [0, 2, 1, 0]],
  [[2, 5, 3, 7], 4, [1, 2], 1, [0, 1, 0, 0]],
]

function upsampledCase(shape: Shape, views: boolean): OpCase {
  const plain = convCase(shape, views)
  return {
    ...plain,
    title: `upsampled by 2: ${plain.title}`,
    build: (g, v) => plain.build(g, { ...v, x: g.upsampleNearest(v.x, { factor: 2 }) }),
    mixed: false, // two ops there, each of which rounds
    algorithms: [...algorithms, winogradUpsample],
  }
}

const random = new Random(4)
const upsampled = upsampledCase(upsampledShapes[1], false)
const noBias = convCase(shapes[2], false)
const inParts = convCase([[1, 4, 4, 130], 20, [3, 3], 1, [1, 1, 1, 1]], false)

testOp('conv2d', [
  ...shapes.map((shape, i) => convCase(shape, i % 3 === 2)),
  {
    ...noBias,
    title: 'without bias',
    inputs: { x: noBias.inputs.x, weight: noBias.inputs.weight },
    build: (g, v) => g.conv2d(v.x, v.weight, undefined, { stride: 1, padding: [1, 1, 1, 1] }),
  },
  {
    ...noBias,
    title: 'with a per-sample bias and a residual, fused',
    inputs: { ...noBias.inputs, e: normals(random, [3, 1, 1, 7]), residual: normals(random, [3, 5, 4, 7]) },
    build: (g, v) => g.add(g.addSample(noBias.build(g, v), v.e), v.residual),
  },
  {
    ...inParts,
    title: 'with a per-sample bias and a residual, summed in parts',
    inputs: { ...inParts.inputs, e: normals(random, [1, 1, 1, 20]), residual: normals(random, [1, 4, 4, 20]) },
    build: (g, v) => g.add(g.addSample(inParts.build(g, v), v.e), v.residual),
  },
  ...upsampledShapes.map((shape, i) => upsampledCase(shape, i % 3 === 2)),
  {
    ...upsampled,
    title: 'upsampled by 2, with a per-sample bias and a residual, fused',
    inputs: { ...upsampled.inputs, e: normals(random, [3, 1, 1, 7]), residual: normals(random, [3, 10, 8, 7]) },
    build: (g, v) => g.add(g.addSample(upsampled.build(g, v), v.e), v.residual),
  },
  {
    ...noBias,
    title: 'two that read one input: their gradients are summed',
    build: (g, v) => g.add(noBias.build(g, v), g.conv2d(v.x, v.weight, v.bias, { stride: 1, padding: [1, 1, 1, 1] })),
  },
])

describe('op conv2d', () => {
  it('upsamples as it reads, on cpu', () => {
    const plan = (wrt: string, factor: number, forceAlgo?: number) => {
      const program = compileGraph(
        'cpu',
        (g) => {
          const v = addInputs(g, { ...upsampled.inputs, weight: normals(random, [7, 3, 3, 6]) })
          const y = g.conv2d(g.upsampleNearest(v.x, { factor }), v.weight, v.bias, { stride: 1, padding: [1, 1, 1, 1] })
          const target = g.loss(y, g.silu(y), { type: 'l2' })
          const loss = g.weightedSum(target, g.input('w', [3, 1, 1, 1]))
          const [gradient] = g.backward(loss, [v[wrt]])
          assert.ok(gradient)
          return { y, gradient }
        },
        { forceAlgo },
      )
      const text = program.describe()
      program.release()
      return text
    }
    for (const [algo, name] of [
      [0, 'direct'],
      [1, 'winograd2'],
      [2, 'winograd4'],
      [winogradUpsample, 'winogradUpsample'],
    ] as const) {
      assert.match(plan('x', 2, algo), new RegExp(`^Conv2d ${name} x\\[3, 5, 4, 6\\].* y\\[3, 10, 8, 7\\]`, 'm'))
    }
    assert.doesNotMatch(plan('x', 2), /^UpsampleNearest /m)
    assert.match(plan('weight', 2, winogradUpsample), /^Conv2dWgrad winogradUpsample x\[3, 5, 4, 6\]/m)
    assert.doesNotMatch(plan('weight', 2), /^UpsampleNearest /m)
    assert.match(plan('x', 3), /^UpsampleNearest /m)
  })

  // kernels/cpu/winograd_transform.h states these; they vary by some percent with weights and instruction set.
  for (const [channels, two, four, upsampling] of [
    [128, 3.7e-7, 1.5e-6, 2.9e-7],
    [256, 5.0e-7, 2.1e-6, 4.0e-7],
  ]) {
    it(`Winograd's relative errors with ${channels} channels`, async () => {
      const random = new Random(6)
      const inputs = {
        x: normals(random, [1, 8, 8, channels]),
        weight: normals(random, [channels, 3, 3, channels], 1 / Math.sqrt(9 * channels)),
      }
      const options = { stride: 1, padding: [1, 1, 1, 1] }
      const errorOf = async (forceAlgo: number, upsamples: boolean) => {
        const [actual, expected] = await Promise.all(
          (['cpu', 'reference'] as const).map((device) =>
            runGraph(
              device,
              inputs,
              (g, v) => ({
                y: g.conv2d(upsamples ? g.upsampleNearest(v.x, { factor: 2 }) : v.x, v.weight, undefined, options),
              }),
              { forceAlgo },
            ),
          ),
        )
        const squares = (values: Float32Array) => values.reduce((sum, v) => sum + v * v, 0)
        return Math.sqrt(squares(actual.y.map((v, i) => v - expected.y[i])) / squares(expected.y))
      }
      for (const [algorithm, stated, upsamples] of [
        [1, two, false],
        [2, four, false],
        [winogradUpsample, upsampling, true],
      ] as const) {
        const error = await errorOf(algorithm, upsamples)
        assert.ok(error < 1.2 * stated, `algorithm ${algorithm}: ${error}, stated ${stated}`)
      }
    })
  }

  it('has the library compute every shape that is asked of it, views too, on cuda-host', () => {
    for (const shape of shapes) {
      const { title, inputs, build } = convCase(shape, false)
      for (const [start, wider] of [
        [0, 0],
        [1, 3],
      ]) {
        const program = compileGraph(
          'cuda-host',
          (g) => {
            const { x, ...rest } = addInputs(g, inputs)
            const wide = g.input('wide', [x.dims[0], x.dims[1], x.dims[2], x.dims[3] + wider], 'f32')
            return { y: build(g, { ...rest, x: g.slice(wide, { start, count: x.dims[3] }) }) }
          },
          { forceAlgo: libraryAlgo },
        )
        assert.match(program.describe(), /^Conv2d library/m, title)
        program.release()
      }
    }
  })
})
