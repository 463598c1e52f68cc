import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { Purpose } from '../../lib/rng'
import { assertClose, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { compileGraph, type Feed, integers, normals, runGraph, testedBackends } from '../support/run-graph'
import { type OpCase, testOp } from '../support/test-op'

const timesteps = 20
const shapes: readonly [n: number, d: number][] = [
  [1, 1],
  [3, 7],
  [1, 192],
  [3, 2051], // more than one piece
]
const table = (seed: number, columns = 1) => normals(new Random(seed), [timesteps, 1, 1, columns], 0.5)
const flat = (seed: number, n: number, d: number) => normals(new Random(seed), [n, 1, 1, d])
const t = (n: number) => integers(new Random(41), [n, 1, 1, 1], timesteps)
const rng = { dims: [1, 1, 1, 4] as const, data: Int32Array.of(-5, 6, 0, 0) }

testOp(
  'timestepAffine',
  shapes.flatMap(([n, d]): OpCase[] => {
    const inputs = { x: flat(42, n, d), z: flat(43, n, d), a: table(44), b: table(45), t: t(n) }
    return [
      {
        title: `${n}x${d}`,
        inputs,
        build: (g, v) => g.timestepAffine(v.x, v.a, v.t, v.z, v.b),
        wrt: ['x', 'z'],
      },
      {
        title: `${n}x${d}, one z for all samples`,
        inputs: { ...inputs, z: flat(43, 1, d) },
        build: (g, v) => g.timestepAffine(v.x, v.a, v.t, v.z, v.b),
        wrt: ['x'],
      },
      {
        title: `${n}x${d}, no z`,
        inputs: { x: inputs.x, a: inputs.a, t: inputs.t },
        build: (g, v) => g.timestepAffine(v.x, v.a, v.t),
        wrt: ['x'],
      },
    ]
  }),
)

testOp('extract', [
  {
    title: '3 of 20',
    inputs: { table: table(46), t: t(3) },
    build: (g, v) => g.extract(v.table, v.t),
    wrt: [],
    tolerance: 0,
  },
])

describe('nextStep', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`counts samples' steps up and looks up their timesteps, the last beyond the end (${backend})`, async () => {
      const device = Device.open(backend)
      const program = compileGraph(backend, (g) => {
        const [step, t] = ['step', 't'].map((name) => g.input(name, [3, 1, 1, 1], 'i32'))
        g.nextStep(step, g.input('table', [4, 1, 1, 1], 'i32'), t)
        return {}
      })
      const bindings = {
        step: device.upload(Int32Array.of(-2, 0, 2)),
        t: device.upload(new Int32Array(3)),
        table: device.upload(Int32Array.of(90, 70, -50, 2 ** 30 + 1)),
      }
      const read = async (name: 'step' | 't') => [...new Int32Array((await bindings[name].read()).buffer)]
      for (const [step, t] of [
        [
          [-1, 1, 3],
          [90, 70, 2 ** 30 + 1],
        ],
        [
          [0, 2, 4],
          [90, -50, 2 ** 30 + 1],
        ],
      ]) {
        await program.run(bindings)
        assert.deepEqual([await read('step'), await read('t')], [step, t])
      }
      program.release()
      for (const buffer of Object.values(bindings)) buffer.release()
    })

    it(`takes each place to the one after it, where that is what the table has (${backend})`, async () => {
      const device = Device.open(backend)
      const program = compileGraph(backend, (g) => {
        const place = g.input('place', [3, 1, 1, 1], 'i32')
        g.nextStep(place, g.input('table', [7, 1, 1, 1], 'i32'), place)
        return {}
      })
      const [place, table] = [Int32Array.of(0, 1, 4), Int32Array.of(0, 2, 3, 4, 5, 0, 1)].map((v) => device.upload(v))
      for (const expected of [
        [2, 3, 0],
        [4, 5, 2],
        [0, 1, 4],
      ]) {
        await program.run({ place, table })
        assert.deepEqual([...new Int32Array((await place.read()).buffer)], expected)
      }
      program.release()
      for (const buffer of [place, table]) buffer.release()
    })
  }
})

/** Extra inputs of the ways that a posterior step gets its noise. */
const noises: Record<string, (n: number, d: number) => Record<string, Feed>> = {
  'no noise': () => ({}),
  'noise given': (n, d) => ({ noise: flat(47, n, d) }),
  'one noise for all samples': (_, d) => ({ noise: flat(47, 1, d) }),
  'noise drawn': (n) => ({
    rng,
    sample: integers(new Random(48), [n, 1, 1, 1], 100),
    step: integers(new Random(49), [n, 1, 1, 1], 100),
  }),
}

for (const result of ['y', 'x0'] as const) {
  testOp(
    `posteriorStep, ${result}`,
    shapes.flatMap(([n, d]) =>
      [true, false].flatMap((clip) =>
        Object.entries(noises).map(([title, noise]) => ({
          title: `${n}x${d}, ${title}${clip ? ', clipped' : ''}`,
          inputs: { x: flat(50, n, d), out: flat(51, n, d), table: table(52, 8), t: t(n), ...noise(n, d) },
          build: (g, v) => {
            const draw = v.rng ? { rng: v.rng, sample: v.sample, step: v.step } : undefined
            return g.posteriorStep(v.x, v.out, v.table, v.t, { clip, noise: v.noise, draw })[result]
          },
          wrt: [],
        })),
      ),
    ),
  )
}

