/** ldm's TransformerEmbedder and BERTEmbedder (modules/encoders/modules.py): text encoders that are trained with the model. */
import type { JsonObject } from '../../checkpoint/json'
import { invalidArgument } from '../../errors'
import {
  type TransformerSizes,
  TransformerWrapper,
  type TransformerWrapperOptions,
  transformerSchema,
} from '../../nn/text/x-transformer'
import { boolean, integer, parseOptions, type SchemaOf } from '../../options'
import type { WeightsSource } from '../stage'
import { type Encoding, TextStage, type TextStageOptions, textStageSchema } from './text-stage'

/** Of TransformerEmbedder. */
export interface TransformerEmbedderOptions extends TextStageOptions, TransformerSizes {
  /** Ids are below this. */
  vocabSize: number
}

/** Of BERTEmbedder. */
export interface BERTEmbedderOptions extends TextStageOptions, TransformerSizes {
  /** Ids are below this. Default 30522, as bert-base-uncased has. */
  vocabSize?: number
  /** Of the embedded tokens, in training. Default 0. */
  embeddingDropout?: number
  /** False: `encode` takes ids only, of a vocabulary of the user's. Default true. */
  useTokenizer?: boolean
}

const { embeddingDropout, ...sizes } = transformerSchema
const transformerEmbedderSchema = { ...textStageSchema, ...sizes } satisfies SchemaOf<TransformerEmbedderOptions>
const bertEmbedderSchema = {
  ...textStageSchema,
  ...sizes,
  vocabSize: integer(30522, { min: 1, max: 2 ** 20 }),
  embeddingDropout,
  useTokenizer: boolean(true),
} satisfies SchemaOf<BERTEmbedderOptions>

/** Padding is attended to. Always 8 heads of 64 channels. Names as in ldm: 'transformer.attn_layers.layers.0.1.to_q.weight'. */
export class TransformerEmbedder extends TextStage<TransformerWrapper> {
  /** It is trained with the diffusion model. */
  readonly trainable = true

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: TransformerEmbedderOptions, source?: WeightsSource) {
    const o = parseOptions('TransformerEmbedder', options, transformerEmbedderSchema)
    super('TransformerEmbedder', new TransformerWrapper(sizesOf(o)), o, source)
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for tokenizer, device, seed and precision. */
  get config(): JsonObject {
    const { embeddingDropout: _, ...sizes } = this.network.options
    return { kind: 'TransformerEmbedder', ...sizes }
  }

  protected override encoding(): Encoding {
    return encodingOf(this.network)
  }
}

/** The same for prompts in BERT's word pieces; `tokenizer` is a folder with the tokenizer.json of bert-base-uncased. */
export class BERTEmbedder extends TextStage<TransformerWrapper> {
  /** It is trained with the diffusion model. */
  readonly trainable = true

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: BERTEmbedderOptions, source?: WeightsSource) {
    const o = parseOptions('BERTEmbedder', options, bertEmbedderSchema)
    if (!o.useTokenizer && o.tokenizer !== undefined) {
      throw invalidArgument('tokenizer', 'nothing with useTokenizer: false', o.tokenizer)
    }
    super('BERTEmbedder', new TransformerWrapper(sizesOf(o)), o, source)
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for tokenizer, device, seed and precision. */
  get config(): JsonObject {
    return { kind: 'BERTEmbedder', ...this.network.options }
  }

  protected override encoding(): Encoding {
    return encodingOf(this.network)
  }
}

const sizesOf = ({ nEmbed, nLayer, vocabSize, maxSeqLen, embeddingDropout }: TransformerWrapperOptions) => {
  return { nEmbed, nLayer, vocabSize, maxSeqLen, embeddingDropout }
}

const encodingOf = (network: TransformerWrapper): Encoding => ({
  kind: 'last',
  build: (context, ids, samples) => network.build(context, ids, { samples }).last,
})
