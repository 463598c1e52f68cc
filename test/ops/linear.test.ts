import type { DeviceName } from '../../lib/device'
import type { Dims, Precision } from '../../lib/native'
import { assertSameBits } from '../support/compare'
import { testedBackends } from '../support/devices'
import { devicesWith } from '../support/mixed'
import { Random } from '../support/random'
import { count, normals, runGraph } from '../support/run-graph'
import { testOp, titleOf } from '../support/test-op'

const shapes: readonly [x: Dims, out: number][] = [
  [[1, 1, 1, 1], 1],
  [[3, 1, 1, 5], 9],
  [[1, 1, 1, 128], 512],
  [[2, 1, 7, 33], 17], // tokens
  [[3, 4, 5, 64], 6],
]

testOp(
  'linear',
  shapes.flatMap(([x, out]) =>
    [true, false].map((withBias) => {
      const random = new Random(5)
      const inputs = { x: normals(random, x), weight: normals(random, [out, 1, 1, x[3]], 1 / Math.sqrt(x[3])) }
      return {
        title: `${titleOf(x)} -> ${out}${withBias ? '' : ', no bias'}`,
        inputs: withBias ? { ...inputs, bias: normals(random, [1, 1, 1, out]) } : inputs,
        build: (g, v) => g.linear(v.x, v.weight, v.bias),
        views: withBias ? ['x'] : undefined,
        mixed: true,
      }
    }),
  ),
)

// Sampling computes rows of many steps in one product: lib/diffusion/sampling/prepared.ts.
describe('linear: a row does not depend on how many there are', () => {
  const random = new Random(6)
  const rows = 256
  for (const [from, to] of [
    [40, 160],
    [513, 100],
  ]) {
    const x = normals(random, [rows, 1, 1, from])
    const weight = normals(random, [to, 1, 1, from])
    const bias = normals(random, [1, 1, 1, to])
    const run = async (device: DeviceName, precision: Precision, dims: Dims) => {
      const feeds = { x: { dims, data: x.data.slice(0, count(dims)) }, weight, bias }
      const o = { deterministic: true, precision }
      return (await runGraph(device, feeds, (g, v) => ({ y: g.linear(v.x, v.weight, v.bias) }), o)).y
    }
    for (const precision of ['fp32', 'fp16', 'bf16'] as const) {
      for (const device of precision === 'fp32' ? testedBackends : devicesWith(precision)) {
        it(`${from} -> ${to}, ${precision} (${device})`, async () => {
          const all = await run(device, precision, [rows, 1, 1, from])
          for (const some of [1, 2, 3, 7, 16, 32, 100]) {
            const own = await run(device, precision, [some, 1, 1, from])
            assertSameBits(own, all.slice(0, own.length), `${some} rows`)
          }
        })
      }
    }
  }
})
