/** latent-diffusion's first stages with a codebook: VQModel and VQModelInterface. */
import { readAutoencoderFolder } from '../checkpoint/diffusers/autoencoder'
import type { JsonObject } from '../checkpoint/json'
import { invalidArgument } from '../errors'
import { type DiffusersAutoencoderConfig, diffusersAutoencoder } from '../nn/autoencoder/diffusers'
import { inOwnLayout } from '../nn/autoencoder/layouts'
import { boolean, integer, parseOptions, type SchemaOf } from '../options'
import type { Shape, Tensor } from '../tensor'
import { Codebook, type QuantizeResult, remapField } from './codebook'
import { readCompVisAutoencoder } from './compvis'
import {
  checkMap,
  checkpointSource,
  FirstStage,
  type FirstStageOptions,
  type FirstStageParts,
  type FirstStageRunOptions,
  firstStageSchema,
  type PretrainedFirstStageOptions,
  partsOf,
  partsOfConfig,
  pretrainedFirstStageSchema,
  runSchema,
  type TilingOptions,
} from './first-stage'

export interface VQModelOptions extends FirstStageOptions {
  /** Entries of the codebook. */
  nEmbed: number
  /** The entries in use; see VectorQuantizer2Options. Unknown ones are drawn. Default: all. */
  remap?: readonly number[]
  /** Indices have shape [n, h, w]. Default false: flat. */
  saneIndexShape?: boolean
}

const schema = {
  ...firstStageSchema,
  nEmbed: integer(undefined, { min: 1, max: 2 ** 24 }),
  remap: remapField,
  saneIndexShape: boolean(false),
} satisfies SchemaOf<VQModelOptions>

/** Of VQModelInterface.decode. */
export interface VQDecodeOptions extends FirstStageRunOptions {
  /** Decodes the latents as they are. Default false: the entries of the codebook that are nearest to them. */
  forceNotQuantize?: boolean
}

const decodeSchema = { ...runSchema, forceNotQuantize: boolean(false) } satisfies SchemaOf<VQDecodeOptions>

/** Beside the parts. */
type CodebookOptions = TilingOptions & Pick<VQModelOptions, 'remap' | 'saneIndexShape'>

/** What the two have in common. */
abstract class CodebookStage extends FirstStage {
  readonly nEmbed: number
  readonly #indices: Pick<VQModelOptions, 'remap' | 'saneIndexShape'>
  readonly #codebook: Codebook

  protected constructor(owner: string, options: VQModelOptions | CodebookOptions, parts: FirstStageParts | undefined) {
    const o = parseOptions(owner, options, schema)
    if (!parts && o.nEmbed === undefined) throw invalidArgument('nEmbed', 'entries of the codebook', o.nEmbed)
    const { nEmbed = o.nEmbed!, ...others } = parts ?? partsOf(o)
    super(owner, o, { ...others, nEmbed })
    const { saneIndexShape, remap } = o
    const settings = { nE: nEmbed, eDim: this.embedDim, remap, unknownIndex: 'random', saneIndexShape } as const
    this.nEmbed = nEmbed
    this.#indices = { ...(remap && { remap }), ...(saneIndexShape && { saneIndexShape }) }
    this.#codebook = new Codebook(this, this.network.quantizer!, settings)
  }

