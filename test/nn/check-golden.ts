/** The comparison of a UNet with a golden file: output, loss and all gradients. */
import assert from 'node:assert/strict'
import type { DeviceName } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import type { Precision } from '../../lib/native'
import type { Network } from '../../lib/nn/network'
import type { StateDict } from '../../lib/nn/parameters'
import { UNet } from '../../lib/nn/unet/unet'
import { assertClose } from '../support/compare'
import { type Feeds, runGraph, type Values } from '../support/run-graph'
import { Golden } from './golden'

interface Tolerance {
  readonly out: number
  readonly loss: number
  readonly gradient: number
  readonly gradientFloor: number
}

/** Of a tensor's largest value. */
export const tolerance: Tolerance = { out: 1e-4, loss: 1e-5, gradient: 1e-3, gradientFloor: 1e-6 }

/**
 * `u` is the largest relative error of rounding one number. Some twenty roundings in a row, of independent signs, put several of
 * them into the output and more into gradients, which pass through the network twice. Losses are means, in which they cancel. The
 * floor is for gradients that would be 0, where every term leaves its rounding.
 */
const ofRounding = (u: number): Tolerance => ({ out: 8 * u, loss: u, gradient: 48 * u, gradientFloor: u / 4 })

const byPrecision: Record<Precision, Tolerance> = {
  fp32: tolerance,
  fp16: ofRounding(2 ** -11),
  bf16: ofRounding(2 ** -8),
}

/** What the loss is multiplied by for gradients in fp16, which ends at 6e-8. */
const lossScale = 2 ** 10

const largest = (values: Float32Array) => values.reduce((max, v) => Math.max(max, Math.abs(v)), 0)

export function assertScaled(
  actual: Float32Array,
  expected: Float32Array,
  scale: number,
  floor: number,
  what: string,
): void {
  assertClose(actual, expected, { abs: Math.max(scale * largest(expected), floor), rel: 0 }, what)
}

const frozenBank = (frozen: Float32Array) => (frozen.length > 0 ? { frozen } : undefined)

const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i], 0)

export function feedsOf(golden: Golden): Feeds {
  const shape = golden.tensors['in/x'].shape
  const [n, ...rest] = shape
  const d = rest.reduce((a, b) => a * b, 1)
  const feeds: Record<string, Feeds[string]> = {
    x: { dims: [n, 1, 1, d], data: golden.floats('in/x') },
    t: { dims: [n, 1, 1, 1], data: golden.integers('in/t') },
  }
  if (golden.has('in/target')) feeds.target = { dims: [n, 1, 1, d], data: golden.floats('in/target') }
  if (golden.has('in/y')) feeds.y = { dims: [n, 1, 1, 1], data: golden.integers('in/y') }
  if (golden.has('in/context')) {
    const [, length, channels] = golden.tensors['in/context'].shape
    feeds.context = { dims: [n, 1, length, channels], data: golden.floats('in/context') }
  }
  if (golden.has('in/vector')) {
    feeds.vector = { dims: [n, 1, 1, golden.tensors['in/vector'].shape[1]], data: golden.floats('in/vector') }
  }
  return { ...feeds, mean: { dims: [n, 1, 1, 1], data: new Float32Array(n).fill(1 / n) } }
}

export function addUNet(
  graph: Graph,
  unet: Network,
  inputs: Values,
  shape: readonly number[],
  observe?: (name: string, value: Value) => void,
): Value {
  const [, channels, height, width] = shape
  const x = graph.toNhwc(inputs.x, { channels, height, width })
  return graph.toNchw(
    unet.build({ graph, train: false, observe }, x, inputs.t, {
      y: inputs.y,
      context: inputs.context,
      vector: inputs.vector,
    }),
  )
}

