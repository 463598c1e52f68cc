/** ldm's FrozenCLIPEmbedder (modules/encoders/modules.py): Stable Diffusion 1's text encoder, CLIP's. */
import type { JsonObject } from '../../checkpoint/json'
import { invalidArgument } from '../../errors'
import { CLIPTextModel, type CLIPTextOptions, largeCLIP } from '../../nn/text/clip'
import { statesAt } from '../../nn/text/network'
import type { StateDict } from '../../nn/weights'
import { boolean, integer, oneOf, parseOptions, type SchemaOf, string, value } from '../../options'
import type { Tensor } from '../../tensor'
import type { StageCkptReport } from '../checkpoint'
import type { StageLoadOptions, WeightsSource } from '../stage'
import { type CLIPParts, readCLIPFolder } from './pretrained'
import {
  type CLIPStageOptions,
  clipStageSchema,
  type EncodeTextOptions,
  type Encoding,
  encodeTextSchema,
  type TextInput,
  TextStage,
  withoutPositions,
} from './text-stage'

/** Of FrozenCLIPEmbedder. */
export interface FrozenCLIPEmbedderOptions extends CLIPStageOptions {
  /**
   * The model of the hub that sizes are taken from where `textConfig` is not given: OpenAI's CLIPs. Default
   * 'openai/clip-vit-large-patch14'.
   */
  version?: string
  /** The network's sizes. Default: those of `version`. */
  textConfig?: CLIPTextOptions
  /** Not trained with the diffusion model. Default true. */
  freeze?: boolean
  /**
   * What `encode` gives: 'last' the normalized last states, 'pooled' of these the one at the text's end, 'hidden' the states before
   * layer `layerIdx`, not normalized. Default 'last'.
   */
  layer?: 'last' | 'pooled' | 'hidden'
  /** With 'hidden', where it is needed: 0 is the embedding, 1 what the first layer puts out; negative ones count from the end. Default: none. */
  layerIdx?: number
}

