/** The two blocks that a UNet is made of, with the parameter names of either library. */
import { DiffusionError } from '../../errors'
import type { Value } from '../../graph'
import {
  Conv2d,
  Downsample,
  Dropout,
  GroupNorm,
  type Layer,
  Linear,
  type NormOptions,
  observed,
  Upsample,
} from '../layers'
import { type BuildContext, recomputed } from '../network'
import type { Scope } from '../parameters'
import { type Carried, firDownsample, firUpsample } from './skip-blocks'

/** Whose state_dict names and projections: CompVis's and OpenAI's openaimodel.UNetModel, or diffusers' UNet2DModel. */
export type Layout = 'openai' | 'diffusers'

const resBlockNames = {
  openai: {
    norm1: 'in_layers.0',
    conv1: 'in_layers.2',
    embedding: 'emb_layers.1',
    norm2: 'out_layers.0',
    conv2: 'out_layers.3',
    skip: 'skip_connection',
  },
  diffusers: {
    norm1: 'norm1',
    conv1: 'conv1',
    embedding: 'time_emb_proj',
    norm2: 'norm2',
    conv2: 'conv2',
    skip: 'conv_shortcut',
  },
} as const

/** What the blocks are given besides x. */
export interface BlockInputs {
  /**
   * What layers give that is known already: the residual blocks' `embedding` of the time embedding, [n, 1, 1, c], and perhaps those
   * of keys and values of the tokens.
   */
  readonly projected: ReadonlyMap<Linear, Value>
  /** Of cross-attention, [n, 1, l, contextDim]. */
  readonly tokens?: Value
  /** Of skip blocks on the way down and up. */
  readonly down: Carried
  readonly up: Carried
}

export interface ResBlockOptions {
  readonly layout: Layout
  readonly inChannels: number
  readonly outChannels: number
  readonly embeddingChannels: number
  readonly norm: NormOptions
  /** Of the second norm; default norm. */
  readonly normOut?: NormOptions
  readonly dropout: { readonly p: number; readonly layer: number }
  /** The time embedding scales and shifts the second norm, instead of being added before it. */
  readonly scaleShift: boolean
  /** 'fir': by a filter, in place of repeating and averaging. */
  readonly resample?: 'up' | 'down' | 'fir-up' | 'fir-down'
  /** A 1x1 convolution beside the block even where the channels stay the same. Default false. */
  readonly projects?: boolean
  /** Of the output; default 1. */
  readonly divisor?: number
}

/** openaimodel.ResBlock, diffusers' ResnetBlock2D. */
export class ResBlock {
  readonly #norm1: GroupNorm
  readonly #conv1: Conv2d
  /** Of the time embedding after its SiLU, which all blocks share. */
  readonly embedding: Linear
  readonly #norm2: GroupNorm
  readonly #dropout: Dropout
  readonly #conv2: Conv2d
  readonly #skip?: Conv2d
  readonly #resample?: Layer

  constructor(
    readonly scope: Scope,
    private readonly o: ResBlockOptions,
  ) {
    const { inChannels, outChannels, norm, resample } = o
    const names = resBlockNames[o.layout]
    if (resample === 'up') this.#resample = new Upsample(scope, inChannels, { conv: false })
    if (resample === 'down') this.#resample = new Downsample(scope, inChannels, { conv: false, name: '', padding: 1 })
    if (resample === 'fir-up') this.#resample = firUpsample
    if (resample === 'fir-down') this.#resample = firDownsample
    this.#norm1 = new GroupNorm(scope.at(names.norm1), inChannels, norm)
    this.#conv1 = new Conv2d(scope.at(names.conv1), inChannels, outChannels, { kernel: 3, padding: 1 })
    const embedded = o.scaleShift ? 2 * outChannels : outChannels
    this.embedding = new Linear(scope.at(names.embedding), o.embeddingChannels, embedded)
    this.#norm2 = new GroupNorm(scope.at(names.norm2), outChannels, o.normOut ?? norm)
    this.#dropout = new Dropout(o.dropout)
    const zero = o.layout === 'openai'
    this.#conv2 = new Conv2d(scope.at(names.conv2), outChannels, outChannels, { kernel: 3, padding: 1, zero })
    if (o.projects || inChannels !== outChannels)
      this.#skip = new Conv2d(scope.at(names.skip), inChannels, outChannels, { kernel: 1 })
  }

