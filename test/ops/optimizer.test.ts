import assert from 'node:assert/strict'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { type Feeds, runGraph, testedBackends } from '../support/run-graph'

const sizes = [16, 1040, 300_000]

/** kernels/ops.h Hyper, in that order. */
const hyper = (o: { maxGradNorm: number; gradScale: number }): Feeds => ({
  hyper: {
    dims: [1, 1, 1, 16],
    data: Float32Array.of(
      1e-2,
      1 - 0.9,
      1 - 0.99,
      1e-8,
      0.1,
      1 - 0.9 ** 3,
      1 - 0.99 ** 3,
      o.maxGradNorm,
      o.gradScale,
      0.9,
      ...Array(6).fill(0),
    ),
  },
})

function banks(count: number) {
  const random = new Random(53)
  return {
    weights: random.normals(count),
    grads: random.normals(count),
    m: random.normals(count, 0.1),
    v: random.normals(count, 0.1).map(Math.abs),
    ema: random.normals(count),
  }
}

const settings = [
  { maxGradNorm: 0, gradScale: 1 },
  { maxGradNorm: 1, gradScale: 0.25 },
  { maxGradNorm: 1e6, gradScale: 0.5 }, // nothing to clip
]

/** The banks of each: Lion keeps no second moment. */
function stateOf(op: 'adamw' | 'lion', count: number) {
  const { v, ...rest } = banks(count)
  // Neither a gradient nor an average of one: the update of Lion has no sign.
  rest.m[5] = rest.grads[5] = 0
  return op === 'lion' ? rest : { ...rest, v }
}

for (const op of ['adamw', 'lion'] as const)
  describe(`op ${op}`, () => {
    for (const count of sizes) {
      for (const o of settings) {
        it(`${count} parameters, ${JSON.stringify(o)}`, async () => {
          const { ema: _, ...state } = stateOf(op, count)
          const run = (device: (typeof testedBackends)[number], threads?: number) =>
            runGraph(
              device,
              hyper(o),
              (g, v) => {
                const sumSquares = g.gradSumSquares(count)
                g[op](v.hyper, sumSquares, { count })
                return { sumSquares }
              },
              { banks: state, threads },
            )
          const expected = await run('reference')
          for (const backend of testedBackends) {
            const actual = await run(backend)
            for (const name of Object.keys(expected)) {
              assertCloseToScale(actual[name], expected[name], 1e-6, `${name} (${backend})`)
            }
            if (backend !== 'cpu') continue
            const [one, three] = [await run(backend, 1), await run(backend, 3)]
            for (const name of Object.keys(one)) assertSameBits(three[name], one[name], `${name}, 3 threads`)
          }
        })
      }
    }

    it('with ema, averages the new weights in', async () => {
      const count = 1040
      for (const backend of ['reference' as const, ...testedBackends]) {
        const run = (fused: boolean) =>
          runGraph(
            backend,
            hyper(settings[1]),
            (g, v) => {
              g[op](v.hyper, g.gradSumSquares(count), { count, ema: fused })
              if (!fused) g.ema(v.hyper, { count })
              return {}
            },
            { banks: stateOf(op, count) },
          )
        const [one, two] = [await run(true), await run(false)]
        for (const name of Object.keys(two)) assertSameBits(one[name], two[name], `${name} (${backend})`)
        assert.notDeepEqual(one.ema, banks(count).ema)
      }
    })

    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e20]) {
      it(`changes nothing where a gradient is ${bad}`, async () => {
        const count = 1040
        const before: Record<string, Float32Array> = stateOf(op, count)
        before.grads[777] = bad // 1e20: its square is beyond f32
        for (const backend of ['reference' as const, ...testedBackends]) {
          for (const o of settings) {
            const after = await runGraph(
              backend,
              hyper(o),
              (g, v) => {
                g[op](v.hyper, g.gradSumSquares(count), { count, ema: true })
                return {}
              },
              { banks: before },
            )
            for (const name of Object.keys(before)) {
              if (name === 'grads') continue
              assertSameBits(after[name], before[name], `${name} (${backend})`)
            }
          }
        }
      })
    }
  })

