/**
 * Indices beyond a table: clamped to it by every backend's kernels (kernels/ops.h, Tables), refused where a program is bound to
 * them as an Int32Array.
 */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { assertClose, assertSameBits } from '../support/compare'
import { testedBackends } from '../support/devices'
import { Random } from '../support/random'
import { addInputs, compileGraph, type Feeds, normals, type Values } from '../support/run-graph'

const [rows, n, d] = [5, 8, 37]
const wild = Int32Array.of(-1, 0, 4, 5, 2 ** 31 - 1, -(2 ** 31), 2, 1 << 20)
const clamped = wild.map((i) => Math.min(Math.max(i, 0), rows - 1))

const flat = (seed: number) => normals(new Random(seed), [n, 1, 1, d])
const table = (seed: number, columns: number) => normals(new Random(seed), [rows, 1, 1, columns], 0.5)
const terms = { x0: flat(5), raw: flat(6), table: table(7, 4), mean: flat(8), trueMean: flat(9) }

interface Case {
  inputs: Feeds
  build: (g: Graph, v: Values) => Value
  /** What the gradient is taken of; the scatter of `embedding` is its table's. */
  wrt?: string
}

const cases: Record<string, Case> = {
  extract: { inputs: { table: table(1, 1) }, build: (g, v) => g.extract(v.table, v.t) },
  embedding: { inputs: { table: table(1, d) }, build: (g, v) => g.embedding(v.t, v.table), wrt: 'table' },
  timestepAffine: {
    inputs: { x: flat(1), z: flat(2), a: table(3, 1), b: table(4, 1) },
    build: (g, v) => g.timestepAffine(v.x, v.a, v.t, v.z, v.b),
    wrt: 'z',
  },
  posteriorStep: {
    inputs: { x: flat(1), out: flat(2), table: table(3, 8), noise: flat(4) },
    build: (g, v) => g.posteriorStep(v.x, v.out, v.table, v.t, { clip: true, noise: v.noise }).y,
  },
  varianceNoise: {
    inputs: { x: flat(1), raw: flat(2), table: table(3, 4), noise: flat(4) },
    build: (g, v) => g.varianceNoise(v.x, v.raw, v.table, v.t, v.noise),
  },
  crossEntropy: {
    inputs: { logits: normals(new Random(11), [n, 1, 1, rows]) },
    build: (g, v) => g.crossEntropy(v.logits, v.t),
    wrt: 'logits',
  },
  variationalLoss: {
    inputs: terms,
    build: (g, v) => g.variationalLoss(v.mean, v.trueMean, v.x0, v.raw, v.table, v.t),
    wrt: 'raw',
  },
}

function outputsOf(g: Graph, v: Values, { build, wrt }: Case): Record<string, Value> {
  const y = build(g, v)
  if (!wrt) return { y }
  const loss = g.weightedSum(g.loss(y, g.silu(y), { type: 'l2' }), g.input('weights of samples', [n, 1, 1, 1]))
  const [gradient] = g.backward(loss, [v[wrt]])
  assert.ok(gradient)
  return { y, gradient }
}

async function run(backend: (typeof testedBackends)[number], c: Case, t: Int32Array, onDevice: boolean) {
  const device = Device.open(backend)
  const feeds: Feeds = { ...c.inputs, t: { dims: [n, 1, 1, 1], data: t } }
  const program = compileGraph(backend, (g) => outputsOf(g, addInputs(g, feeds), c))
  const held = device.upload(t)
  const data = Object.fromEntries(Object.entries(c.inputs).map(([name, feed]) => [name, feed.data]))
  const weights = c.wrt && { 'weights of samples': new Random(10).normals(n) }
  try {
    return await program.run({ ...data, ...weights, t: onDevice ? held : t })
  } finally {
    program.release()
    held.release()
  }
}

describe('indices beyond a table', () => {
  for (const [name, c] of Object.entries(cases)) {
    for (const backend of ['reference', ...testedBackends] as const) {
      it(`are clamped by ${name} on ${backend}`, async () => {
        const [expected, actual] = [await run(backend, c, clamped, false), await run(backend, c, wild, true)]
        const reference = await run('reference', c, wild, true)
        for (const key of Object.keys(expected)) {
          assertSameBits(actual[key], expected[key], key)
          assertClose(actual[key], reference[key], { rel: 1e-4, abs: 1e-5 }, `${key} beside the reference`)
        }
      })
    }

    it(`are refused by ${name} where the host knows them`, async () => {
      for (const bad of [-1, rows, 2 ** 31 - 1]) {
        const t = new Int32Array(n)
        t[n - 1] = bad
        const expected = {
          code: 'invalid-argument',
          argument: 't',
          expected: 'rows from 0 to 4',
          received: String(bad),
        }
        await assert.rejects(run('cpu', c, t, false), expected)
      }
    })
  }
})
