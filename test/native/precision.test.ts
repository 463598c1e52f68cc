/** Mixed precision: what is narrow, where casts are, the mirror of the weights, and the formats themselves. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import type { Precision } from '../../lib/native'
import { assertClose, assertSameBits } from '../support/compare'
import { devicesWith, unit } from '../support/mixed'
import { Random } from '../support/random'
import { compileGraph, normals, runGraph } from '../support/run-graph'

const channels = 8
const weight = (index: number) => ({ name: `w${index}`, shape: [channels, channels, 3, 3], offset: 576 * index })
const vector = (g: Graph, name: string) => g.input(name, [1, 1, 1, channels])
const conv = (g: Graph, x: Value, index: number) =>
  g.conv2d(x, g.parameter(weight(index)), undefined, { stride: 1, padding: [1, 1, 1, 1] })

/** Two residual blocks, conv(silu(norm(conv(silu(norm(x)))))) + x, and a last convolution. */
function residualNetwork(g: Graph, x: Value): Value {
  const normed = (v: Value) => g.silu(g.groupNorm(v, vector(g, 'gamma'), vector(g, 'beta'), { groups: 2, eps: 1e-5 }))
  const block = (v: Value, index: number) => g.add(v, conv(g, normed(conv(g, normed(v), index)), index + 1))
  return conv(g, block(block(conv(g, x, 0), 1), 3), 5)
}

function plan(precision: Precision, build: (g: Graph) => Record<string, Value>): { lines: string[]; arena: number } {
  const program = compileGraph('reference', build, { precision })
  const lines = program.describe().split('\n')
  const { arena } = program.memory()
  program.release()
  return { lines, arena }
}

/** Of the lines of an op, e.g. 'x:bf16 y' with the dtypes of these fields, f32 without one. */
const dtypes = (lines: string[], op: string, fields: readonly string[]): string[] =>
  lines
    .filter((line) => new RegExp(`^(when weights change: )?${op} `).test(line))
    .map((line) =>
      fields.map((field) => field + (new RegExp(` ${field}\\[[\\d, ]+\\](:b?f16)?`).exec(line)?.[1] ?? '')).join(' '),
    )

