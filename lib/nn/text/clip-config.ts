/** transformers' config.json of a CLIPTextModel (4.20 to 4.57) in terms of CLIPTextModel's options. */
import { DiffusionError, describe } from '../../errors'
import * as options from '../../options'
import type { CLIPTextOptions, ResolvedCLIPTextOptions } from './clip'

const owner = 'CLIPTextConfig'

/** What says nothing of the numbers that a text becomes. */
const ofOthers = [
  ...['architectures', 'bos_token_id', 'pad_token_id', 'dropout', 'dtype', 'initializer_factor', 'initializer_range'],
  ...['model_type', 'projection_dim', 'torch_dtype', 'transformers_version'],
]

const positive = { min: 1 }
const schema = {
  vocab_size: options.integer(49408, positive),
  hidden_size: options.integer(512, positive),
  intermediate_size: options.integer(2048, positive),
  num_hidden_layers: options.integer(12, positive),
  num_attention_heads: options.integer(8, positive),
  max_position_embeddings: options.integer(77, positive),
  hidden_act: options.oneOf(['quick_gelu', 'gelu'], 'quick_gelu'),
  layer_norm_eps: options.number(1e-5, { min: 0 }),
  eos_token_id: options.integer(2, { min: 0 }),
  attention_dropout: options.number(0),
}

export interface CLIPTextConfig {
  readonly options: CLIPTextOptions
  /** Fields that the class does not have. */
  readonly unknown: readonly string[]
}

/** Of a text model, or of a whole CLIP, which has it as text_config. Throws `invalid-argument`, and `unsupported` with dropout. */
export function clipTextConfig(config: Readonly<Record<string, unknown>>): CLIPTextConfig {
  const { text_config: inner } = config
  const own = config.model_type === 'clip' && typeof inner === 'object' && inner !== null ? inner : config
  const fields = Object.entries(own).filter(([name]) => !name.startsWith('_') && !ofOthers.includes(name))
  const { known: c, unknown } = options.parseKnown(owner, Object.fromEntries(fields), schema)
  if (c.attention_dropout !== 0) {
    const received = describe(c.attention_dropout)
    throw new DiffusionError('unsupported', `${owner}: attention_dropout: only 0 is supported, got ${received}`, {
      argument: 'attention_dropout',
      expected: '0',
      received,
    })
  }
  return {
    unknown,
    options: {
      vocabSize: c.vocab_size,
      hiddenSize: c.hidden_size,
      intermediateSize: c.intermediate_size,
      numHiddenLayers: c.num_hidden_layers,
      numAttentionHeads: c.num_attention_heads,
      maxPositionEmbeddings: c.max_position_embeddings,
      hiddenAct: c.hidden_act,
      layerNormEps: c.layer_norm_eps,
      eosTokenId: c.eos_token_id,
    },
  }
}

/** The way back: the fields of config.json. */
export function clipConfigOf(o: ResolvedCLIPTextOptions): Record<string, unknown> {
  return {
    architectures: ['CLIPTextModel'],
    attention_dropout: 0,
    eos_token_id: o.eosTokenId,
    hidden_act: o.hiddenAct,
    hidden_size: o.hiddenSize,
    intermediate_size: o.intermediateSize,
    layer_norm_eps: o.layerNormEps,
    max_position_embeddings: o.maxPositionEmbeddings,
    model_type: 'clip_text_model',
    num_attention_heads: o.numAttentionHeads,
    num_hidden_layers: o.numHiddenLayers,
    torch_dtype: 'float32',
    vocab_size: o.vocabSize,
  }
}
