/** latent-diffusion's AutoencoderKL, the first stage of Stable Diffusion. */
import { readAutoencoderFolder } from '../checkpoint/diffusers/autoencoder'
import type { JsonObject } from '../checkpoint/json'
import { type DiffusersAutoencoderConfig, diffusersAutoencoder } from '../nn/autoencoder/diffusers'
import { inOwnLayout } from '../nn/autoencoder/layouts'
import { boolean, parseOptions, type SchemaOf } from '../options'
import type { Tensor } from '../tensor'
import { readCompVisAutoencoder } from './compvis'
import {
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
import { DiagonalGaussianDistribution, type PosteriorSampleOptions, posteriorSampleSchema } from './gaussian'

/** Of AutoencoderKL.forward. */
export interface AutoencoderKLForwardOptions extends PosteriorSampleOptions, FirstStageRunOptions {
  /** Decodes a sample of the posterior, else its mode. Default true. */
  samplePosterior?: boolean
}

const forwardSchema = {
  ...posteriorSampleSchema,
  ...runSchema,
  samplePosterior: boolean(true),
} satisfies SchemaOf<AutoencoderKLForwardOptions>

/**
 * Images to the posterior of their latents, and latents to images (Kingma & Welling 2014; Rombach et al. 2022, section 3.1).
 * Latents are as they come, not multiplied by a scale factor.
 */
export class AutoencoderKL extends FirstStage {
  /**
   * With initial weights. Throws `invalid-argument`, `unknown-option`, `device-unavailable`, and `unsupported` for a precision that the
   * device has not got.
   */
  constructor(options: FirstStageOptions)
  /** @internal */
  constructor(options: TilingOptions, parts: FirstStageParts)
  constructor(options: FirstStageOptions | TilingOptions, parts?: FirstStageParts) {
    const o = parseOptions('AutoencoderKL', options, firstStageSchema)
    super('AutoencoderKL', o, parts ?? partsOf(o))
  }

  /** By the config.json of a diffusers AutoencoderKL, with initial weights. Throws `invalid-argument` and `unsupported`. */
  static fromDiffusers(config: DiffusersAutoencoderConfig, options: PretrainedFirstStageOptions = {}): AutoencoderKL {
    const { variant: _, ...o } = parseOptions('fromDiffusers', options, pretrainedFirstStageSchema)
    return new AutoencoderKL(o, diffusersAutoencoder('AutoencoderKL', config))
  }

  /**
   * By a YAML configuration of latent-diffusion, or what it holds, whose target is AutoencoderKL; a ckpt_path is read when the model is
   * first used. What is about training alone, `lossconfig` among it, is left out. Throws `not-found`, `io`, `bad-file`, and with the
   * field's name `unknown-option`, `invalid-argument` and `unsupported`.
   */
  static async fromConfig(
    source: string | JsonObject,
    options: PretrainedFirstStageOptions = {},
  ): Promise<AutoencoderKL> {
    const said = await readCompVisAutoencoder(source, ['AutoencoderKL'])
    const { variant: _, ...o } = parseOptions('fromConfig', options, pretrainedFirstStageSchema)
    const { checkpoint: c } = said
    const stage: AutoencoderKL = new AutoencoderKL(o, {
      ...partsOfConfig('AutoencoderKL', said.options),
      source: c && checkpointSource(c.path, c, () => stage),
    })
    return stage
  }

  /**
   * A diffusers folder of an AutoencoderKL, or the `vae` of a pipeline's. Its weights are read when it is first used. Throws `not-found`,
   * `io`, `bad-file`, `invalid-argument` and `unsupported`.
   */
  static async fromPretrained(folder: string, options: PretrainedFirstStageOptions = {}): Promise<AutoencoderKL> {
    const { variant, ...o } = parseOptions('fromPretrained', options, pretrainedFirstStageSchema)
    const found = await readAutoencoderFolder(folder, variant)
    const parts = diffusersAutoencoder('AutoencoderKL', found.config)
    const source = async () => inOwnLayout(stage.network, await found.readWeights())
    const stage: AutoencoderKL = new AutoencoderKL(o, { ...parts, source })
    return stage
  }

  /**
   * Images [n, c, h, w], usually from -1 to 1, to the posterior of their latents [n, embedDim, h', w'], h' and w' those of the image
   * divided by `factor` and rounded down.
   */
  async encode(x: Tensor, options: FirstStageRunOptions = {}): Promise<DiagonalGaussianDistribution> {
    const { signal } = parseOptions('encode', options, runSchema)
    return DiagonalGaussianDistribution.from(await this.encoded(x, signal))
  }

  /** Latents [n, embedDim, h, w] to images [n, c, factor h, factor w], which are not clamped. */
  async decode(z: Tensor, options: FirstStageRunOptions = {}): Promise<Tensor> {
    const { signal } = parseOptions('decode', options, runSchema)
    return this.decoded(z, signal)
  }

  /** Encodes and decodes. */
  async forward(
    x: Tensor,
    options: AutoencoderKLForwardOptions = {},
  ): Promise<{ dec: Tensor; posterior: DiagonalGaussianDistribution }> {
    const { samplePosterior, signal, ...draw } = parseOptions('forward', options, forwardSchema)
    const posterior = await this.encode(x, { signal })
    const z = samplePosterior ? await posterior.sample(draw) : posterior.mode()
    return { dec: await this.decode(z, { signal }), posterior }
  }
}
