/** The comparison of an autoencoder with a golden file: what it computes on the way, loss and all gradients. */
import assert from 'node:assert/strict'
import type { DeviceName } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { Autoencoder } from '../../lib/nn/autoencoder/autoencoder'
import { type AutoencoderConfig, autoencoderShape } from '../../lib/nn/autoencoder/options'
import type { StateDict } from '../../lib/nn/parameters'
import { Tensor } from '../../lib/tensor'
import { type Feed, runGraph, type Values } from '../support/run-graph'
import { assertScaled, checkGradients, tolerance } from './check-golden'
import type { Golden } from './golden'
import { hashedWeights } from './hashed-weights'

const camelCase = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())

/** Keyword arguments in camelCase. */
export const camelCased = (o: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(o).map(([name, value]) => [camelCase(name), value]))

export const ddconfigOf = (golden: Golden) =>
  camelCased(golden.config.autoencoder.ddconfig) as unknown as AutoencoderConfig

/** The network of a golden file with its weights: those that the file has, or hashed ones. */
export async function openAutoencoder(golden: Golden): Promise<{ network: Autoencoder; weights: StateDict }> {
  const { embed_dim: embedDim, n_embed: nE } = golden.config.autoencoder
  const codebook = nE === undefined ? undefined : { nE, eDim: embedDim, beta: 0.25, legacy: true }
  const network = new Autoencoder(autoencoderShape(ddconfigOf(golden)), embedDim, codebook)
  const stored = golden.names('param/').length > 0
  const weights = stored ? await golden.parameters(() => true) : hashedWeights(network.parameters)
  return { network, weights }
}

/** A tensor of images as a graph is fed with it. */
function feed(golden: Golden, name: string): Feed {
  const [n, ...rest] = golden.tensors[name].shape
  return { dims: [n, 1, 1, rest.reduce((a, b) => a * b, 1)], data: golden.floats(name) }
}

const nhwc = (graph: Graph, x: Value, [, channels, height, width]: readonly number[]) =>
  graph.toNhwc(x, { channels, height, width })

/** What the file's `config.loss` says, with the outputs that it has by name. */
type Build = (graph: Graph, v: Values, x: Value) => { loss: Value; outputs: Record<string, Value> }

const klLoss =
  (golden: Golden, network: Autoencoder): Build =>
  (graph, v, x) => {
    const context = { graph, train: false }
    const moments = network.encode(context, x)
    const sample = graph.gaussianSample(moments, nhwc(graph, v.noise, golden.tensors['in/noise'].shape))
    const kl = graph.gaussianKl(moments)
    const dec = graph.toNchw(network.decode(context, sample))
    const rec = graph.weightedSum(graph.loss(dec, v.target, { type: 'l2' }), v.mean)
    const scale = golden.config.kl_weight / golden.tensors['in/x'].data.length
    const loss = graph.add(rec, graph.affine(graph.weightedSum(kl, v.ones), { scale }))
    return { loss, outputs: { moments: graph.toNchw(moments), sample: graph.toNchw(sample), kl, dec } }
  }

const vqLoss =
  (golden: Golden, network: Autoencoder): Build =>
  (graph, v, x) => {
    const context = { graph, train: false }
    const h = network.encode(context, x)
    const { quant, number, loss: ofCodes } = network.quantizer!.quantize(context, h)
    const dec = graph.toNchw(network.decode(context, quant))
    const emb_loss = graph.weightedSum(ofCodes, v.mean)
    const rec = graph.weightedSum(graph.loss(dec, v.target, { type: 'l2' }), v.mean)
    const loss = graph.add(rec, graph.affine(emb_loss, { scale: golden.config.codebook_weight }))
    return { loss, outputs: { h: graph.toNchw(h), quant: graph.toNchw(quant), dec, emb_loss, indices: number } }
  }

export async function checkAutoencoder(backend: DeviceName, golden: Golden): Promise<void> {
  const { network, weights } = await openAutoencoder(golden)
  const { shape } = golden.tensors['in/x']
  const [n] = shape
  const vq = network.quantizer !== undefined
  const build = (vq ? vqLoss : klLoss)(golden, network)
  const perSample = (value: number): Feed => ({ dims: [n, 1, 1, 1], data: new Float32Array(n).fill(value) })
  const feeds = {
    x: feed(golden, 'in/x'),
    target: feed(golden, golden.has('in/target') ? 'in/target' : 'in/x'),
    mean: perSample(1 / n),
    ...(vq ? {} : { noise: feed(golden, 'in/noise'), ones: perSample(1) }),
  }
  const { flat } = await network.parameters.fromStateDict(weights)
  const actual = await runGraph(
    backend,
    feeds,
    (graph, v) => {
      const { loss, outputs } = build(graph, v, nhwc(graph, v.x, shape))
      const [gradX] = graph.backward(loss, [v.x])
      return { loss, gradX: gradX!, ...outputs }
    },
    { banks: { weights: flat, grads: new Float32Array(network.parameters.count) } },
  )
  const { loss, gradX, grads, weights: _, indices, ...outputs } = actual
  for (const [name, values] of Object.entries(outputs))
    assertScaled(values, golden.floats(`out/${name}`), tolerance.out, 0, name)
  assertScaled(loss, golden.floats('out/loss'), tolerance.loss, 0, 'loss')
  if (indices) assert.deepEqual(Int32Array.from(indices), golden.integers('out/indices'))
  assertScaled(gradX, golden.floats('grad_in/x'), tolerance.gradient, tolerance.gradientFloor, 'grad_in/x')
  await checkGradients(golden, network.parameters.toStateDict(grads), weights, tolerance)
}

/** A tensor of the file. */
export const tensorOf = (golden: Golden, name: string) => Tensor.from(golden.floats(name), golden.tensors[name].shape)