describe('op adamw', () => {
  // torch.optim.AdamW's steps, one by one.
  it('is what torch computes', async () => {
    const count = 16
    const { weights, grads, m, v } = banks(count)
    const expected = [...weights].map((w, i) => {
      const decayed = w * (1 - 1e-2 * 0.1)
      const first = 0.9 * m[i] + 0.1 * grads[i]
      const second = 0.99 * v[i] + 0.01 * grads[i] ** 2
      return decayed - ((1e-2 / (1 - 0.9 ** 3)) * first) / (Math.sqrt(second) / Math.sqrt(1 - 0.99 ** 3) + 1e-8)
    })
    for (const backend of ['reference' as const, ...testedBackends]) {
      const actual = await runGraph(
        backend,
        hyper(settings[0]),
        (g, inputs) => {
          g.adamw(inputs.hyper, g.gradSumSquares(count), { count })
          return {}
        },
        { banks: { weights, grads, m, v } },
      )
      assertClose(actual.weights, expected, { abs: 1e-6, rel: 1e-5 }, backend)
    }
  })
})

describe('op lion', () => {
  // The authors' lines (github.com/google/automl, lion/lion_pytorch.py), one by one.
  it('is what its authors compute', async () => {
    const count = 16
    const { weights, grads, m } = stateOf('lion', count)
    const expected = [...weights].map((w, i) => w * (1 - 1e-2 * 0.1) - 1e-2 * Math.sign(0.9 * m[i] + 0.1 * grads[i]))
    const moments = [...m].map((before, i) => 0.99 * before + 0.01 * grads[i])
    for (const backend of ['reference' as const, ...testedBackends]) {
      const actual = await runGraph(
        backend,
        hyper(settings[0]),
        (g, inputs) => {
          g.lion(inputs.hyper, g.gradSumSquares(count), { count })
          return {}
        },
        { banks: { weights, grads, m } },
      )
      assertClose(actual.weights, expected, { abs: 1e-6, rel: 1e-5 }, backend)
      assertClose(actual.m, moments, { abs: 1e-7, rel: 1e-5 }, backend)
    }
  })
})

describe('op ema', () => {
  for (const count of sizes) {
    it(`${count} parameters`, async () => {
      const { ema, weights } = banks(count)
      const expected = ema.map((e, i) => e - (1 - 0.9) * (e - weights[i]))
      for (const backend of ['reference' as const, ...testedBackends]) {
        const actual = await runGraph(
          backend,
          hyper(settings[0]),
          (g, v) => {
            g.ema(v.hyper, { count })
            return {}
          },
          { banks: { ema, weights } },
        )
        assertClose(actual.ema, expected, { abs: 1e-6, rel: 1e-6 }, backend)
        assertSameBits(actual.weights, weights, 'weights')
      }
    })
  }
})

describe('op gradSumSquares', () => {
  it('is summed in double', async () => {
    const grads = new Float32Array(1 << 20).fill(1e-4)
    grads[0] = 1e4 // in f32, 1e8 + 1e-8 is 1e8
    for (const backend of ['reference' as const, ...testedBackends]) {
      const { y } = await runGraph(backend, {}, (g) => ({ y: g.gradSumSquares(grads.length) }), { banks: { grads } })
      assertClose(y, [1e8 + (2 ** 20 - 1) * 1e-8], { abs: 0, rel: 1e-7 }, backend)
    }
  })
})

describe('gradients of parameters', () => {
  const count = 64
  const weights = new Random(54).normals(count)
  const x = { dims: [3, 2, 2, 5] as const, data: new Random(55).normals(60) }
  const loss = { target: { dims: [3, 2, 2, 3] as const, data: new Random(56).normals(36) } }
  const feeds = { x, ...loss, w: { dims: [3, 1, 1, 1] as const, data: Float32Array.of(1, 2, 3) } }
  const slots = [
    { name: 'weight', shape: [3, 5], offset: 0 },
    { name: 'bias', shape: [3], offset: 16 },
  ]

  for (const backend of ['reference' as const, ...testedBackends]) {
    const run = (zero: boolean, grads: Float32Array) =>
      runGraph(
        backend,
        feeds,
        (g, v) => {
          if (zero) g.zeroGrads({ count })
          const [weight, bias] = slots.map((slot) => g.parameter(slot))
          g.backward(g.weightedSum(g.loss(g.linear(v.x, weight, bias), v.target, { type: 'l2' }), v.w))
          return {}
        },
        { banks: { weights, grads } },
      )

    it(`are added to what is there, unless zeroGrads comes first (${backend})`, async () => {
      const from = (value: number) => new Float32Array(count).fill(value)
      const { grads } = await run(false, from(0))
      assert.ok(grads.slice(0, 15).every((g) => g !== 0))
      const again = await run(false, from(10))
      assertClose(
        again.grads,
        grads.map((g) => g + 10),
        { abs: 1e-5, rel: 0 },
        'added',
      )
      assertSameBits((await run(true, from(10))).grads, grads, 'zeroed')
    })
  }
})