  override get config(): JsonObject {
    return { ...super.config, ...this.#indices }
  }

  /** The entries nearest to latents z [n, embedDim, h, w], the loss and the entries' numbers. */
  async quantize(z: Tensor): Promise<QuantizeResult> {
    checkMap(z, 'z', this.embedDim, 1)
    return this.#codebook.quantize(z)
  }

  /** All entries of the codebook, [nEmbed, embedDim]. */
  codebook(): Promise<Tensor> {
    return this.#codebook.all()
  }

  /** The entries of int32 `indices`: [n, embedDim, h, w] for a `shape` [n, h, w, embedDim], else [...shape of indices, embedDim]. */
  getCodebookEntry(indices: Tensor, shape?: Shape): Promise<Tensor> {
    return this.#codebook.entries(indices, shape)
  }

  /** Images [n, c, h, w] to latents [n, embedDim, h', w'] before quantization. */
  async encodeToPrequant(x: Tensor, options: FirstStageRunOptions = {}): Promise<Tensor> {
    const { signal } = parseOptions('encodeToPrequant', options, runSchema)
    return this.encoded(x, signal)
  }

  /**
   * The images of int32 codes [n, h, w]. In upstream it raises: the method that it calls of the quantizer is not there; this is what
   * it says that it does.
   */
  async decodeCode(codes: Tensor, options: FirstStageRunOptions = {}): Promise<Tensor> {
    const { signal } = parseOptions('decodeCode', options, runSchema)
    const [n, height, width, ...more] = codes.shape
    if (width === undefined || more.length > 0)
      throw invalidArgument('codes', 'a shape [n, height, width]', codes.shape)
    return this.decoded(await this.getCodebookEntry(codes, [n, height, width, this.embedDim]), signal)
  }
}

/** The parts of a folder, with weights that are read when first used. */
async function openFolder<T extends CodebookStage>(
  folder: string,
  options: PretrainedFirstStageOptions,
  make: (options: TilingOptions, parts: FirstStageParts) => T,
): Promise<T> {
  const { variant, ...o } = parseOptions('fromPretrained', options, pretrainedFirstStageSchema)
  const found = await readAutoencoderFolder(folder, variant)
  const parts = diffusersAutoencoder('VQModel', found.config)
  const source = async () => inOwnLayout(stage.network, await found.readWeights())
  const stage: T = make(o, { ...parts, source })
  return stage
}

function ofConfig(config: DiffusersAutoencoderConfig, options: PretrainedFirstStageOptions) {
  const { variant: _, ...o } = parseOptions('fromDiffusers', options, pretrainedFirstStageSchema)
  return [o, diffusersAutoencoder('VQModel', config)] as const
}

/** By latent-diffusion's YAML; a ckpt_path is read when the stage is first used. */
async function ofCompVis<T extends CodebookStage>(
  source: string | JsonObject,
  options: PretrainedFirstStageOptions,
  make: (options: CodebookOptions, parts: FirstStageParts) => T,
): Promise<T> {
  const said = await readCompVisAutoencoder(source, ['VQModel', 'VQModelInterface'])
  const { variant: _, ...o } = parseOptions('fromConfig', options, pretrainedFirstStageSchema)
  const { remap, saneIndexShape, ...network } = said.options as JsonObject & CodebookOptions
  const { checkpoint: c } = said
  const parts = partsOfConfig('VQModel', network as JsonObject)
  const stage: T = make(
    { ...o, remap, saneIndexShape },
    { ...parts, source: c && checkpointSource(c.path, c, () => stage) },
  )
  return stage
}

/** An autoencoder whose latents are entries of a codebook (van den Oord et al. 2017; Esser et al. 2021). */
export class VQModel extends CodebookStage {
  /** With initial weights. Throws `invalid-argument`, `unknown-option`, `device-unavailable` and `unsupported`. */
  constructor(options: VQModelOptions)
  /** @internal */
  constructor(options: CodebookOptions, parts: FirstStageParts)
  constructor(options: VQModelOptions | CodebookOptions, parts?: FirstStageParts) {
    super('VQModel', options, parts)
  }

  /** By the config.json of a diffusers VQModel, with initial weights. Throws `invalid-argument` and `unsupported`. */
  static fromDiffusers(config: DiffusersAutoencoderConfig, options: PretrainedFirstStageOptions = {}): VQModel {
    return new VQModel(...ofConfig(config, options))
  }

  /** By a YAML configuration of latent-diffusion whose target is VQModel or VQModelInterface; see AutoencoderKL.fromConfig. */
  static fromConfig(source: string | JsonObject, options: PretrainedFirstStageOptions = {}): Promise<VQModel> {
    return ofCompVis(source, options, (o, parts) => new VQModel(o, parts))
  }

