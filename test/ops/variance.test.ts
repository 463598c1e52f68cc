import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { type Feed, integers, normals, runGraph, testedBackends } from '../support/run-graph'
import { testOp } from '../support/test-op'

const timesteps = 6
const shapes: readonly [n: number, d: number][] = [
  [1, 1],
  [3, 7],
  [2, 192],
  [3, 2051], // more than one piece
]
/** A mean over more elements would leave finite differences below the last digit of a float32 loss. */
const lossShapes: typeof shapes = [...shapes.slice(0, 3), [3, 301]]
const flat = (seed: number, n: number, d: number, scale = 1) => normals(new Random(seed), [n, 1, 1, d], scale)
const t = (n: number) => integers(new Random(61), [n, 1, 1, 1], timesteps)

/** Log variances around -3, that of the posterior among them; `ends` marks rows that end in x_0. */
function table(ends: (row: number) => boolean): Feed {
  const random = new Random(62)
  const rows = Array.from({ length: timesteps }, (_, row) => {
    const [offset, slope, trueLogVar] = random.normals(3)
    return [-3 + 0.5 * offset, 0.5 + 0.2 * slope, -3 + 0.5 * trueLogVar, ends(row) ? 1 : 0]
  })
  return { dims: [timesteps, 1, 1, 4], data: Float32Array.from(rows.flat()) }
}
const mixed = table((row) => row % 3 === 0)

testOp(
  'varianceNoise',
  shapes.flatMap(([n, d]) =>
    [n, 1].map((noises) => ({
      title: `${n}x${d}, ${noises} of noise`,
      inputs: { x: flat(63, n, d), raw: flat(64, n, d), table: mixed, t: t(n), noise: flat(65, noises, d) },
      build: (g, v) => g.varianceNoise(v.x, v.raw, v.table, v.t, v.noise),
      wrt: [],
      views: ['raw'],
    })),
  ),
)

/** Pixels: levels of 1/127.5, the two ends among them. */
const pixels = (n: number, d: number): Feed => {
  const { dims, data } = integers(new Random(66), [n, 1, 1, d], 256)
  return { dims, data: Float32Array.from(data, (k) => (k < 20 ? -1 : k > 235 ? 1 : k / 127.5 - 1)) }
}

for (const [what, rows] of Object.entries({
  'between posteriors': table(() => false),
  decoder: table(() => true),
  mixed,
})) {
  testOp(
    `variationalLoss, ${what}`,
    lossShapes.map(([n, d]) => {
      const x0 = pixels(n, d)
      const near = (seed: number) => ({
        dims: x0.dims,
        data: flat(seed, n, d, 0.2).data.map((noise, i) => noise + x0.data[i]) as Float32Array,
      })
      return {
        title: `${n}x${d}`,
        inputs: { mean: near(67), trueMean: near(68), x0, raw: flat(69, n, d), table: rows, t: t(n) },
        build: (g, v) => g.variationalLoss(v.mean, v.trueMean, v.x0, v.raw, v.table, v.t),
        wrt: ['raw'],
        views: ['raw'],
      }
    }),
  )
}

describe('variationalLoss', () => {
  const row = (...data: number[]): Feed => ({ dims: [1, 1, 1, data.length], data: Float32Array.from(data) })
  const lossOf = async (backend: (typeof testedBackends)[number], feeds: Record<string, Feed>) => {
    const given = { t: { dims: [1, 1, 1, 1] as const, data: Int32Array.of(0) }, ...feeds }
    const { loss } = await runGraph(backend, given, (g, v) => ({
      loss: g.variationalLoss(v.mean, v.trueMean, v.x0, v.raw, v.table, v.t),
    }))
    return loss
  }
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`is 0 for the true posterior, and by its formula for another (${backend})`, async () => {
      const same = { mean: row(0.3), trueMean: row(0.3), x0: row(0), raw: row(0.5), table: row(-2, 1, -1.5, 0) }
      assertClose(await lossOf(backend, same), [0], { abs: 1e-7, rel: 0 }, 'loss')
      const wider = await lossOf(backend, { ...same, mean: row(0.5), raw: row(1) })
      const expected = (0.5 * (0.5 - 1 + Math.exp(-0.5) + 0.04 * Math.exp(1))) / Math.LN2
      assertClose(wider, [expected], { abs: 1e-6, rel: 1e-6 }, 'loss')
    })

    it(`gives all 256 levels of a pixel a probability of 1 together (${backend})`, async () => {
      const levels = Array.from({ length: 256 }, (_, k) => k / 127.5 - 1)
      let sum = 0
      for (const level of levels) {
        const decoded = { mean: row(0.2), trueMean: row(0), x0: row(level), raw: row(0), table: row(-3, 1, 0, 1) }
        sum += 2 ** -(await lossOf(backend, decoded))[0]
      }
      assertClose([sum], [1], { abs: 1e-4, rel: 0 }, 'sum')
    })
  }
})