testOp(
  'posteriorStep, x0 divided by a scale',
  shapes.flatMap(([n, d]) =>
    [true, false].map((clip) => {
      const scale: Feed = { dims: [n, 1, 1, 1], data: Float32Array.from({ length: n }, (_, i) => 1 + 0.7 * i) }
      return {
        title: `${n}x${d}${clip ? ', clipped' : ''}`,
        inputs: { x: flat(50, n, d), out: flat(51, n, d), table: table(52, 8), t: t(n), scale },
        build: (g, v) => g.posteriorStep(v.x, v.out, v.table, v.t, { clip, scale: v.scale }).y,
        wrt: [],
      } satisfies OpCase
    }),
  ),
)

describe('posteriorStep', () => {
  const n = 2
  const d = 37
  for (const backend of ['reference' as const, ...testedBackends]) {
    const step = async (feeds: Record<string, Feed>, clip = true) =>
      runGraph(backend, feeds, (g, v) => ({ ...g.posteriorStep(v.x, v.out, v.table, v.t, { clip, noise: v.noise }) }))

    it(`keeps a NaN of the network visible (${backend})`, async () => {
      const out = flat(51, n, d)
      out.data[d + 3] = Number.NaN
      const { y, x0 } = await step({ x: flat(50, n, d), out, table: table(52, 8), t: t(n) })
      for (const values of [y, x0])
        assert.deepEqual(
          [...values.keys()].filter((i) => Number.isNaN(values[i])),
          [d + 3],
        )
    })

    it(`reads no noise factor where there is no noise (${backend})`, async () => {
      const rows = table(52, 8)
      for (let i = 0; i < timesteps; i++) rows.data[8 * i + 5] = Number.NaN
      const { y } = await step({ x: flat(50, n, d), out: flat(51, n, d), table: rows, t: t(n) })
      assert.ok(y.every(Number.isFinite))
    })

    it(`draws what gaussianNoise gives for the purpose 'posterior' (${backend})`, async () => {
      const rows: Feed = { dims: [1, 1, 1, 8], data: Float32Array.of(0, 0, 0, 0, 0, 1, 0, 0) }
      const feeds = {
        x: flat(50, n, d),
        table: rows,
        t: { dims: [n, 1, 1, 1] as const, data: new Int32Array(n) },
        rng,
        sample: { dims: [n, 1, 1, 1] as const, data: Int32Array.of(4, 9) },
        step: { dims: [n, 1, 1, 1] as const, data: Int32Array.of(1, 2) },
      }
      const { y, noise } = await runGraph(backend, feeds, (g, v) => {
        const draw = { rng: v.rng, sample: v.sample, step: v.step }
        return {
          y: g.posteriorStep(v.x, v.x, v.table, v.t, { clip: false, draw }).y,
          noise: g.gaussianNoise(v.rng, v.sample, v.step, { d, purpose: Purpose.posterior }),
        }
      })
      assertClose(y, noise, { abs: 0, rel: 0 }, 'y')
    })
  }
})

describe('gaussianNoise', () => {
  const stream = (samples: number[], steps: number[]) => ({
    rng,
    sample: { dims: [samples.length, 1, 1, 1] as const, data: Int32Array.from(samples) },
    step: { dims: [steps.length, 1, 1, 1] as const, data: Int32Array.from(steps) },
  })
  const draw = async (
    backend: (typeof testedBackends)[number],
    samples: number[],
    steps: number[],
    d: number,
    purpose = 0,
  ) =>
    (
      await runGraph(backend, stream(samples, steps), (g, v) => ({
        y: g.gaussianNoise(v.rng, v.sample, v.step, { d, purpose }),
      }))
    ).y

  for (const backend of testedBackends) {
    it(`has the reference's bits (${backend})`, async () => {
      for (const [n, d] of shapes) {
        const samples = Array.from({ length: n }, (_, i) => 1000 * i)
        assertSameBits(
          await draw(backend, samples, samples, d),
          await draw('reference', samples, samples, d),
          `${n}x${d}`,
        )
      }
    })

    it(`gives a sample the same numbers in any batch (${backend})`, async () => {
      const d = 2051
      const batch = await draw(backend, [8, 5, 6], [0, 3, 0], d)
      assertSameBits(batch.slice(d, 2 * d), await draw(backend, [5], [3], d), 'sample 5')
      assertSameBits(batch.slice(d, d + 100), await draw(backend, [5], [3], 100), 'its first 100 elements')
    })

    it(`has the moments of a normal distribution, and streams that are independent (${backend})`, async () => {
      const d = 200_000
      const streams = [
        await draw(backend, [0], [0], d),
        await draw(backend, [1], [0], d),
        await draw(backend, [0], [1], d),
        await draw(backend, [0], [0], d, 1),
      ]
      const mean = (f: (i: number) => number) => {
        let sum = 0
        for (let i = 0; i < d; i++) sum += f(i)
        return sum / d
      }
      // Each mean within 4.5 standard errors: variances of x, x^2, x^3, x^4 are 1, 2, 15, 96.
      const check = (value: number, expected: number, variance: number, what: string) =>
        assert.ok(Math.abs(value - expected) < 4.5 * Math.sqrt(variance / d), `${what}: ${value}, not ${expected}`)
      for (const x of streams) {
        check(
          mean((i) => x[i]),
          0,
          1,
          'mean',
        )
        check(
          mean((i) => x[i] ** 2),
          1,
          2,
          'variance',
        )
        check(
          mean((i) => x[i] ** 3),
          0,
          15,
          'third moment',
        )
        check(
          mean((i) => x[i] ** 4),
          3,
          96,
          'fourth moment',
        )
        for (const lag of [1, 2, 3, 4])
          check(
            mean((i) => x[i] * x[(i + lag) % d]),
            0,
            1,
            `neighbours ${lag} apart`,
          )
      }
      for (let a = 0; a < streams.length; a++) {
        for (let b = a + 1; b < streams.length; b++)
          check(
            mean((i) => streams[a][i] * streams[b][i]),
            0,
            1,
            `${a}, ${b}`,
          )
      }
    })
  }
})