  /** A diffusers folder of a VQModel; see AutoencoderKL.fromPretrained. */
  static fromPretrained(folder: string, options: PretrainedFirstStageOptions = {}): Promise<VQModel> {
    return openFolder(folder, options, (o, parts) => new VQModel(o, parts))
  }

  /** Images [n, c, h, w] to quantized latents. */
  async encode(x: Tensor, options: FirstStageRunOptions = {}): Promise<QuantizeResult> {
    return this.quantize(await this.encodeToPrequant(x, options))
  }

  /** Quantized latents [n, embedDim, h, w] to images. */
  async decode(quant: Tensor, options: FirstStageRunOptions = {}): Promise<Tensor> {
    const { signal } = parseOptions('decode', options, runSchema)
    return this.decoded(quant, signal)
  }

  /** Encodes and decodes; `diff` is the loss of the codebook. */
  async forward(
    x: Tensor,
    options: FirstStageRunOptions = {},
  ): Promise<{ dec: Tensor; diff: number; indices: Tensor }> {
    const { quant, loss, indices } = await this.encode(x, options)
    return { dec: await this.decode(quant, options), diff: loss, indices }
  }
}

/** VQModel as LatentDiffusion uses it, and as diffusers has it: encode does not quantize, decode does. */
export class VQModelInterface extends CodebookStage {
  /** With initial weights. Throws `invalid-argument`, `unknown-option`, `device-unavailable` and `unsupported`. */
  constructor(options: VQModelOptions)
  /** @internal */
  constructor(options: CodebookOptions, parts: FirstStageParts)
  constructor(options: VQModelOptions | CodebookOptions, parts?: FirstStageParts) {
    super('VQModelInterface', options, parts)
  }

  /** By the config.json of a diffusers VQModel, with initial weights. Throws `invalid-argument` and `unsupported`. */
  static fromDiffusers(
    config: DiffusersAutoencoderConfig,
    options: PretrainedFirstStageOptions = {},
  ): VQModelInterface {
    return new VQModelInterface(...ofConfig(config, options))
  }

  /** By a YAML configuration of latent-diffusion whose target is VQModel or VQModelInterface; see AutoencoderKL.fromConfig. */
  static fromConfig(source: string | JsonObject, options: PretrainedFirstStageOptions = {}): Promise<VQModelInterface> {
    return ofCompVis(source, options, (o, parts) => new VQModelInterface(o, parts))
  }

  /** A diffusers folder of a VQModel, or the `vqvae` of a pipeline's; see AutoencoderKL.fromPretrained. */
  static fromPretrained(folder: string, options: PretrainedFirstStageOptions = {}): Promise<VQModelInterface> {
    return openFolder(folder, options, (o, parts) => new VQModelInterface(o, parts))
  }

  /** Images [n, c, h, w] to latents [n, embedDim, h', w'] before quantization. */
  encode(x: Tensor, options: FirstStageRunOptions = {}): Promise<Tensor> {
    return this.encodeToPrequant(x, options)
  }

  /** Latents [n, embedDim, h, w] to images, by default through the codebook. */
  async decode(h: Tensor, options: VQDecodeOptions = {}): Promise<Tensor> {
    const { signal, forceNotQuantize } = parseOptions('decode', options, decodeSchema)
    const quant = forceNotQuantize ? h : (await this.quantize(h)).quant
    return this.decoded(quant, signal)
  }

  /**
   * Of `decode`, with the same choice: the gradient of the sum of `gradient` times the images, with respect to h. That of the nearest entries is
   * h's, straight through (Bengio et al. 2013; VectorQuantizer2).
   */
  override async decodeGradient(h: Tensor, gradient: Tensor, options: VQDecodeOptions = {}): Promise<Tensor> {
    const { forceNotQuantize } = parseOptions('decodeGradient', options, decodeSchema)
    return super.decodeGradient(forceNotQuantize ? h : (await this.quantize(h)).quant, gradient)
  }
}
