/** What encoder and decoder are made of: ResnetBlock, AttnBlock and LinAttnBlock of latent-diffusion's model.py. */
import type { Value } from '../../graph'
import { Conv2d, Dropout, GroupNorm, type Layer, Linear, observed } from '../layers'
import { type BuildContext, recomputed } from '../network'
import type { Scope } from '../parameters'
import { autoencoderNames } from './names'
import type { AutoencoderShape } from './options'

/** model.py's Normalize. */
export const normOf = (o: AutoencoderShape) => ({ groups: o.normGroups, eps: 1e-6 })

/** Numbers the dropouts of a network. */
export class LayerCounter {
  #next = 0

  next(): number {
    return this.#next++
  }
}

/** ResnetBlock without a time embedding. */
export class ResnetBlock implements Layer {
  readonly #norm1: GroupNorm
  readonly #conv1: Conv2d
  readonly #norm2: GroupNorm
  readonly #dropout: Dropout
  readonly #conv2: Conv2d
  readonly #skip?: Conv2d

  constructor(
    readonly scope: Scope,
    o: AutoencoderShape,
    c: { readonly inChannels: number; readonly outChannels: number; readonly layers: LayerCounter },
  ) {
    const { inChannels, outChannels } = c
    this.#norm1 = new GroupNorm(scope.at('norm1'), inChannels, normOf(o))
    this.#conv1 = new Conv2d(scope.at('conv1'), inChannels, outChannels, { kernel: 3, padding: 1 })
    this.#norm2 = new GroupNorm(scope.at('norm2'), outChannels, normOf(o))
    this.#dropout = new Dropout({ p: o.dropout, layer: c.layers.next() })
    this.#conv2 = new Conv2d(scope.at('conv2'), outChannels, outChannels, { kernel: 3, padding: 1 })
    if (inChannels !== outChannels) {
      const { skip } = autoencoderNames[o.layout].resBlock
      this.#skip = new Conv2d(scope.at(skip), inChannels, outChannels, { kernel: 1 })
    }
  }

  build(context: BuildContext, x: Value): Value {
    const y = recomputed(context, () => this.#build(context, x))
    return observed(context, this.scope.prefix, y)
  }

  #build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const h = this.#conv1.build(context, graph.silu(this.#norm1.build(context, x)))
    const dropped = this.#dropout.build(context, graph.silu(this.#norm2.build(context, h)))
    return graph.add(this.#skip?.build(context, x) ?? x, this.#conv2.build(context, dropped))
  }
}

/** The attention of a level or of the middle; undefined with attnType 'none'. */
export function attentionOf(scope: Scope, o: AutoencoderShape, channels: number): Layer | undefined {
  if (o.attnType === 'none') return undefined
  return o.attnType === 'linear' ? new LinAttnBlock(scope, channels) : new AttnBlock(scope, o, channels)
}

/** Self-attention over the pixels, one head of all channels. */
class AttnBlock implements Layer {
  readonly #norm: GroupNorm
  readonly #projections: readonly Linear[]
  readonly #out: Linear
  readonly #scale: number

  constructor(
    readonly scope: Scope,
    o: AutoencoderShape,
    channels: number,
  ) {
    const { norm, projections, out, conv2d } = autoencoderNames[o.layout].attention
    this.#norm = new GroupNorm(scope.at(norm), channels, normOf(o))
    this.#projections = projections.map((name) => new Linear(scope.at(name), channels, channels, { conv2d }))
    Linear.placeTogether(scope.table, this.#projections)
    this.#out = new Linear(scope.at(out), channels, channels, { conv2d })
    this.#scale = 1 / Math.sqrt(channels)
  }

  build(context: BuildContext, x: Value): Value {
    const y = recomputed(context, () => this.#build(context, x))
    return observed(context, this.scope.prefix, y)
  }

  #build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const [q, k, v] = Linear.buildAll(context, this.#norm.build(context, x), this.#projections)
    return graph.add(x, this.#out.build(context, graph.attention(q, k, v, { heads: 1, scale: this.#scale })))
  }
}

/** Linear attention (Shen et al. 2021) of one head, without norm, scale or a sum with x, which it replaces. */
class LinAttnBlock implements Layer {
  readonly #qkv: Linear
  readonly #out: Linear

  constructor(
    readonly scope: Scope,
    private readonly channels: number,
  ) {
    this.#qkv = new Linear(scope.at('to_qkv'), channels, 3 * channels, { conv2d: true, bias: false })
    this.#out = new Linear(scope.at('to_out'), channels, channels, { conv2d: true })
  }

  build(context: BuildContext, x: Value): Value {
    const y = recomputed(context, () => this.#build(context, x))
    return observed(context, this.scope.prefix, y)
  }

  #build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const count = this.channels
    const qkv = this.#qkv.build(context, x)
    const [q, k, v] = [0, 1, 2].map((i) => graph.slice(qkv, { start: i * count, count }))
    return this.#out.build(context, graph.linearAttention(q, k, v, { heads: 1, scale: 1, querySoftmax: false }))
  }
}