const schema = {
  ...clipStageSchema,
  version: string('openai/clip-vit-large-patch14'),
  textConfig: value<CLIPTextOptions>('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v)),
  freeze: boolean(true),
  layer: oneOf(['last', 'pooled', 'hidden'], 'last'),
  layerIdx: integer(),
} satisfies SchemaOf<FrozenCLIPEmbedderOptions>

const base: CLIPTextOptions = { hiddenSize: 512, intermediateSize: 2048, numHiddenLayers: 12, numAttentionHeads: 8 }
const versions: Readonly<Record<string, CLIPTextOptions>> = {
  'openai/clip-vit-base-patch32': base,
  'openai/clip-vit-base-patch16': base,
  'openai/clip-vit-large-patch14': largeCLIP,
  'openai/clip-vit-large-patch14-336': largeCLIP,
}

/** Of FrozenCLIPEmbedder.encode. */
export interface EncodeCLIPOptions extends EncodeTextOptions {
  /**
   * Leaves out so many of the last layers, as diffusers counts (stable-diffusion-webui says one more); what the others give is
   * normalized as the last states are. Default 0.
   */
  clipSkip?: number
}

const encodeSchema = {
  ...encodeTextSchema,
  clipSkip: integer(0, { min: 0 }),
} satisfies SchemaOf<EncodeCLIPOptions>

/** Of FrozenCLIPEmbedder.fromPretrained. */
export interface PretrainedCLIPOptions extends CLIPStageOptions {
  /** Of the weights' files, such as 'fp16'. Default: those without one. */
  variant?: string
  /** Not trained with the diffusion model. Default true. */
  freeze?: boolean
  /** What `encode` gives; see FrozenCLIPEmbedderOptions. Default 'last'. */
  layer?: 'last' | 'pooled' | 'hidden'
  /** With 'hidden', where it is needed; see FrozenCLIPEmbedderOptions. Default: none. */
  layerIdx?: number
}

const { version: _, textConfig: __, ...shared } = schema
const pretrainedSchema = { ...shared, variant: string() } satisfies SchemaOf<PretrainedCLIPOptions>

/** Weights have the names of ldm's state dict: 'transformer.text_model.encoder.layers.0.self_attn.q_proj.weight'. */
export class FrozenCLIPEmbedder extends TextStage<CLIPTextModel> {
  /** Whether it is trained with the diffusion model. */
  readonly trainable: boolean
  readonly #layer: 'last' | 'pooled' | 'hidden'
  readonly #layerIdx?: number

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: FrozenCLIPEmbedderOptions = {}, source?: WeightsSource) {
    const o = parseOptions('FrozenCLIPEmbedder', options, schema)
    if (!o.textConfig && !Object.hasOwn(versions, o.version)) {
      throw invalidArgument('version', `one of ${Object.keys(versions).join(', ')}, or textConfig`, o.version)
    }
    const network = new CLIPTextModel(o.textConfig ?? versions[o.version], 'transformer')
    super('FrozenCLIPEmbedder', network, o, source && (async () => withoutPositions(await source())))
    this.trainable = !o.freeze
    this.#layer = o.layer
    this.#layerIdx = o.layer === 'hidden' ? hiddenIndex(network, o.layerIdx) : undefined
    if (o.layer !== 'hidden' && o.layerIdx !== undefined) {
      throw invalidArgument('layerIdx', "nothing without layer: 'hidden'", o.layerIdx)
    }
  }

  /**
   * That of a pipeline's folder (text_encoder, tokenizer) or of a CLIP's own, by transformers' config.json; its weights are read when
   * it is first used. Fields of the configuration that the class does not have are among `warnings()`. Throws `not-found`, `io`,
   * `bad-file`, `invalid-argument`, `unknown-option` and `unsupported`.
   */
  static async fromPretrained(folder: string, options: PretrainedCLIPOptions = {}): Promise<FrozenCLIPEmbedder> {
    const { variant, ...o } = parseOptions('FrozenCLIPEmbedder.fromPretrained', options, pretrainedSchema)
    const { config, weights, tokenizer } = await readCLIPFolder(folder, 'transformer', variant)
    const stage = new FrozenCLIPEmbedder(
      { ...o, tokenizer: o.tokenizer ?? tokenizer, textConfig: config.options },
      weights,
    )
    stage.warn(config.unknown.map((name) => `${folder}: ${name} is no field of CLIPTextConfig, and is ignored`))
    return stage
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for tokenizer, device, seed and precision. */
  get config(): JsonObject {
    const { maxLength, trainable } = this
    const layer = { layer: this.#layer, ...(this.#layerIdx !== undefined && { layerIdx: this.#layerIdx }) }
    return { kind: 'FrozenCLIPEmbedder', textConfig: this.network.options, ...layer, maxLength, freeze: !trainable }
  }

  /** @internal As a text encoder of transformers; undefined where that gives other states than `encode`. */
  get asCLIP(): CLIPParts | undefined {
    if (this.#layer !== 'last' || this.maxLength !== this.network.maxLength) return undefined
    const weights = async (dict: StateDict) =>
      Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [name.slice('transformer.'.length), tensor]))
    return { options: this.network.options, weights }
  }

  /** Replaces the weights. Throws `state-mismatch`. */
  override loadStateDict(dict: StateDict, options: StageLoadOptions = {}): Promise<StageCkptReport> {
    return super.loadStateDict(withoutPositions(dict), options)
  }

  /** Context tokens [n, length, hiddenSize], with layer 'pooled' [n, 1, hiddenSize]; see TextStage.encode. */
  override async encode(text: TextInput, options: EncodeCLIPOptions = {}): Promise<Tensor> {
    const { clipSkip, ...o } = parseOptions('encode', options, encodeSchema)
    if (clipSkip === 0) return super.encode(text, o)
    const layers = this.network.options.numHiddenLayers
    if (clipSkip > layers) throw invalidArgument('clipSkip', `at most ${layers}, the layers there are`, clipSkip)
    if (this.#layer !== 'last') throw invalidArgument('clipSkip', `0 with layer '${this.#layer}'`, clipSkip)
    return this.run(text, o, {
      kind: `skip ${clipSkip}`,
      build: (context, ids, samples) => {
        const { hidden } = this.network.build(context, ids, { samples })
        return this.network.normalize(context, hidden[layers - clipSkip])
      },
    })
  }

  protected override encoding(): Encoding {
    const { network } = this
    const pooled = this.#layer === 'pooled'
    return {
      kind: this.#layer,
      ...(pooled && { length: 1, endOf: (ids: Int32Array) => network.endOf(ids) }),
      build: (context, ids, samples, rows) => {
        const { hidden, last } = network.build(context, ids, { samples })
        if (this.#layerIdx !== undefined) return hidden[this.#layerIdx]
        return rows ? statesAt(context, last, rows) : last
      },
    }
  }
}

function hiddenIndex(network: CLIPTextModel, given: number | undefined): number {
  const layers = network.options.numHiddenLayers
  if (given === undefined || Math.abs(given) > layers) {
    throw invalidArgument('layerIdx', `an integer from ${-layers} to ${layers}`, given)
  }
  return given < 0 ? layers + 1 + given : given
}
