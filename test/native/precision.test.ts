/** Mixed precision: what is narrow, where casts are, the mirror of the weights, and the formats themselves. */
import assert from 'node:assert/strict'
import { cifar10 } from '../../bench/cases/unet'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import type { Precision } from '../../lib/native'
import { UNet } from '../../lib/nn/unet/unet'
import { assertClose, assertSameBits } from '../support/compare'
import { devicesWith, narrowDevices, unit } from '../support/mixed'
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

  describe('slices and concatenations have the width of their parts', () => {
    const matrix = (g: Graph, out: number, index: number) =>
      g.parameter({ name: `${index}`, shape: [out, channels], offset: 512 * index })
    const copies = (lines: string[]) => dtypes(lines, 'Copy', ['x', 'y'])

    it('q, k and v, and their gradients, are views of one 16-bit tensor', () => {
      const { lines } = plan('bf16', (g) => {
        const x = g.layerNorm(input(g), vector(g, 'gamma'), vector(g, 'beta'), { eps: 1e-5 })
        const all = g.linear(x, matrix(g, 24, 0))
        const [q, k, v] = [0, 8, 16].map((start) => g.slice(all, { start, count: 8 }))
        const y = g.linear(g.attention(q, k, v, { heads: 2, scale: 0.5 }), matrix(g, 8, 1))
        g.backward(g.weightedSum(g.loss(y, g.input('target', y.dims), { type: 'l2' }), g.input('w', [2, 1, 1, 1])))
        return { y }
      })
      assert.deepEqual(dtypes(lines, 'Attention', ['q', 'k', 'v']), ['q:bf16 k:bf16 v:bf16'])
      assert.deepEqual(dtypes(lines, 'AttentionBackward', ['dq', 'dk', 'dv']), ['dq:bf16 dk:bf16 dv:bf16'])
      assert.match(lines.find((line) => line.startsWith('Attention ')) ?? '', /q\S+ \S+ \S+ \S+:bf16\/24@/)
      assert.deepEqual(copies(lines), ['x y:bf16', 'x y:bf16'], "the weights, and the loss's gradient")
    })

    it('a slice that is read wide, or is an output, makes the whole wide', () => {
      const build = (read: (g: Graph, part: Value) => Record<string, Value>) => (g: Graph) => {
        const all = g.linear(g.silu(input(g)), matrix(g, 16, 0))
        const product = g.linear(g.slice(all, { start: 0, count: 8 }), matrix(g, 8, 1))
        return { product, ...read(g, g.slice(all, { start: 8, count: 8 })) }
      }
      for (const read of [
        (g: Graph, part: Value) => ({ sum: g.add(part, input(g)) }),
        (_: Graph, part: Value) => ({ part }),
      ]) {
        const { lines } = plan('bf16', build(read))
        assert.deepEqual(dtypes(lines, 'Conv2d', ['x', 'y']), ['x:bf16 y', 'x:bf16 y'])
      }
    })

    it('a concatenation is wide where one part is a sum, and one reader takes either', () => {
      const build = (partIsSum: boolean) => (g: Graph) => {
        const x = g.silu(input(g))
        const part = g.linear(x, matrix(g, 8, 0))
        const other = partIsSum ? g.add(input(g), g.linear(x, matrix(g, 8, 1))) : g.linear(x, matrix(g, 8, 1))
        const joined = g.concat([part, other])
        const of = (name: string) => g.input(name, [1, 1, 1, 16])
        const normed = g.groupNorm(joined, of('gamma'), of('beta'), { groups: 2, eps: 1e-5 })
        const weights = (index: number) => g.parameter({ name: `${index}`, shape: [8, 16], offset: 512 * index })
        return { y: g.add(g.linear(normed, weights(2)), g.linear(joined, weights(3))) }
      }
      const [wide, narrow] = [plan('bf16', build(true)).lines, plan('bf16', build(false)).lines]
      assert.deepEqual(dtypes(wide, 'GroupNorm', ['x']), ['x'])
      assert.deepEqual(copies(wide), ['x y:bf16', 'x y:bf16'], 'the weights, and the whole for the product, once')
      assert.deepEqual(dtypes(narrow, 'GroupNorm', ['x']), ['x:bf16'])
      assert.deepEqual(copies(narrow), ['x y:bf16'], 'the weights')
    })

    it('a part goes into the concatenation as the cast that products read', () => {
      const { lines } = plan('bf16', (g) => {
        const parts = [g.linear(g.silu(input(g)), matrix(g, 8, 0)), input(g)]
        return { y: g.linear(g.concat(parts), g.parameter({ name: 'all', shape: [8, 16], offset: 512 })) }
      })
      assert.deepEqual(dtypes(lines, 'Conv2d', ['x', 'y']), ['x:bf16 y:bf16', 'x:bf16 y'])
      assert.deepEqual(copies(lines), ['x y:bf16', 'x y:bf16'], 'the weights, and the input')
    })

    it('a concatenation that has to be wide makes others wide that share a part with it', () => {
      const { lines } = plan('bf16', (g) => {
        const all = g.linear(g.silu(input(g)), matrix(g, 16, 0))
        const [a, b] = [0, 8].map((start) => g.slice(all, { start, count: 8 }))
        const narrow = g.silu(g.concat([a, a]))
        return { sum: g.add(g.concat([b, input(g)]), narrow) }
      })
      assert.deepEqual(dtypes(lines, 'Conv2d', ['x', 'y']), ['x:bf16 y'])
      assert.deepEqual(copies(lines).slice(1), Array(4).fill('x y'), 'what no place is free for')
    })

    it('a UNet of 36 million weights copies nothing that has 16 bits, and casts what it sums, once each', () => {
      const unet = new UNet(cifar10)
      const build =
        (train: boolean) =>
        (g: Graph): Record<string, Value> => {
          const x = g.toNhwc(g.input('x', [128, 1, 1, 3072]), { channels: 3, height: 32, width: 32 })
          const y = unet.build({ graph: g, train: false }, x, g.input('t', [128, 1, 1, 1], 'i32'))
          if (!train) return { y: g.toNchw(y) }
          const loss = g.loss(y, g.input('target', y.dims), { type: 'l2' })
          g.backward(g.weightedSum(loss, g.input('weights of losses', [128, 1, 1, 1])))
          return {}
        }
      const [sampling, training] = [false, true].map((train) =>
        plan('bf16', build(train)).lines.filter((line) => line.startsWith('Copy ')),
      )
      for (const line of [...sampling, ...training]) assert.match(line, /^Copy x[^:]*@\S+ y[^:]*:bf16/)
      // The embedding of t, what three downsamplings and thirteen blocks that change the channels read.
      assert.equal(sampling.length, 1 + 3 + 13, sampling.join('\n'))
      // Gradients of sums: of each block, attention, resampling, the first convolution and the loss.
      assert.equal(training.length, sampling.length + 33, training.join('\n'))
    })
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
    const { precisions, bf16 } = Device.open('cpu').info()
    assert.deepEqual(precisions, bf16 ? ['fp32', 'bf16'] : ['fp32'])
    const expected = precisions.map((name) => `'${name}'`).join(', ')
    assert.throws(compile('fp16'), {
      code: 'unsupported',
      argument: 'precision',
      expected,
      received: "'fp16'",
      message: `precision: the cpu backend has ${expected}, not 'fp16'`,
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

    for (const optimizer of ['adamw', 'lion'] as const)
      it(`is kept up by ${optimizer} (${name})`, async () => {
        const hyper = Float32Array.of(1e-2, 0.1, 0.01, 1e-8, 0.01, 0.1, 0.01, 0, 1, 0.9, ...Array(6).fill(0))
        const build = (g: Graph) => {
          const y = g.linear(g.input('x', x.dims), g.parameter(slot))
          const loss = g.weightedSum(
            g.loss(y, g.input('target', y.dims), { type: 'l2' }),
            g.input('lossWeights', [3, 1, 1, 1]),
          )
          g.backward(loss)
          g[optimizer](g.input('hyper', [1, 1, 1, 16]), g.gradSumSquares(count), { count, ema: true })
          g.zeroGrads({ count })
          return { y }
        }
        const bank = (seed: number) => Device.open(name).upload(new Random(seed).normals(count).map(Math.abs))
        const run = async (makesPrograms: boolean) => {
          const moments = { m: bank(3), ...(optimizer === 'adamw' && { v: bank(4) }) }
          const banks = { weights: bank(1), grads: bank(2), ...moments, ema: bank(5) }
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
    for (const device of ['reference' as const, ...narrowDevices(precision)]) {
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
