/** FrozenOpenCLIPEmbedder of Stability AI's stablediffusion (ldm/modules/encoders/modules.py): Stable Diffusion 2's text encoder. */
import type { JsonObject } from '../../checkpoint/json'
import { invalidArgument } from '../../errors'
import { CLIPTextModel } from '../../nn/text/clip'
import { OpenCLIPTextModel, type OpenCLIPTextOptions } from '../../nn/text/open-clip'
import { clipOptionsOf, clipWeightsOf } from '../../nn/text/open-clip-names'
import { boolean, oneOf, parseOptions, type SchemaOf, string, value } from '../../options'
import type { WeightsSource } from '../stage'
import type { CLIPParts } from './pretrained'
import { type CLIPStageOptions, clipStageSchema, type Encoding, TextStage } from './text-stage'

/** Of FrozenOpenCLIPEmbedder. */
export interface FrozenOpenCLIPEmbedderOptions extends CLIPStageOptions {
  /** OpenCLIP's name of the sizes, where `textConfig` is not given. Default 'ViT-H-14'. */
  arch?: string
  /** The network's sizes. Default: those of `arch`. */
  textConfig?: OpenCLIPTextOptions
  /** Not trained with the diffusion model. Default true. */
  freeze?: boolean
  /** 'penultimate' leaves the last block out; either is normalized. Default 'last'. */
  layer?: 'last' | 'penultimate'
}

const schema = {
  ...clipStageSchema,
  arch: string('ViT-H-14'),
  textConfig: value<OpenCLIPTextOptions>('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v)),
  freeze: boolean(true),
  layer: oneOf(['last', 'penultimate'], 'last'),
} satisfies SchemaOf<FrozenOpenCLIPEmbedderOptions>

const architectures: Readonly<Record<string, OpenCLIPTextOptions>> = {
  'ViT-B-32': { embedDim: 512, width: 512, heads: 8, layers: 12 },
  'ViT-B-16': { embedDim: 512, width: 512, heads: 8, layers: 12 },
  'ViT-L-14': { embedDim: 768, width: 768, heads: 12, layers: 12 },
  'ViT-H-14': {},
  'ViT-g-14': {},
}

/** Weights have the names of the state dict there: 'model.transformer.resblocks.0.attn.in_proj_weight'. Texts are padded with 0. */
export class FrozenOpenCLIPEmbedder extends TextStage<OpenCLIPTextModel> {
  /** Whether it is trained with the diffusion model. */
  readonly trainable: boolean
  readonly #layer: 'last' | 'penultimate'

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: FrozenOpenCLIPEmbedderOptions = {}, source?: WeightsSource) {
    const o = parseOptions('FrozenOpenCLIPEmbedder', options, schema)
    if (!o.textConfig && !Object.hasOwn(architectures, o.arch)) {
      throw invalidArgument('arch', `one of ${Object.keys(architectures).join(', ')}, or textConfig`, o.arch)
    }
    const network = new OpenCLIPTextModel(o.textConfig ?? architectures[o.arch], 'model')
    super('FrozenOpenCLIPEmbedder', network, { ...o, padId: 0 }, source)
    this.trainable = !o.freeze
    this.#layer = o.layer
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for tokenizer, device, seed and precision. */
  get config(): JsonObject {
    const { maxLength, trainable, network } = this
    const freeze = !trainable
    return { kind: 'FrozenOpenCLIPEmbedder', textConfig: network.options, layer: this.#layer, maxLength, freeze }
  }

  /** @internal As a text encoder of transformers, without the layers that are left out; undefined with another length of texts. */
  get asCLIP(): CLIPParts | undefined {
    const { options } = this.network
    if (this.maxLength !== options.contextLength) return undefined
    const layers = this.#layer === 'last' ? options.layers : options.layers - 1
    return {
      options: new CLIPTextModel(clipOptionsOf(options, layers)).options,
      weights: (dict) => clipWeightsOf(dict, layers, 'model.', 'text_model.'),
      padId: 0,
    }
  }

  protected override encoding(): Encoding {
    return {
      kind: this.#layer,
      build: (context, ids, samples) => {
        const { hidden, last } = this.network.build(context, ids, { samples })
        return this.#layer === 'last' ? last : this.network.normalize(context, hidden[hidden.length - 2])
      },
    }
  }
}
