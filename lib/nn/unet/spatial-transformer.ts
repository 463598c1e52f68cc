/** Attention over the pixels and over context tokens: ldm's attention.py, SpatialTransformer (Rombach et al. 2022, 3.3). */
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Conv2d, GroupNorm, type Layer, LayerNorm, Linear, observed } from '../layers'
import { type BuildContext, recomputed } from '../network'
import type { Scope } from '../parameters'
import type { BlockInputs } from './blocks'

export interface SpatialTransformerOptions {
  readonly channels: number
  readonly heads: number
  /** Channels of a head; heads * headChannels may be other than `channels`. */
  readonly headChannels: number
  /** How many transformer blocks. */
  readonly depth: number
  /** Channels of a context token. */
  readonly contextDim: number
  readonly groups: number
  /** The projections are linear layers in place of 1x1 convolutions: their weights have another shape. */
  readonly linear: boolean
}

/** x + projOut(blocks(projIn(norm(x)))). */
export class SpatialTransformer {
  readonly #norm: GroupNorm
  readonly #projIn: Layer
  readonly #blocks: readonly TransformerBlock[]
  readonly #projOut: Layer

  constructor(
    readonly scope: Scope,
    o: SpatialTransformerOptions,
  ) {
    const inner = o.heads * o.headChannels
    this.#norm = new GroupNorm(scope.at('norm'), o.channels, { groups: o.groups, eps: 1e-6 })
    const project = (name: string, from: number, to: number, zero: boolean) =>
      o.linear
        ? new Linear(scope.at(name), from, to, { zero })
        : new Conv2d(scope.at(name), from, to, { kernel: 1, zero })
    this.#projIn = project('proj_in', o.channels, inner, false)
    this.#blocks = Array.from({ length: o.depth }, (_, i) => {
      return new TransformerBlock(scope.at(`transformer_blocks.${i}`), { ...o, dim: inner })
    })
    this.#projOut = project('proj_out', inner, o.channels, true)
  }

  /** Of the tokens: the layers of keys and values of each block, in turn. */
  get contextLayers(): readonly Linear[][] {
    return this.#blocks.map(({ contextLayers }) => contextLayers)
  }

  build(context: BuildContext, x: Value, inputs: BlockInputs): Value {
    let h = this.#projIn.build(context, this.#norm.build(context, x))
    for (const block of this.#blocks) {
      const input = h
      h = recomputed(context, () => block.build(context, input, inputs))
    }
    return observed(context, this.scope.prefix, context.graph.add(x, this.#projOut.build(context, h)))
  }
}

interface BlockOptions {
  readonly dim: number
  readonly heads: number
  readonly headChannels: number
  readonly contextDim: number
}

/** BasicTransformerBlock: self-attention, cross-attention, feed-forward, each after a norm and around it a residual. */
class TransformerBlock {
  readonly #self: CrossAttention
  readonly #feedForward: FeedForward
  readonly #cross: CrossAttention
  readonly #norms: readonly LayerNorm[]

  constructor(scope: Scope, o: BlockOptions) {
    this.#self = new CrossAttention(scope.at('attn1'), { ...o, contextDim: o.dim })
    this.#feedForward = new FeedForward(scope.at('ff'), o.dim)
    this.#cross = new CrossAttention(scope.at('attn2'), o)
    this.#norms = [1, 2, 3].map((i) => new LayerNorm(scope.at(`norm${i}`), o.dim))
  }

  get contextLayers(): Linear[] {
    return this.#cross.contextLayers
  }

  build(context: BuildContext, x: Value, inputs: BlockInputs): Value {
    const { graph } = context
    const [first, second, third] = this.#norms
    const normed = first.build(context, x)
    let h = graph.add(x, this.#self.build(context, normed))
    h = graph.add(h, this.#cross.build(context, second.build(context, h), inputs))
    return graph.add(h, this.#feedForward.build(context, third.build(context, h)))
  }
}

/** Queries from x, keys and values from the tokens, or from x itself; projections without bias but for the last. */
class CrossAttention {
  readonly #q: Linear
  readonly #k: Linear
  readonly #v: Linear
  readonly #out: Linear

  constructor(
    scope: Scope,
    private readonly o: BlockOptions,
  ) {
    const inner = o.heads * o.headChannels
    this.#q = new Linear(scope.at('to_q'), o.dim, inner, { bias: false })
    this.#k = new Linear(scope.at('to_k'), o.contextDim, inner, { bias: false })
    this.#v = new Linear(scope.at('to_v'), o.contextDim, inner, { bias: false })
    this.#out = new Linear(scope.at('to_out.0'), inner, o.dim)
    Linear.placeTogether(scope.table, [this.#q, this.#k, this.#v])
  }

  get contextLayers(): Linear[] {
    return [this.#k, this.#v]
  }

  /** Without `inputs`: of self-attention. */
  build(context: BuildContext, x: Value, inputs?: BlockInputs): Value {
    const { heads, headChannels } = this.o
    const [q, k, v] = inputs
      ? [this.#q.build(context, x), ...this.#ofTokens(context, inputs)]
      : Linear.buildAll(context, x, [this.#q, this.#k, this.#v])
    const y = context.graph.attention(q, k, v, { heads, scale: 1 / Math.sqrt(headChannels) })
    return this.#out.build(context, y)
  }

  #ofTokens(context: BuildContext, { tokens, projected }: BlockInputs): Value[] {
    const known = this.contextLayers.flatMap((layer) => projected.get(layer) ?? [])
    if (known.length > 0) return known
    if (!tokens) throw invalidArgument('context', 'tokens to attend to', tokens)
    return Linear.buildAll(context, tokens, this.contextLayers)
  }
}

/** GEGLU (Shazeer 2020) to four times the channels, and back. */
class FeedForward {
  readonly #in: Linear
  readonly #out: Linear

  constructor(scope: Scope, dim: number) {
    this.#in = new Linear(scope.at('net.0.proj'), dim, 8 * dim)
    this.#out = new Linear(scope.at('net.2'), 4 * dim, dim)
  }

  build(context: BuildContext, x: Value): Value {
    return this.#out.build(context, context.graph.geglu(this.#in.build(context, x)))
  }
}