describe('mixed precision', () => {
  const input = (g: Graph) => g.input('x', [2, 8, 8, channels])

  it('operands are narrow, the residual stream and the output are wide', () => {
    const { lines } = plan('bf16', (g) => ({ y: residualNetwork(g, input(g)) }))
    assert.deepEqual(dtypes(lines, 'Conv2d', ['x', 'w', 'residual', 'y']), [
      'x:bf16 w:bf16 residual y', // the stream begins
      'x:bf16 w:bf16 residual y:bf16',
      'x:bf16 w:bf16 residual y',
      'x:bf16 w:bf16 residual y:bf16',
      'x:bf16 w:bf16 residual y',
      'x:bf16 w:bf16 residual y',
    ])
    assert.deepEqual(dtypes(lines, 'GroupNorm', ['x', 'y', 'mean']), [
      'x y:bf16 mean',
      'x:bf16 y:bf16 mean',
      'x y:bf16 mean',
      'x:bf16 y:bf16 mean',
    ])
    // The weights, the input, and the sum that the last convolution reads.
    assert.deepEqual(dtypes(lines, 'Copy', ['x', 'y']), ['x y:bf16', 'x y:bf16', 'x y:bf16'])
  })

  it('gradients too: one cast serves both products of a layer', () => {
    const { lines } = plan('fp16', (g) => {
      const y = residualNetwork(g, input(g))
      const loss = g.loss(y, g.input('target', y.dims), { type: 'l2' })
      g.backward(g.weightedSum(loss, g.input('weights of losses', [2, 1, 1, 1])))
      return { loss }
    })
    assert.deepEqual(dtypes(lines, 'Conv2dWgrad', ['x', 'dy', 'dWeight']), Array(6).fill('x:f16 dy:f16 dWeight'))
    assert.deepEqual(dtypes(lines, 'Conv2dDgrad', ['dy', 'w', 'dx']), [
      'dy:f16 w:f16 dx', // into the stream, whose gradient is a sum
      'dy:f16 w:f16 dx:f16',
      'dy:f16 w:f16 dx:f16',
      'dy:f16 w:f16 dx:f16',
      'dy:f16 w:f16 dx:f16',
    ])
    assert.deepEqual(dtypes(lines, 'GroupNormBackward', ['x', 'dy', 'dx']), [
      'x:f16 dy:f16 dx:f16',
      'x dy:f16 dx',
      'x:f16 dy:f16 dx:f16',
      'x dy:f16 dx',
    ])
    // Forward as above; backward the gradients of the loss, of the two sums and of the first convolution.
    assert.equal(dtypes(lines, 'Copy', []).length, 3 + 4)
  })

  it('attention and what surrounds it', () => {
    const { lines } = plan('bf16', (g) => {
      const x = input(g)
      const weights = (out: number, index: number) =>
        g.parameter({ name: `${index}`, shape: [out, 8], offset: 256 * index })
      const qkv = g.linear(g.layerNorm(x, vector(g, 'gamma'), vector(g, 'beta'), { eps: 1e-5 }), weights(24, 0))
      const y = g.attentionQkv(qkv, { heads: 2, scale: 0.5, order: 'heads-first' })
      return { y: g.add(x, g.linear(y, weights(8, 1))), attended: y }
    })
    assert.deepEqual(dtypes(lines, 'LayerNorm', ['x', 'y']), ['x y:bf16'])
    assert.deepEqual(dtypes(lines, 'Attention', ['q', 'k', 'v', 'y', 'lse']), ['q:bf16 k:bf16 v:bf16 y:bf16 lse'])
    assert.deepEqual(dtypes(lines, 'Copy', ['x', 'y']), ['x y:bf16', 'x:bf16 y'], 'weights; the output that is narrow')
  })

  it('takes less memory', () => {
    const build = (g: Graph) => {
      const y = residualNetwork(g, g.input('x', [4, 32, 32, channels]))
      const loss = g.loss(y, g.input('target', y.dims), { type: 'l2' })
      g.backward(g.weightedSum(loss, g.input('weights of losses', [4, 1, 1, 1])))
      return { loss }
    }
    const [wide, narrow] = [plan('fp32', build).arena, plan('bf16', build).arena]
    assert.ok(narrow < 0.8 * wide, `${narrow} bytes, ${wide} in fp32`)
  })

  it('is refused where the backend has not got it, and so is a misspelled one', () => {
    const compile = (precision: Precision) => () =>
      compileGraph('cpu', (g) => ({ y: g.silu(input(g)) }), { precision }).release()
    assert.deepEqual(Device.open('cpu').info().precisions, ['fp32'])
    assert.throws(compile('fp16'), {
      code: 'unsupported',
      argument: 'precision',
      expected: "'fp32'",
      received: "'fp16'",
      message: "precision: the cpu backend has 'fp32', not 'fp16'",
    })
    assert.throws(compile('fp8' as Precision), { code: 'invalid-argument', argument: 'precision' })
  })
})

