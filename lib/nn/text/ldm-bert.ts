/** diffusers' LDMBertModel, the text encoder of LDMTextToImagePipeline, as ldm's TransformerWrapper: its config.json and names. */
import { DiffusionError, describe } from '../../errors'
import * as options from '../../options'
import type { TransformerWrapperOptions } from './x-transformer'

const owner = 'LDMBertConfig'
const positive = { min: 1 }
const schema = {
  vocab_size: options.integer(30522, positive),
  max_position_embeddings: options.integer(77, positive),
  encoder_layers: options.integer(32, positive),
  encoder_ffn_dim: options.integer(5120, positive),
  encoder_attention_heads: options.integer(8, positive),
  head_dim: options.integer(64, positive),
  d_model: options.integer(1280, positive),
  activation_function: options.string('gelu'),
}

export interface LDMBertConfig {
  readonly options: TransformerWrapperOptions
  /** Fields that say nothing of the numbers that a text becomes, or are of no such class. */
  readonly unknown: readonly string[]
}

/** Throws `invalid-argument`, and `unsupported` for what a TransformerWrapper is not. */
export function ldmBertConfig(config: Readonly<Record<string, unknown>>): LDMBertConfig {
  const { known: c, unknown } = options.parseKnown(owner, config, schema)
  const fixed: readonly (readonly [string, unknown, unknown])[] = [
    ['encoder_attention_heads', c.encoder_attention_heads, 8],
    ['head_dim', c.head_dim, 64],
    ['encoder_ffn_dim', c.encoder_ffn_dim, 4 * c.d_model],
    ['activation_function', c.activation_function, 'gelu'],
  ]
  const wrong = fixed.find(([, value, expected]) => value !== expected)
  if (wrong) {
    const [argument, expected, received] = [wrong[0], describe(wrong[2]), describe(wrong[1])]
    const message = `${owner}'s ${argument}: only ${expected} is supported, got ${received}`
    throw new DiffusionError('unsupported', message, { argument, expected, received })
  }
  const { vocab_size: vocabSize, d_model: nEmbed, encoder_layers: nLayer, max_position_embeddings: maxSeqLen } = c
  return { options: { vocabSize, nEmbed, nLayer, maxSeqLen }, unknown }
}

const modules: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\./, 'token_emb.'],
  [/^model\.embed_positions\./, 'pos_emb.emb.'],
  [/^model\.layer_norm\./, 'norm.'],
  [/^to_logits\./, 'to_logits.'],
]
/** Of a layer's two blocks: self-attention, and the linear layers. */
const ofLayer: Readonly<Record<string, readonly [block: 0 | 1, name: string]>> = {
  self_attn_layer_norm: [0, '0'],
  'self_attn.q_proj': [0, '1.to_q'],
  'self_attn.k_proj': [0, '1.to_k'],
  'self_attn.v_proj': [0, '1.to_v'],
  'self_attn.out_proj': [0, '1.to_out'],
  final_layer_norm: [1, '0'],
  fc1: [1, '1.net.0.0'],
  fc2: [1, '1.net.2'],
}

/** A parameter's name in a TransformerWrapper; what is of none stays. */
export function transformerName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name)
  if (layer && Object.hasOwn(ofLayer, layer[2])) {
    const [block, own] = ofLayer[layer[2]]
    return `transformer.attn_layers.layers.${2 * Number(layer[1]) + block}.${own}.${layer[3]}`
  }
  const found = modules.find(([pattern]) => pattern.test(name))
  return found ? `transformer.${name.replace(found[0], found[1])}` : name
}
