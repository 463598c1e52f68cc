/** CLIP's text model (Radford et al. 2021) by the names of transformers' CLIPTextModel. */
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { integer, number, oneOf, parseOptions, type SchemaOf } from '../../options'
import { LayerNorm, Linear } from '../layers'
import { normalOf, type Parameter, ParameterTable, Scope } from '../parameters'
import { buildBlocks, SeparateQkv, type TextActivation, TextBlock } from './block'
import { textLimits } from './limits'
import { causalMask } from './mask'
import { embedTokens, type TextContext, type TextNetwork, type TextStates } from './network'

/** Of CLIPTextModel, by the names of transformers' CLIPTextConfig and with its defaults. */
export interface CLIPTextOptions {
  /** Default 49408. */
  vocabSize?: number
  /** Channels of a token. Default 512. */
  hiddenSize?: number
  /** Channels between the two linear layers of a block. Default 2048. */
  intermediateSize?: number
  /** Default 12. */
  numHiddenLayers?: number
  /** Default 8. */
  numAttentionHeads?: number
  /** How many tokens a text has at most. Default 77. */
  maxPositionEmbeddings?: number
  /** 'gelu' is the exact one, with erf. Default 'quick_gelu'. */
  hiddenAct?: TextActivation
  /** Default 1e-5. */
  layerNormEps?: number
  /**
   * The pooled state is that at the first of these. Default 2, as in old configurations, where it stands for the largest id of each
   * text.
   */
  eosTokenId?: number
}

/** ViT-L/14's text model, Stable Diffusion 1's. */
export const largeCLIP: CLIPTextOptions = {
  ...{ hiddenSize: 768, intermediateSize: 3072, numHiddenLayers: 12, numAttentionHeads: 12 },
}

const schema = {
  vocabSize: integer(49408, { min: 1, max: textLimits.vocabSize }),
  hiddenSize: integer(512, { min: 1, max: textLimits.width }),
  intermediateSize: integer(2048, { min: 1, max: textLimits.inner }),
  numHiddenLayers: integer(12, { min: 1, max: textLimits.layers }),
  numAttentionHeads: integer(8, { min: 1 }),
  maxPositionEmbeddings: integer(77, { min: 1, max: textLimits.length }),
  hiddenAct: oneOf<TextActivation>(['gelu', 'quick_gelu'], 'quick_gelu'),
  layerNormEps: number(1e-5, { min: 0 }),
  eosTokenId: integer(2, { min: 0 }),
} satisfies SchemaOf<CLIPTextOptions>

export type ResolvedCLIPTextOptions = Readonly<Required<CLIPTextOptions>>

/** Tokens attend to themselves and those before them, padding included. */
export class CLIPTextModel implements TextNetwork {
  readonly options: ResolvedCLIPTextOptions
  readonly parameters = new ParameterTable()
  readonly #tokens: Parameter
  readonly #positions: Parameter
  readonly #blocks: readonly TextBlock[]
  readonly #norm: LayerNorm

  /** `prefix`: of the parameters' names. Throws `invalid-argument` and `unknown-option`. */
  constructor(options: CLIPTextOptions = {}, prefix = '') {
    const o = parseOptions('CLIPTextModel', options, schema)
    this.options = Object.freeze(o)
    const { hiddenSize: dim, numAttentionHeads: heads, layerNormEps: eps } = o
    if (dim % heads !== 0) throw invalidArgument('numAttentionHeads', `a divisor of ${dim} channels`, heads)
    const scope = new Scope(this.parameters, prefix).at('text_model')
    this.#tokens = scope.parameter('embeddings.token_embedding.weight', [o.vocabSize, dim], normalOf(0.02))
    this.#positions = scope.parameter(
      'embeddings.position_embedding.weight',
      [o.maxPositionEmbeddings, dim],
      normalOf(0.02),
    )
    // CLIPPreTrainedModel._init_weights
    const residual = dim ** -0.5 * (2 * o.numHiddenLayers) ** -0.5
    const std = { qkv: residual, out: dim ** -0.5, up: (2 * dim) ** -0.5, down: residual }
    this.#blocks = Array.from({ length: o.numHiddenLayers }, (_, i) => {
      const at = (name: string) => scope.at(`encoder.layers.${i}.${name}`)
      const attention = (name: string, spread: number) => new Linear(at(`self_attn.${name}`), dim, dim, { std: spread })
      const [k, v, q] = ['k_proj', 'v_proj', 'q_proj'].map((name) => attention(name, std.qkv))
      const parts = {
        qkv: new SeparateQkv(scope, [q, k, v]),
        out: attention('out_proj', std.out),
        attentionNorm: new LayerNorm(at('layer_norm1'), dim, { eps }),
        up: new Linear(at('mlp.fc1'), dim, o.intermediateSize, { std: std.up }),
        down: new Linear(at('mlp.fc2'), o.intermediateSize, dim, { std: std.down }),
        feedForwardNorm: new LayerNorm(at('layer_norm2'), dim, { eps }),
      }
      return new TextBlock(parts, { heads, headChannels: dim / heads, activation: o.hiddenAct })
    })
    this.#norm = new LayerNorm(scope.at('final_layer_norm'), dim, { eps })
  }

  get vocabSize(): number {
    return this.options.vocabSize
  }

  get maxLength(): number {
    return this.options.maxPositionEmbeddings
  }

  get width(): number {
    return this.options.hiddenSize
  }

  build(
    context: TextContext,
    ids: Value,
    { samples, mask }: { readonly samples: number; readonly mask?: Value },
  ): TextStates {
    const x = embedTokens(context, ids, samples, { tokens: this.#tokens, positions: this.#positions })
    const hidden = buildBlocks(context, x, this.#blocks, mask ?? causalMask(context.graph, x.dims[2]))
    return { hidden, last: this.normalize(context, hidden[hidden.length - 1]) }
  }

  /** final_layer_norm, of any of the hidden states. */
  normalize(context: TextContext, states: Value): Value {
    return this.#norm.build(context, states)
  }

  /** Where the text ends whose ids these are: the position of what the pooled output is taken from. */
  endOf(ids: ArrayLike<number>): number {
    const { eosTokenId } = this.options
    if (eosTokenId === 2) return firstLargest(ids)
    return Math.max(Array.from(ids).indexOf(eosTokenId), 0)
  }
}

/** The first position of the largest id. */
export function firstLargest(ids: ArrayLike<number>): number {
  let at = 0
  for (let i = 1; i < ids.length; i++) if (ids[i] > ids[at]) at = i
  return at
}
