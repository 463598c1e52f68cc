/** Options of DDPM and of its own methods. */
import type { HubOptions } from '../../checkpoint/hub/snapshot'
import type { LoraNames } from '../../checkpoint/lora-file'
import {
  array,
  boolean,
  type Field,
  integer,
  oneOf,
  required,
  type SchemaOf,
  type Seed,
  seed,
  string,
  value,
} from '../../options'
import type { Tensor } from '../../tensor'
import {
  type ComputeOptions,
  type DiffusionModelOptions,
  modelSchema,
  type ProcessOptions,
} from '../process/model-options'
import {
  type Intermediates,
  type PathOptions,
  pathSchema,
  type SamplingOptions,
  samplingSchema,
} from './sampling-options'

/** The images of a DDPM, and what a batch calls them. */
export interface ImageOptions {
  /** Height and width of samples, in pixels. Default: the network's, or 256. */
  imageSize?: number
  /** Width of samples, where it is another than their height. Default: the network's where `imageSize` is, too. */
  imageWidth?: number
  /** Channels of samples. Default: the network's, or 3. */
  channels?: number
  /** The images' name in a batch. Default 'image'. */
  firstStageKey?: string
  /** The class labels' name in a batch, for a class-conditional network. Default 'class_label'. */
  classKey?: string
  /** The tokens' name in a batch, for a network with cross-attention. Default 'context'. */
  contextKey?: string
  /** The vectors' name in a batch, for a network with `vectorDim`. Default 'vector'. */
  vectorKey?: string
  /** The maps' name in a batch, NHWC, for a network with `concatChannels`. Default 'concat'. */
  concatKey?: string
}

/** Of DDPM. */
export interface DDPMOptions extends DiffusionModelOptions, ImageOptions {}

export const ddpmSchema = {
  ...modelSchema,
  imageSize: integer(undefined, { min: 1 }),
  imageWidth: integer(undefined, { min: 1 }),
  channels: integer(undefined, { min: 1 }),
  firstStageKey: string('image'),
  classKey: string('class_label'),
  contextKey: string('context'),
  vectorKey: string('vector'),
  concatKey: string('concat'),
} satisfies SchemaOf<DDPMOptions>

/** Of DDPM.sample. */
export interface SampleOptions extends SamplingOptions {
  /** How many images. Default 16. */
  batchSize?: number
}

export const sampleSchema = {
  ...samplingSchema,
  batchSize: integer(16, { min: 1 }),
} satisfies SchemaOf<SampleOptions & Intermediates>

/** Of DDPM.interpolate. */
export interface InterpolateOptions extends PathOptions {
  /** The seeds of the first and the last image. */
  seeds: readonly [Seed, Seed]
  /** How many images, the first and the last included. Default 8. */
  count?: number
  /** Which image of the two seeds: its place in a batch of sample(). Default 0. */
  sample?: number
}

export const interpolateSchema = {
  ...pathSchema,
  seeds: required(array(seed())) as Field<InterpolateOptions['seeds']>, // how many is checked by interpolate
  count: integer(8, { min: 2 }),
  sample: integer(0, { min: 0, max: 2 ** 31 - 1 }),
} satisfies SchemaOf<InterpolateOptions>

/** DDPM's options but for those that the files decide. */
export interface PretrainedOptions extends ProcessOptions, ComputeOptions, ImageOptions, HubOptions {
  /** Which weights of several: 'fp16' for diffusion_pytorch_model.fp16.safetensors. Default: those without such a name. */
  variant?: string
  /** Of a training's checkpoint, which has both. Default: the averaged ones where there are any. */
  weights?: 'ema' | 'model'
}

/** Of DDPM.savePretrained. */
export interface SavePretrainedOptions {
  /** The averaged weights or the trained ones. Default: the averaged ones where there are any. */
  weights?: 'ema' | 'model'
  /** Of the tensors of one file, in bytes; more make several files with an index. Default: one file. */
  maxShardSize?: number
  /** 'fp16': weights rounded to half precision, in files of that name. Default: float32. */
  variant?: 'fp16'
}

export const savePretrainedSchema = {
  weights: oneOf(['ema', 'model']),
  maxShardSize: integer(undefined, { min: 1 }),
  variant: oneOf(['fp16']),
} satisfies SchemaOf<SavePretrainedOptions>

/** Of DDPM.saveLora. */
export interface SaveLoraOptions {
  /** Whose names the file has: 'peft' (default), as diffusers' load_lora_weights reads, or 'kohya', as sd-scripts writes. */
  names?: LoraNames
  /** The averaged updates or the trained ones. Default: the averaged ones where there are any. */
  weights?: 'ema' | 'model'
}

export const saveLoraSchema = {
  names: oneOf<LoraNames>(['peft', 'kohya'], 'peft'),
  weights: oneOf(['ema', 'model']),
} satisfies SchemaOf<SaveLoraOptions>

/** Of DDPM.logImages. */
export interface LogImagesOptions {
  /** How many images of the batch, and samples. Default 8. */
  N?: number
  /** How many of the images are shown with more and more noise. Default 2. */
  nRow?: number
  /** Draw samples of the averaged weights, too. Default true. */
  sample?: boolean
  /** Sampling steps, fewer than all. Default: all. */
  steps?: number
  /** Of all noise. Default: the next of the model's own. */
  seed?: Seed
  /** Ends it within one step, with `aborted`. Default: none. */
  signal?: AbortSignal
  /** Which pictures are returned. Default: all. */
  returnKeys?: readonly (keyof LoggedImages)[]
}

export const logImagesSchema = {
  N: integer(8, { min: 1 }),
  nRow: integer(2, { min: 1 }),
  sample: boolean(true),
  steps: integer(undefined, { min: 1 }),
  seed: seed(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
  returnKeys: value<readonly (keyof LoggedImages)[]>('an array of names', Array.isArray),
} satisfies SchemaOf<LogImagesOptions>

/** Pictures to look at. Grids are [3, height, width]. */
export interface LoggedImages {
  /** The batch's images, [n, c, h, w]. */
  inputs: Tensor
  /** Inputs with more and more noise. */
  diffusionRow: Tensor
  /** [N, c, h, w]. */
  samples?: Tensor
  /** Samples with less and less noise. */
  denoiseRow?: Tensor
}
