/** OpenCLIP's text transformer (Cherti et al. 2022) by its own names. */
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { boolean, integer, parseOptions, type SchemaOf } from '../../options'
import { LayerNorm, Linear } from '../layers'
import { normalOf, type Parameter, ParameterTable, Scope } from '../parameters'
import { buildBlocks, JoinedQkv, TextBlock } from './block'
import { firstLargest } from './clip'
import { textLimits } from './limits'
import { causalMask } from './mask'
import { embedTokens, statesAt, type TextContext, type TextNetwork, type TextStates } from './network'

/** Of OpenCLIPTextModel: a model's `text_cfg`, camelCased, and its embed_dim. Defaults: ViT-H-14's. */
export interface OpenCLIPTextOptions {
  /** Channels that texts share with images. Default 1024. */
  embedDim?: number
  /** How many tokens a text has at most. Default 77. */
  contextLength?: number
  /** Default 49408. */
  vocabSize?: number
  /** Channels of a token. Default 1024. */
  width?: number
  /** Default 16. */
  heads?: number
  /** Default 24. */
  layers?: number
  /** x sigmoid(1.702 x) in place of the exact GELU. Default false. */
  quickGelu?: boolean
}

const schema = {
  embedDim: integer(1024, { min: 1, max: textLimits.width }),
  contextLength: integer(77, { min: 1, max: textLimits.length }),
  vocabSize: integer(49408, { min: 1, max: textLimits.vocabSize }),
  width: integer(1024, { min: 1, max: textLimits.width }),
  heads: integer(16, { min: 1 }),
  layers: integer(24, { min: 1, max: textLimits.layers }),
  quickGelu: boolean(false),
} satisfies SchemaOf<OpenCLIPTextOptions>

export type ResolvedOpenCLIPTextOptions = Readonly<Required<OpenCLIPTextOptions>>

/** Tokens attend to themselves and those before them, padding included. */
export class OpenCLIPTextModel implements TextNetwork {
  readonly options: ResolvedOpenCLIPTextOptions
  readonly parameters = new ParameterTable()
  readonly #tokens: Parameter
  readonly #positions: Parameter
  readonly #projection: Parameter
  readonly #blocks: readonly TextBlock[]
  readonly #norm: LayerNorm

  /** `prefix`: of the parameters' names. Throws `invalid-argument` and `unknown-option`. */
  constructor(options: OpenCLIPTextOptions = {}, prefix = '') {
    const o = parseOptions('OpenCLIPTextModel', options, schema)
    this.options = Object.freeze(o)
    const { width: dim, heads } = o
    if (dim % heads !== 0) throw invalidArgument('heads', `a divisor of ${dim} channels`, heads)
    const scope = new Scope(this.parameters, prefix)
    // CLIP.init_parameters
    const residual = dim ** -0.5 * (2 * o.layers) ** -0.5
    this.#positions = scope.parameter('positional_embedding', [o.contextLength, dim], normalOf(0.01))
    // It stands on the right of the product.
    this.#projection = scope.parameter('text_projection', [dim, o.embedDim], normalOf(dim ** -0.5), 'linear', {
      axes: [dim, o.embedDim, 1, 1],
      order: [1, 0, 2, 3],
      graphShape: [o.embedDim, dim],
    })
    scope.parameter('logit_scale', [], { kind: 'constant', value: Math.log(1 / 0.07) })
    this.#tokens = scope.parameter('token_embedding.weight', [o.vocabSize, dim], normalOf(0.02))
    this.#blocks = Array.from({ length: o.layers }, (_, i) => {
      const at = (name: string) => scope.at(`transformer.resblocks.${i}.${name}`)
      const parts = {
        attentionNorm: new LayerNorm(at('ln_1'), dim),
        qkv: new JoinedQkv(at('attn'), dim, dim ** -0.5),
        out: new Linear(at('attn.out_proj'), dim, dim, { std: residual }),
        feedForwardNorm: new LayerNorm(at('ln_2'), dim),
        up: new Linear(at('mlp.c_fc'), dim, 4 * dim, { std: (2 * dim) ** -0.5 }),
        down: new Linear(at('mlp.c_proj'), 4 * dim, dim, { std: residual }),
      }
      const activation = o.quickGelu ? 'quick_gelu' : 'gelu'
      return new TextBlock(parts, { heads, headChannels: dim / heads, activation })
    })
    this.#norm = new LayerNorm(scope.at('ln_final'), dim)
  }

  get vocabSize(): number {
    return this.options.vocabSize
  }

  get maxLength(): number {
    return this.options.contextLength
  }

  get width(): number {
    return this.options.width
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

  /** ln_final, of any of the hidden states. */
  normalize(context: TextContext, states: Value): Value {
    return this.#norm.build(context, states)
  }

  /** encode_text of the last states, not normalized: [n, 1, 1, embedDim]. rows: as in `statesAt`, of each text's end. */
  project(context: TextContext, last: Value, rows: Value): Value {
    const { graph } = context
    return graph.linear(statesAt(context, last, rows), graph.parameter(this.#projection))
  }

  /** Where the text ends whose ids these are: at its largest id. */
  endOf(ids: ArrayLike<number>): number {
    return firstLargest(ids)
  }
}
