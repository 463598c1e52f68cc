/** Options of DDPM and of its own methods. */
import { array, boolean, integer, oneOf, type Parsed, required, type Seed, seed, string, value } from '../options'
import type { Tensor } from '../tensor'
import { modelSchema, pathSchema, samplingSchema } from './model-options'

export const ddpmSchema = {
  ...modelSchema,
  /** Height and width of samples; default: the network's, or 256. */
  imageSize: integer(undefined, { min: 1 }),
  /** Width of samples, where it is another than their height; default: the network's where imageSize is, too. */
  imageWidth: integer(undefined, { min: 1 }),
  /** Channels of samples; default: the network's, or 3. */
  channels: integer(undefined, { min: 1 }),
  /** The images' name in a batch. */
  firstStageKey: string('image'),
  /** The class labels' name in a batch, for a class-conditional network. */
  classKey: string('class_label'),
  /** The tokens' name in a batch, for a network with cross-attention. */
  contextKey: string('context'),
}

/**
 * Of DDPM.
 * @interface
 */
export type DDPMOptions = Partial<Parsed<typeof ddpmSchema>>

export const sampleSchema = { ...samplingSchema, batchSize: integer(16, { min: 1 }) }

export const interpolateSchema = {
  ...pathSchema,
  /** The seeds of the first and the last image. */
  seeds: required(array(seed())),
  /** Images, the two included. */
  count: integer(8, { min: 2 }),
  /** Which image of the two seeds. */
  sample: integer(0, { min: 0, max: 2 ** 31 - 1 }),
}

/**
 * Of DDPM.interpolate.
 * @interface
 */
export type InterpolateOptions = Partial<Parsed<typeof interpolateSchema>> & { seeds: readonly [Seed, Seed] }

/**
 * Of DDPM.sample.
 * @interface
 */
export type SampleOptions = Partial<Parsed<typeof sampleSchema>>

/** DDPM's options but for those that the files decide. */
export type PretrainedOptions = Omit<DDPMOptions, 'model' | 'unetConfig'> & {
  /** Which weights of several: 'fp16' for diffusion_pytorch_model.fp16.safetensors. Default: those without such a name. */
  variant?: string
  /** Of a training's checkpoint, which has both. Default: the averaged ones where there are any. */
  weights?: 'ema' | 'model'
}

export const savePretrainedSchema = {
  weights: oneOf(['ema', 'model']),
  /** Of the tensors of one file, in bytes; more make several files with an index. Default: one file. */
  maxShardSize: integer(undefined, { min: 1 }),
  /** 'fp16': weights rounded to half precision, in files of that name. Default: float32. */
  variant: oneOf(['fp16']),
}

/**
 * Of DDPM.savePretrained.
 * @interface
 */
export type SavePretrainedOptions = Partial<Parsed<typeof savePretrainedSchema>>

export const logImagesSchema = {
  N: integer(8, { min: 1 }),
  nRow: integer(2, { min: 1 }),
  sample: boolean(true),
  /** Sampling steps, fewer than all. */
  steps: integer(undefined, { min: 1 }),
  /** Of all noise; default: the next of the model's own. */
  seed: seed(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
  returnKeys: value<readonly (keyof LoggedImages)[]>('an array of names', Array.isArray),
}

/**
 * Of DDPM.logImages.
 * @interface
 */
export type LogImagesOptions = Partial<Parsed<typeof logImagesSchema>>

/** Pictures to look at. Grids are [3, height, width]. */
export interface LoggedImages {
  inputs: Tensor
  /** Inputs with more and more noise. */
  diffusionRow: Tensor
  samples?: Tensor
  /** Samples with less and less noise. */
  denoiseRow?: Tensor
}
