/** Options of a first stage's training run: their types, defaults and checks. */
import { type AutoencoderLossOptions, lossFields } from '../../autoencoder/options'
import type { AutoencoderConfig, AutoencoderDetails } from '../../nn/autoencoder/options'
import { array, integer, number, oneOf, type Parsed, string, value } from '../../options'
import { type CommonTrainOptions, trainSchema } from '../options'

/** Encoder and decoder of a training; what AutoencoderConfig has no default for has one here. */
export interface TrainAutoencoderConfig extends AutoencoderDetails {
  /** Channels of the first level, a multiple of 32. Default 64. */
  ch?: number
  /** Residual blocks of a level of the encoder; the decoder has one more. Default 1. */
  numResBlocks?: number
  /** Heights of the map at which levels have attention, where images of `resolution` are halved from level to level. Default: none. */
  attnResolutions?: readonly number[]
  /** Channels of the images: 3 for RGB, 1 for grey. Default 3. */
  inChannels?: number
  /** Height and width that attnResolutions are meant for. Default: the height of `size`, or 32. */
  resolution?: number
  /** Channels of the map between encoder and decoder. Default 4, with a codebook 3. */
  zChannels?: number
}

export interface AutoencoderTrainOptions extends CommonTrainOptions, AutoencoderLossOptions {
  /** Height and width of the images in pixels, multiples of 2^(levels - 1). Default: `ddconfig.resolution` for both. */
  size?: readonly number[]
  /**
   * Encoder and decoder: latent-diffusion's `ddconfig`, camelCased. Default: for 32x32 RGB, 64 channels multiplied by [1, 2, 4], one
   * block a level, 4 zChannels (with a codebook 3), no attention but in the middle.
   */
  ddconfig?: TrainAutoencoderConfig
  /** Channels of the latents. Default: zChannels; without a codebook nothing else can be saved as diffusers' AutoencoderKL. */
  embedDim?: number
  /** Entries of a codebook: a VQModel is trained (default: none, an AutoencoderKL). */
  nEmbed?: number
  /** Weight of the posterior's divergence from N(0, 1); not with a codebook (default 1e-6, as in ldm's configurations). */
  klWeight?: number
  /**
   * Files with VGG16's convolutions, as torchvision has them, and lpips' linear layers, for a perceptual loss beside the absolute
   * differences: see LPIPS.fromFiles (default: none; nothing is fetched).
   */
  perceptual?: readonly string[]
  /** Held-out images that are evaluated: the first in the data's order (default 256, or all where there are fewer). */
  validationCount?: number
  /**
   * By which scalar the best checkpoint is kept, the lowest: 'val/rec_loss', 'val/rec_loss_ema' and their like, or 'train/rec_loss', as
   * the mean since the evaluation before (default: 'val/rec_loss_ema' where there is `validation`, or without averages
   * 'val/rec_loss').
   */
  monitor?: string
  /** The optimizer's two decays, each below 1 (default [0.5, 0.9], ldm's; of Lion [0.9, 0.99]). */
  betas?: readonly number[]
  /** Gradients are scaled down to this global norm; 0 for no limit (default 0: the losses are sums over pixels). */
  maxGradNorm?: number
  /** Pictures (inputs, reconstructions) every so many steps, after the first 100, 200 and 500, and at the end; 0 for none (default 1000). */
  sampleEvery?: number
  /** Images in a picture (default 16). */
  sampleCount?: number
  /** What the network is computed in: 'fp32' or 'bf16' (default 'fp32'). */
  precision?: 'fp32' | 'bf16'
}

const {
  model: _model,
  buckets: _buckets,
  augment: _augment,
  classes: _classes,
  from: _from,
  firstStage: _firstStage,
  size: _size,
  textEncoder: _textEncoder,
  tokenizer: _tokenizer,
  captionDropout: _captionDropout,
  scaleFactor: _scaleFactor,
  latents: _latents,
  fidEvery: _fidEvery,
  fidCount: _fidCount,
  fidSteps: _fidSteps,
  inception: _inception,
  sampleSteps: _sampleSteps,
  shardOptimizer: _shardOptimizer,
  ...shared
} = trainSchema

export const autoencoderTrainSchema = {
  ...shared,
  size: array(integer(undefined, { min: 1 }), undefined, 2),
  ddconfig: value<TrainAutoencoderConfig>('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v)),
  embedDim: integer(undefined, { min: 1 }),
  nEmbed: integer(undefined, { min: 1 }),
  klWeight: number(undefined, { min: 0 }),
  perceptual: array(string(''), undefined, 8),
  ...lossFields,
  monitor: string(),
  maxGradNorm: number(0, { min: 0 }),
  precision: oneOf<'fp32' | 'bf16'>(['fp32', 'bf16'], 'fp32'),
}

/**
 * AutoencoderTrainOptions with all defaults filled in.
 * @interface
 */
export type ResolvedAutoencoderTrainOptions = Omit<
  Parsed<typeof autoencoderTrainSchema>,
  'size' | 'ddconfig' | 'embedDim' | 'warmup' | 'validationEvery'
> & {
  /** Height and width. */
  size: readonly [height: number, width: number]
  ddconfig: AutoencoderConfig
  embedDim: number
  warmup: number
  validationEvery: number
}
