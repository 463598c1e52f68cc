/**
 * The mixed half of an op's tests: each backend that has a precision against the reference at that precision. What is read
 * narrow is the same number for both; what is written narrow may differ by one unit in the last place, where float32
 * results that are nearly equal round apart; what is written wide agrees as in fp32.
 */
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import type { Dims, Precision } from '../../lib/native'
import { assertClose, assertCloseToScale, largestOf } from './compare'
import { isDeviceChosen } from './devices'
import { Random } from './random'
import { count, type Feeds, normals, runGraph, testedBackends, type Values } from './run-graph'
import type { OpCase } from './test-op'

/** One unit in the last place, of numbers just above a power of two. */
export const unit = { fp32: 2 ** -23, fp16: 2 ** -10, bf16: 2 ** -7 }

/** Which of an op's activations are narrow: its inputs (and their gradients), its output (and the gradient that comes in). */
interface Variant {
  readonly precision: Precision
  readonly inputs: boolean
  readonly output: boolean
}

const variants: readonly Variant[] = [
  { precision: 'fp16', inputs: true, output: true },
  { precision: 'bf16', inputs: true, output: true },
  { precision: 'fp16', inputs: true, output: false },
  { precision: 'bf16', inputs: false, output: true },
]

export const devicesWith = (precision: Precision): DeviceName[] =>
  testedBackends.filter((name) => Device.open(name).info().precisions.includes(precision))

/** Those of them where tensors are narrow; others round as they multiply (test/ops/bf16.test.ts). */
export const narrowDevices = (precision: Precision): DeviceName[] =>
  devicesWith(precision).filter((name) => !Device.open(name).info().roundsOperands)

/**
 * An upstream gradient that does not depend on the output, so that outputs that round apart don't make it another one: the
 * signs of the distance to a target that is far out, scaled by channel.
 */
function upstreamOf(dims: Dims, random: Random): Feeds {
  const [n, , , c] = dims
  return {
    upstreamTarget: { dims, data: random.normals(count(dims)).map((x) => 1e4 * Math.sign(x)) },
    upstreamScale: normals(random, [n, 1, 1, 2 * c]),
    upstreamWeight: normals(random, [n, 1, 1, 1], count(dims) / n, count(dims) / n),
  }
}

/** y, and d_<name> for each of `wrt`. `round` makes a value narrow; a wide gradient is the one of the rounded value. */
function build(g: Graph, feeds: Values, c: OpCase, wrt: readonly string[], variant: Variant): Record<string, Value> {
  const inputs: Record<string, Value> = { ...feeds }
  for (const name of Object.keys(c.inputs)) {
    if (variant.inputs && c.inputs[name].data instanceof Float32Array) inputs[name] = g.round(feeds[name])
  }
  const written = c.build(g, inputs)
  const y = variant.output ? g.round(written) : written
  const outputs: Record<string, Value> = { y }
  if (wrt.length === 0) return outputs
  const loss = g.loss(g.scaleShift(y, feeds.upstreamScale), feeds.upstreamTarget, { type: 'l1' })
  const narrowGradients = variant.inputs && variant.output
  const of = wrt.map((name) => (narrowGradients ? feeds : inputs)[name])
  g.backward(g.weightedSum(loss, feeds.upstreamWeight), of).forEach((gradient, i) => {
    assert.ok(gradient, `the output does not depend on ${wrt[i]}`)
    outputs[`d_${wrt[i]}`] = gradient
  })
  return outputs
}

export async function checkMixed(c: OpCase, wrt: readonly string[], outputDims: Dims): Promise<void> {
  const feeds: Feeds = { ...c.inputs, ...(wrt.length > 0 ? upstreamOf(outputDims, new Random(12)) : {}) }
  const tolerance = c.tolerance ?? 1e-5
  let exact: Float32Array | undefined
  for (const variant of variants) {
    const { precision } = variant
    const devices = narrowDevices(precision)
    if (isDeviceChosen && devices.length === 0) continue
    const run = (device: DeviceName, options: { precision: Precision; forceAlgo?: number }) =>
      runGraph(device, feeds, (g, values) => build(g, values, c, wrt, variant), options)
    // In fp32 nothing is narrow, whatever the variant.
    exact ??= (await runGraph('reference', c.inputs, (g, values) => build(g, values, c, [], variant))).y
    const expected = await run('reference', { precision })
    assertCloseToScale(expected.y, exact, 4 * unit[precision], `y (reference, ${precision}, against fp32)`)
    for (const backend of devices) {
      for (const forceAlgo of [undefined, ...(c.mixedAlgorithms ?? [])]) {
        const actual = await run(backend, { precision, forceAlgo })
        for (const name of Object.keys(expected)) {
          const isNarrow = name === 'y' ? variant.output : variant.inputs && variant.output
          const how = forceAlgo === undefined ? '' : `, algorithm ${forceAlgo}`
          const what = `${name} (${backend}, ${precision}, ${isNarrow ? 'narrow' : 'wide'}${how})`
          const abs = (c.roundsInside ? unit[precision] : tolerance) * largestOf(expected[name])
          const rel = isNarrow || c.roundsInside ? unit[precision] : tolerance
          assertClose(actual[name], expected[name], { abs, rel }, what)
        }
      }
    }
  }
}
