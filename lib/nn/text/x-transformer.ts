/** ldm's x_transformer.py: TransformerWrapper of an Encoder, as TransformerEmbedder and BERTEmbedder make it. */
import type { Value } from '../../graph'
import { integer, number, parseOptions, required, type SchemaOf } from '../../options'
import { Dropout, LayerNorm, Linear } from '../layers'
import { normalOf, type Parameter, ParameterTable, Scope } from '../parameters'
import { buildBlocks, SeparateQkv, TextBlock } from './block'
import { textLimits } from './limits'
import { embedTokens, type TextContext, type TextNetwork, type TextStates } from './network'

/** Of all that are made of a TransformerWrapper. */
export interface TransformerSizes {
  /** Channels of a token. */
  nEmbed: number
  /** Blocks of self-attention and linear layers. */
  nLayer: number
  /** How many tokens a text has at most. Default 77. */
  maxSeqLen?: number
}

/** Of TransformerWrapper. */
export interface TransformerWrapperOptions extends TransformerSizes {
  /** Ids are below this. */
  vocabSize: number
  /** Of the embedded tokens, in training. Default 0. */
  embeddingDropout?: number
}

export const transformerSchema = {
  nEmbed: required(integer(undefined, { min: 1, max: textLimits.width })),
  nLayer: required(integer(undefined, { min: 1, max: textLimits.layers })),
  vocabSize: required(integer(undefined, { min: 1, max: textLimits.vocabSize })),
  maxSeqLen: integer(77, { min: 1, max: textLimits.length }),
  embeddingDropout: number(0, { min: 0, max: 1 }),
} satisfies SchemaOf<TransformerWrapperOptions>

export type ResolvedTransformerWrapperOptions = Readonly<Required<TransformerWrapperOptions>>

/** Whatever nEmbed is. */
const heads = 8
const headChannels = 64

/** Tokens attend to all, padding included. Names as in ldm: 'transformer.attn_layers.layers.0.1.to_q.weight'. */
export class TransformerWrapper implements TextNetwork {
  readonly options: ResolvedTransformerWrapperOptions
  readonly parameters = new ParameterTable()
  readonly #tokens: Parameter
  readonly #positions: Parameter
  readonly #dropout: Dropout
  readonly #blocks: readonly TextBlock[]
  readonly #norm: LayerNorm
  readonly #logits: Linear

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: TransformerWrapperOptions) {
    const o = parseOptions('TransformerWrapper', options, transformerSchema)
    this.options = Object.freeze(o)
    const { nEmbed: dim } = o
    const scope = new Scope(this.parameters, 'transformer')
    this.#tokens = scope.parameter('token_emb.weight', [o.vocabSize, dim], normalOf(0.02))
    this.#positions = scope.parameter('pos_emb.emb.weight', [o.maxSeqLen, dim], normalOf(0.02))
    this.#dropout = new Dropout({ p: o.embeddingDropout, layer: 0 })
    this.#blocks = Array.from({ length: o.nLayer }, (_, i) => {
      const [attention, feedForward] = [2 * i, 2 * i + 1].map((layer) => scope.at(`attn_layers.layers.${layer}`))
      const inner = heads * headChannels
      const attentionNorm = new LayerNorm(attention.at('0'), dim)
      const [q, k, v] = ['to_q', 'to_k', 'to_v'].map((name) => {
        return new Linear(attention.at(`1.${name}`), dim, inner, { bias: false })
      })
      const parts = {
        attentionNorm,
        qkv: new SeparateQkv(scope, [q, k, v]),
        out: new Linear(attention.at('1.to_out'), inner, dim),
        feedForwardNorm: new LayerNorm(feedForward.at('0'), dim),
        up: new Linear(feedForward.at('1.net.0.0'), dim, 4 * dim),
        down: new Linear(feedForward.at('1.net.2'), 4 * dim, dim),
      }
      return new TextBlock(parts, { heads, headChannels, activation: 'gelu' })
    })
    this.#norm = new LayerNorm(scope.at('norm'), dim)
    this.#logits = new Linear(scope.at('to_logits'), dim, o.vocabSize)
  }

  get vocabSize(): number {
    return this.options.vocabSize
  }

  get maxLength(): number {
    return this.options.maxSeqLen
  }

  get width(): number {
    return this.options.nEmbed
  }

  build(
    context: TextContext,
    ids: Value,
    { samples, mask }: { readonly samples: number; readonly mask?: Value },
  ): TextStates {
    const embedded = embedTokens(context, ids, samples, { tokens: this.#tokens, positions: this.#positions })
    const hidden = buildBlocks(context, this.#dropout.build(context, embedded), this.#blocks, mask)
    return { hidden, last: this.#norm.build(context, hidden[hidden.length - 1]) }
  }

  /** to_logits of the last states: [n, 1, length, vocabSize]. */
  logits(context: TextContext, last: Value): Value {
    return this.#logits.build(context, last)
  }
}