export async function checkGolden(
  backend: DeviceName,
  golden: Golden,
  unet: Network,
  weights: StateDict,
  { forceAlgo, precision = 'fp32' }: { forceAlgo?: number; precision?: Precision } = {},
): Promise<void> {
  const allowed = byPrecision[precision]
  const scale = precision === 'fp16' ? lossScale : 1
  const feeds = feedsOf(golden)
  const mean = { ...feeds.mean, data: (feeds.mean.data as Float32Array).map((weight) => scale * weight) }
  const table = unet.parameters
  const { flat, frozen } = await table.fromStateDict(weights)
  const actual = await runGraph(
    backend,
    { ...feeds, mean },
    (graph, inputs) => {
      const out = addUNet(graph, unet, inputs, golden.tensors['in/x'].shape)
      const loss = graph.weightedSum(graph.loss(out, inputs.target, { type: 'l2' }), inputs.mean)
      const names = ['x', 'context', 'vector'].filter((name) => inputs[name])
      const wanted = graph.backward(
        loss,
        names.map((name) => inputs[name]),
      )
      return { out, loss, ...Object.fromEntries(names.map((name, i) => [`grad/${name}`, wanted[i]!])) }
    },
    { banks: { weights: flat, ...frozenBank(frozen), grads: new Float32Array(table.count) }, forceAlgo, precision },
  )
  const unscaled = (values: Float32Array) => values.map((value) => value / scale)
  assertScaled(actual.out, golden.floats('out/out'), allowed.out, 0, 'out')
  assertScaled(unscaled(actual.loss), golden.floats('out/loss'), allowed.loss, 0, 'loss')
  for (const name of golden.names('grad_in/')) {
    const expected = golden.floats(`grad_in/${name}`)
    assertScaled(unscaled(actual[`grad/${name}`]), expected, allowed.gradient, allowed.gradientFloor, `grad_in/${name}`)
  }

  const from = golden.config.grads_in ? await Golden.open(golden.config.grads_in) : golden
  await checkGradients(from, table.toStateDict(unscaled(actual.grads)), weights, allowed)
}

/**
 * All gradients of parameters, of which a file has the large ones by their first row, norm and product with the parameter. Those of
 * `unused` parameters, which it has not, are 0.
 */
export async function checkGradients(
  from: Golden,
  gradients: StateDict,
  weights: StateDict,
  allowed: Tolerance = tolerance,
  unused: (name: string) => boolean = () => false,
): Promise<void> {
  for (const [name, tensor] of Object.entries(gradients)) {
    const gradient = await tensor.data()
    if (unused(name)) {
      assert.equal(largest(gradient), 0, name)
      continue
    }
    const check = (values: Float32Array, expected: string) =>
      assertScaled(values, from.floats(expected), allowed.gradient, allowed.gradientFloor, expected)
    if (from.has(`grad/${name}`)) {
      check(gradient, `grad/${name}`)
      continue
    }
    const row = from.floats(`grad_row0/${name}`)
    check(gradient.slice(0, row.length), `grad_row0/${name}`)
    const norm = Math.sqrt(dot(gradient, gradient))
    check(Float32Array.of(norm), `grad_norm/${name}`)
    const parameter = await weights[name].data()
    const size = norm * Math.sqrt(dot(parameter, parameter))
    const product = Float32Array.of(dot(gradient, parameter))
    assertClose(
      product,
      from.floats(`grad_dot/${name}`),
      { abs: 0.1 * allowed.gradient * size, rel: 0 },
      `grad_dot/${name}`,
    )
  }
  // Nothing is left over that was not compared.
  const known = new Set(Object.keys(gradients))
  assert.deepEqual(
    [...from.names('grad/'), ...from.names('grad_row0/')].filter((name) => !known.has(name)),
    [],
  )
}

/** The output alone, by a program that keeps nothing for gradients, as sampling has. */
export async function checkGoldenOutput(
  backend: DeviceName,
  golden: Golden,
  unet: Network,
  weights: StateDict,
  forceAlgo?: number,
): Promise<void> {
  const { flat, frozen } = await unet.parameters.fromStateDict(weights)
  const { out } = await runGraph(
    backend,
    feedsOf(golden),
    (graph, inputs) => ({ out: addUNet(graph, unet, inputs, golden.tensors['in/x'].shape) }),
    { banks: { weights: flat, ...frozenBank(frozen) }, forceAlgo },
  )
  assertScaled(out, golden.floats('out/out'), tolerance.out, 0, 'out')
}

export async function openUNet(name: string, extra = {}): Promise<{ golden: Golden; unet: UNet; weights: StateDict }> {
  const golden = await Golden.open(`${name}.safetensors`)
  const unet = new UNet(golden.unetOptions(extra))
  const weights = await golden.parameters((parameter) => unet.parameters.get(parameter) !== undefined)
  return { golden, unet, weights }
}

export const goldenFiles = [
  'unet_basic',
  'unet_crossattn',
  'unet_improved_diffusion',
  'unet_newattn_1ch',
  'unet_noconvresample_nonsquare',
  'unet_scaleshift_updown_class',
]
