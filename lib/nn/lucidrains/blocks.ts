/** The blocks of denoising-diffusion-pytorch's Unet, with its names. */
import type { Value } from '../../graph'
import { Conv2d, Dropout, type Layer, Linear } from '../layers'
import type { BuildContext } from '../network'
import { ones, type Parameter, type Scope, standardNormal, uniformFanIn } from '../parameters'

/** Tokens that are put before the keys and values of each attention. */
const memoryTokens = 4

/** RMSNorm (Zhang & Sennrich 2019) over the channels of every pixel, with `g` of shape [1, channels, 1, 1]. */
class RmsNorm implements Layer {
  readonly #g: Parameter

  constructor(scope: Scope, channels: number) {
    this.#g = scope.parameter('g', [1, channels, 1, 1], ones)
  }

  /** The smallest length that is divided by is torch.nn.functional.normalize's. */
  build({ graph }: BuildContext, x: Value): Value {
    return graph.rmsNorm(x, graph.parameter(this.#g), { eps: 1e-12 })
  }
}

/** A 1x1 convolution without bias. */
class Projection implements Layer {
  readonly #weight: Parameter

  constructor(scope: Scope, inChannels: number, outChannels: number) {
    this.#weight = scope.parameter('weight', [outChannels, inChannels, 1, 1], uniformFanIn(inChannels))
  }

  build({ graph }: BuildContext, x: Value): Value {
    return graph.linear(x, graph.parameter(this.#weight))
  }
}

/** Two convolutions, each with norm and SiLU; the time embedding scales and shifts after the first norm. */
export class ResnetBlock {
  /** Of silu(time embedding), to scale and shift. */
  readonly embedding: Linear
  readonly #convs: readonly Conv2d[]
  readonly #norms: readonly RmsNorm[]
  readonly #dropout: Dropout
  readonly #skip?: Conv2d

  constructor(
    scope: Scope,
    inChannels: number,
    outChannels: number,
    o: { readonly timeDim: number; readonly dropout: { readonly p: number; readonly layer: number } },
  ) {
    this.embedding = new Linear(scope.at('mlp.1'), o.timeDim, 2 * outChannels)
    const blocks = [scope.at('block1'), scope.at('block2')]
    this.#convs = blocks.map((block, i) => {
      return new Conv2d(block.at('proj'), i === 0 ? inChannels : outChannels, outChannels, { kernel: 3, padding: 1 })
    })
    this.#norms = blocks.map((block) => new RmsNorm(block.at('norm'), outChannels))
    this.#dropout = new Dropout(o.dropout)
    if (inChannels !== outChannels) {
      this.#skip = new Conv2d(scope.at('res_conv'), inChannels, outChannels, { kernel: 1 })
    }
  }

  build(context: BuildContext, x: Value, projected: Value): Value {
    const { graph } = context
    const [first, second] = this.#convs.map((conv, i) => (h: Value) => {
      return this.#norms[i].build(context, conv.build(context, h))
    })
    const scaled = graph.scaleShift(first(x), projected)
    const h = second(this.#dropout.build(context, graph.silu(scaled)))
    return graph.add(graph.silu(h), this.#skip?.build(context, x) ?? x)
  }
}

export interface AttentionOptions {
  readonly heads: number
  readonly headChannels: number
  /** Softmax attention; else linear attention (Shen et al. 2021). */
  readonly full: boolean
}

/** x + attention of norm(x), with memory before the keys and values. */
export class Attention implements Layer {
  readonly #norm: RmsNorm
  readonly #memory: Parameter
  readonly #qkv: Projection
  readonly #out: Conv2d
  readonly #outNorm?: RmsNorm

  constructor(
    scope: Scope,
    channels: number,
    private readonly o: AttentionOptions,
  ) {
    const { heads, headChannels, full } = o
    const inner = heads * headChannels
    this.#norm = new RmsNorm(scope.at('norm'), channels)
    const graphShape = [2, memoryTokens * inner]
    // In the bank [keys, values][token][head][channel], as a pixel's channels are.
    this.#memory = full
      ? scope.parameter('mem_kv', [2, heads, memoryTokens, headChannels], standardNormal, undefined, {
          axes: [2, heads, memoryTokens, headChannels],
          order: [0, 2, 1, 3],
          graphShape,
        })
      : scope.parameter('mem_kv', [2, heads, headChannels, memoryTokens], standardNormal, undefined, {
          axes: [2, heads, headChannels, memoryTokens],
          order: [0, 3, 1, 2],
          graphShape,
        })
    this.#qkv = new Projection(scope.at('to_qkv'), channels, 3 * inner)
    this.#out = new Conv2d(scope.at(full ? 'to_out' : 'to_out.0'), inner, channels, { kernel: 1 })
    if (!full) this.#outNorm = new RmsNorm(scope.at('to_out.1'), channels)
  }

  build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const { heads, headChannels, full } = this.o
    const count = heads * headChannels
    const qkv = this.#qkv.build(context, this.#norm.build(context, x))
    const [q, k, v] = [0, 1, 2].map((i) => graph.slice(qkv, { start: i * count, count }))
    const memory = graph.parameter(this.#memory)
    const keys = graph.prependTokens(k, memory, { row: 0 })
    const values = graph.prependTokens(v, memory, { row: 1 })
    const scale = 1 / Math.sqrt(headChannels)
    const y = full
      ? graph.attention(q, keys, values, { heads, scale })
      : graph.linearAttention(q, keys, values, { heads, scale, querySoftmax: true })
    const out = this.#out.build(context, y)
    return graph.add(this.#outNorm?.build(context, out) ?? out, x)
  }
}

/**
 * Pixels of 2x2 side by side on the channels, and a 1x1 convolution: what a 2x2 convolution of stride 2 computes, whose weight
 * the state dict has as [out, 4 * in, 1, 1].
 */
export class UnshuffleDownsample implements Layer {
  readonly #weight: Parameter
  readonly #bias: Parameter

  constructor(scope: Scope, inChannels: number, outChannels: number) {
    const init = uniformFanIn(4 * inChannels)
    this.#weight = scope.parameter('weight', [outChannels, 4 * inChannels, 1, 1], init, undefined, {
      axes: [outChannels, inChannels, 2, 2],
      order: [0, 2, 3, 1],
      graphShape: [outChannels, inChannels, 2, 2],
    })
    this.#bias = scope.parameter('bias', [outChannels], init)
  }

  build({ graph }: BuildContext, x: Value): Value {
    const [weight, bias] = [graph.parameter(this.#weight), graph.parameter(this.#bias)]
    return graph.conv2d(x, weight, bias, { stride: 2, padding: [0, 0, 0, 0] })
  }
}