  build(context: BuildContext, x: Value, inputs: Pick<BlockInputs, 'projected'>): Value {
    const y = recomputed(context, () => this.#build(context, x, inputs))
    return observed(context, this.scope.prefix, y)
  }

  #build(context: BuildContext, x: Value, { projected }: Pick<BlockInputs, 'projected'>): Value {
    const { graph } = context
    const resample = (value: Value) => this.#resample?.build(context, value) ?? value
    let h = this.#conv1.build(context, resample(graph.silu(this.#norm1.build(context, x))))
    const e = projected.get(this.embedding)!
    if (this.o.scaleShift) h = graph.scaleShift(this.#norm2.build(context, h), e)
    else h = this.#norm2.build(context, graph.addSample(h, e))
    h = this.#conv2.build(context, this.#dropout.build(context, graph.silu(h)))
    const skipped = resample(x)
    const y = graph.add(this.#skip?.build(context, skipped) ?? skipped, h)
    return divided(context, y, this.o.divisor)
  }
}

export interface AttentionOptions {
  readonly layout: Layout
  readonly channels: number
  readonly heads: number
  /** Undefined: no norm before the projections. */
  readonly norm?: NormOptions
  /** openai: how q, k and v lie in the output of `qkv`; see Graph.attentionQkv. */
  readonly order: 'heads-first' | 'qkv-first'
  /** Of the output; default 1. */
  readonly divisor?: number
}

/** Self-attention over the pixels: openaimodel.AttentionBlock, diffusers' Attention. */
export class AttentionBlock implements Layer {
  readonly #norm?: GroupNorm
  /** One projection to q, k and v, or three. */
  readonly #projections: readonly Linear[]
  readonly #out: Linear

  constructor(
    readonly scope: Scope,
    private readonly o: AttentionOptions,
  ) {
    const { channels, heads, norm } = o
    if (heads < 1 || channels % heads !== 0) {
      throw new DiffusionError(
        'invalid-argument',
        `${scope.prefix}: ${channels} channels can't be split into ${heads} heads`,
        {
          argument: 'numHeads',
          expected: `a divisor of ${channels}`,
          received: String(heads),
        },
      )
    }
    if (norm) this.#norm = new GroupNorm(scope.at(o.layout === 'openai' ? 'norm' : 'group_norm'), channels, norm)
    if (o.layout === 'openai') {
      this.#projections = [new Linear(scope.at('qkv'), channels, 3 * channels, { conv1d: true })]
      this.#out = new Linear(scope.at('proj_out'), channels, channels, { conv1d: true, zero: true })
    } else {
      this.#projections = ['to_q', 'to_k', 'to_v'].map((name) => new Linear(scope.at(name), channels, channels))
      Linear.placeTogether(scope.table, this.#projections)
      this.#out = new Linear(scope.at('to_out.0'), channels, channels)
    }
  }

  build(context: BuildContext, x: Value): Value {
    const y = recomputed(context, () => this.#build(context, x))
    return observed(context, this.scope.prefix, y)
  }

  #build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const { heads, order, channels } = this.o
    const shape = { heads, scale: 1 / Math.sqrt(channels / heads) }
    const h = this.#norm?.build(context, x) ?? x
    const [q, k, v] = Linear.buildAll(context, h, this.#projections)
    const y = k === undefined ? graph.attentionQkv(q, { ...shape, order }) : graph.attention(q, k, v, shape)
    return divided(context, graph.add(x, this.#out.build(context, y)), this.o.divisor)
  }
}

/** diffusers' output_scale_factor. */
function divided({ graph }: BuildContext, x: Value, divisor = 1): Value {
  return divisor === 1 ? x : graph.divSample(x, divisor)
}