describe('the mirror of the weights', () => {
  const count = 64
  const slot = { name: 'w', shape: [4, 16], offset: 0 }
  const x = normals(new Random(5), [3, 1, 1, 16])

  for (const name of ['reference' as const, ...devicesWith('bf16')]) {
    it(`is made anew when the weights have changed (${name})`, async () => {
      const device = Device.open(name)
      const program = compileGraph(name, (g) => ({ y: g.linear(g.input('x', x.dims), g.parameter(slot)) }), {
        precision: 'bf16',
      })
      const weights = device.upload(new Random(6).normals(count))
      const first = (await program.run({ x: x.data, weights })).y
      weights.write(new Random(7).normals(count))
      const second = (await program.run({ x: x.data, weights })).y
      assert.notDeepEqual(first, second)
      const fresh = device.upload(new Random(7).normals(count))
      assertSameBits(
        (await program.run({ x: x.data, weights: fresh })).y,
        second,
        'other weights with the same numbers',
      )
      for (const buffer of [weights, fresh]) buffer.release()
      program.release()
    })

    it(`is kept up by the optimizer (${name})`, async () => {
      const hyper = Float32Array.of(1e-2, 0.1, 0.01, 1e-8, 0.01, 0.1, 0.01, 0, 1, 0.9, ...Array(6).fill(0))
      const build = (g: Graph) => {
        const y = g.linear(g.input('x', x.dims), g.parameter(slot))
        const loss = g.weightedSum(
          g.loss(y, g.input('target', y.dims), { type: 'l2' }),
          g.input('lossWeights', [3, 1, 1, 1]),
        )
        g.backward(loss)
        g.adamw(g.input('hyper', [1, 1, 1, 16]), g.gradSumSquares(count), { count, ema: true })
        g.zeroGrads({ count })
        return { y }
      }
      const bank = (seed: number) => Device.open(name).upload(new Random(seed).normals(count).map(Math.abs))
      const run = async (makesPrograms: boolean) => {
        const banks = { weights: bank(1), grads: bank(2), m: bank(3), v: bank(4), ema: bank(5) }
        let program = compileGraph(name, build, { precision: 'bf16' })
        const ys: Float32Array[] = []
        for (let step = 0; step < 3; step++) {
          if (makesPrograms && step > 0) {
            program.release()
            program = compileGraph(name, build, { precision: 'bf16' })
          }
          const feeds = { x: x.data, target: new Float32Array(12), lossWeights: Float32Array.of(1, 2, 3), hyper }
          ys.push((await program.run({ ...feeds, ...banks })).y)
        }
        const weights = await banks.weights.read()
        for (const buffer of Object.values(banks)) buffer.release()
        program.release()
        return [...ys, weights]
      }
      const [kept, made] = [await run(false), await run(true)]
      assert.notDeepEqual(kept[0], kept[1])
      kept.forEach((values, i) => {
        assertSameBits(values, made[i], `step ${i}`)
      })
    })
  }
})

describe('narrow numbers', () => {
  const cases: Record<'fp16' | 'bf16', [x: number, rounded: number][]> = {
    fp16: [
      [1 + 2 ** -11, 1], // halfway: to even
      [1 + 3 * 2 ** -11, 1 + 2 ** -9],
      [-1 - 2 ** -11 - 2 ** -20, -1 - 2 ** -10],
      [65504, 65504],
      [65519.9, 65504],
      [65520, Number.POSITIVE_INFINITY],
      [2 ** -14 - 2 ** -24, 2 ** -14 - 2 ** -24], // the largest subnormal
      [2 ** -25, 0],
      [2 ** -25 + 2 ** -40, 2 ** -24],
      [-0, -0],
      [Number.NaN, Number.NaN],
    ],
    bf16: [
      [1 + 2 ** -8, 1],
      [1 + 3 * 2 ** -8, 1 + 2 ** -6],
      [-1 - 2 ** -8 - 2 ** -20, -1 - 2 ** -7],
      [3.3895313892515355e38, 3.3895313892515355e38],
      [3.4e38, Number.POSITIVE_INFINITY],
      [2 ** -140, 2 ** -133 * 0], // below half of the smallest
      [2 ** -133, 2 ** -133],
      [-0, -0],
      [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
      [Number.NaN, Number.NaN],
    ],
  }
  for (const precision of ['fp16', 'bf16'] as const) {
    for (const device of ['reference' as const, ...devicesWith(precision)]) {
      it(`${precision} rounds to nearest even (${device})`, async () => {
        const data = Float32Array.from(cases[precision], ([x]) => x)
        const { y } = await runGraph(
          device,
          { x: { dims: [1, 1, 1, data.length], data } },
          (g, v) => ({ y: g.round(v.x) }),
          { precision },
        )
        assert.deepEqual(
          [...y],
          cases[precision].map(([, rounded]) => Math.fround(rounded)),
        )
      })

      it(`${precision} holds any number to half a unit (${device})`, async () => {
        const x = normals(new Random(8), [3, 5, 7, 8])
        const { y } = await runGraph(device, { x }, (g, v) => ({ y: g.round(v.x) }), { precision })
        assertClose(y, x.data, { abs: 0, rel: unit[precision] / 2 }, precision)
      })
    }
  }
})
