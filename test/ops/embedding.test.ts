import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { integers, normals, runGraph, testedBackends } from '../support/run-graph'
import { testOp } from '../support/test-op'

testOp(
  'embedding',
  [
    [1, 1, 1],
    [3, 10, 17],
    [9, 2, 32], // rows that several samples share
  ].map(([n, rows, c]) => ({
    title: `${n} of ${rows} rows of ${c}`,
    inputs: { index: integers(new Random(32), [n, 1, 1, 1], rows), table: normals(new Random(33), [rows, 1, 1, c]) },
    build: (g, v) => g.embedding(v.index, v.table),
  })),
)

testOp(
  'embedding of maps',
  [[1, 3, 2, 5] as const, [3, 5, 4, 4] as const].map(([n, h, w, c]) => ({
    title: `${n}x${h}x${w} of 6 rows of ${c}`,
    inputs: { index: integers(new Random(37), [n, h, w, 1], 6), table: normals(new Random(38), [6, 1, 1, c]) },
    build: (g, v) => g.embedding(v.index, v.table),
  })),
)

const settings = [1, 2, 5, 32, 33, 128].flatMap((dim) => [
  { dim, maxPeriod: 10000, freqShift: 0, sinFirst: false },
  { dim, maxPeriod: 10000, freqShift: 0.5, sinFirst: true },
  { dim, maxPeriod: 1000, freqShift: 0, sinFirst: true },
])

testOp(
  'timestepEmbedding',
  settings.flatMap((o) =>
    [
      { title: 'integers', t: integers(new Random(34), [3, 1, 1, 1], 1000) },
      { title: 'fractions', t: normals(new Random(35), [3, 1, 1, 1], 100, 300) },
    ].map(({ title, t }) => ({
      title: `${title}, ${JSON.stringify(o)}`,
      inputs: { t },
      build: (g, v) => g.timestepEmbedding(v.t, o),
      wrt: [],
      tolerance: 1e-6,
    })),
  ),
)

const waves = [1, 4, 19].flatMap((c) =>
  [true, false].flatMap((log) => [
    { c, log, sinFirst: true },
    { c, log, sinFirst: false },
  ]),
)

testOp(
  'fourierEmbedding',
  waves.flatMap(({ c, ...o }) =>
    [
      { title: 'integers', t: Int32Array.of(1, 5, 700) },
      { title: 'fractions', t: Float32Array.of(0.01, 0.7, 50) },
    ].map(({ title, t }) => ({
      title: `${title}, ${c} frequencies, ${JSON.stringify(o)}`,
      inputs: { t: { dims: [3, 1, 1, 1], data: t }, weight: normals(new Random(36), [1, 1, 1, c], 16) },
      build: (g, v) => g.fourierEmbedding(v.t, v.weight, o),
      wrt: [],
      tolerance: 1e-6,
    })),
  ),
)

describe('timestepEmbedding by its formula', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`on ${backend}`, async () => {
      const t = Int32Array.of(0, 7, 999)
      const { y } = await runGraph(backend, { t: { dims: [3, 1, 1, 1], data: t } }, (g, v) => ({
        y: g.timestepEmbedding(v.t, { dim: 8, maxPeriod: 10000, freqShift: 1, sinFirst: true }),
      }))
      const angles = [0, 1, 2, 3].map((i) => 10000 ** (-i / 3))
      const expected = [...t].flatMap((s) => [
        ...angles.map((f) => Math.sin(s * f)),
        ...angles.map((f) => Math.cos(s * f)),
      ])
      assertClose(y, expected, { abs: 1e-4, rel: 0 }, 'embedding') // angles are rounded to f32
    })
  }
})
