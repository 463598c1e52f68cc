/** What is between encoder and decoder in a training, and what it adds to the loss: a posterior, or a codebook. */

import { noiseInputs } from '../diffusion/process/process'
import type { Graph, Value } from '../graph'
import type { Autoencoder } from '../nn/autoencoder/autoencoder'
import type { BuildContext } from '../nn/network'
import { Purpose } from '../rng'

/** What a graph of a training's forward pass depends on. */
export interface ForwardShape {
  /** Of the images, [n, c, h, w]. */
  readonly shape: readonly number[]
  /** The posterior's noise is drawn in the program, not given. */
  readonly drawn: boolean
  /** With dropout. */
  readonly train: boolean
}

export interface Forward {
  /** The images, [n, h, w, c]. */
  readonly x: Value
  /** What the decoder's last convolution is given. */
  readonly features: Value
  /** What it makes of that: the reconstruction, but for a tanh that may be behind it (Autoencoder.decodedEnd). */
  readonly image: Value
  /** Of each sample, [n, 1, 1, 1]: the divergence in nats, or the codebook's loss. */
  readonly regularizer: Value
}

/**
 * Encoder, bottleneck, decoder. Inputs: x [n, 1, 1, d]; with a posterior `noise` [n, 1, 1, latents], or rng, sample and step where it
 * is drawn; with dropout dropoutRng.
 */
export function buildForward(graph: Graph, network: Autoencoder, { shape, drawn, train }: ForwardShape): Forward {
  const [n, channels, height, width] = shape
  const x = graph.toNhwc(graph.input('x', [n, 1, 1, channels * height * width]), { channels, height, width })
  const dropout = train && network.shape.dropout > 0
  const context: BuildContext = {
    graph,
    train,
    ...(dropout && { rng: graph.input('dropoutRng', [1, 1, 1, 4], 'i32') }),
  }
  const encoded = network.encode(context, x)
  const { z, regularizer } = network.quantizer
    ? quantized(graph, network, context, encoded)
    : drawnFrom(graph, encoded, drawn)
  return { x, ...network.decodedParts(context, z), regularizer }
}

function quantized(graph: Graph, network: Autoencoder, { train }: BuildContext, encoded: Value) {
  const { quant, loss } = network.quantizer!.quantize({ graph, train }, encoded)
  return { z: quant, regularizer: loss }
}

function drawnFrom(graph: Graph, moments: Value, drawn: boolean) {
  const [n, height, width, twice] = moments.dims
  const channels = twice / 2
  const d = channels * height * width
  const flat = drawn ? drawnNoise(graph, n, d) : graph.input('noise', [n, 1, 1, d])
  const z = graph.gaussianSample(moments, graph.toNhwc(flat, { channels, height, width }))
  return { z, regularizer: graph.gaussianKl(moments) }
}

function drawnNoise(graph: Graph, n: number, d: number): Value {
  const { rng, sample, step } = noiseInputs(graph, n)
  return graph.gaussianNoise(rng, sample, step, { d, purpose: Purpose.latent })
}
