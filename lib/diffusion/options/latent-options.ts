/** Options of LatentDiffusion and of its own methods: ddpm.py's keyword arguments camelCased, with its defaults. */
import {
  boolean,
  func,
  integer,
  number,
  oneOf,
  required,
  type SchemaOf,
  type Seed,
  seed,
  string,
  value,
} from '../../options'
import type { Tensor } from '../../tensor'
import { type Cond, type ConditioningKey, conditioningKeys } from '../latent/conditioning'
import type { ScoreCorrector } from '../latent/score-corrector'
import type { SplitInputParams } from '../latent/split-input'
import type { CondStage, FirstStage } from '../latent/stages'
import {
  type DDPMOptions,
  type InterpolateOptions,
  interpolateSchema,
  type SavePretrainedOptions,
  savePretrainedSchema,
} from './ddpm-options'
import {
  type ConditionOptions,
  clipSchema,
  type LossOptions,
  type PMeanVarianceOptions,
  type PSampleOptions,
  pSampleSchema,
  type TrainBatchOptions,
} from './method-options'
import {
  type ChainOptions,
  chainSchema,
  type GivenNoise,
  type Intermediates,
  loopSchema,
  noiseSchema,
  type PSampleLoopOptions,
  type WatchOptions,
  watchSchema,
} from './sampling-options'

/** Of LatentDiffusion. `imageSize`, `imageWidth` and `channels` are those of latents, as in ddpm.py; `clipDenoised` is false. */
export interface LatentDiffusionOptions extends DDPMOptions {
  /** The autoencoder, which is the model's own from then on: it is disposed of with it. Needed. */
  firstStage?: FirstStage
  /**
   * What makes conditions of a batch's entry: a text encoder, a ClassEmbedder, ...; '__is_first_stage__' encodes as images are, without
   * the scale; '__is_unconditional__' (default): there are no conditions.
   */
  condStage?: CondStage | '__is_first_stage__' | '__is_unconditional__'
  /** The condition's name in a batch. Default 'image'. */
  condStageKey?: string
  /**
   * Train the conditioning stage with the network: one of this package with `trainable`, whose weights are then among those that
   * the optimizer changes. They have no averages. Default false.
   */
  condStageTrainable?: boolean
  /** A method of the conditioning stage in place of `encode`. Default: none. */
  condStageForward?: string
  /** How the network is told the condition. Default: by `concatMode`; none without a conditioning stage. */
  conditioningKey?: ConditioningKey
  /** Without conditioningKey: true (default) is 'concat', false 'crossattn'. */
  concatMode?: boolean
  /** What latents are multiplied by, for a standard deviation of about 1. Default 1. */
  scaleFactor?: number
  /** 1 / the standard deviation of the first training batch's latents as scaleFactor. Default false. */
  scaleByStd?: boolean
  /**
   * More than 1: the shortened schedule of conditions, which get noise of timestep condIds[t] where the samples get that of t: in `forward`
   * and training, and in each step of 'ddpm' sampling, where it piles up. For 'crossattn' and 'concat'. Default 1: they get none.
   */
  numTimestepsCond?: number
  /**
   * Cut what is too large into patches that overlap: the network is applied to each, in losses, training and sampling, too, and with
   * patchDistributedVq the first stage. Default: none.
   */
  splitInputParams?: SplitInputParams
}

const isStage = (v: unknown) => typeof v === 'object' && v !== null && typeof (v as FirstStage).encode === 'function'
const isFirstStage = (v: unknown) => isStage(v) && typeof (v as FirstStage).decode === 'function'

export const latentSchema = {
  firstStage: value<FirstStage>('a first stage, with encode and decode', isFirstStage),
  condStage: value<NonNullable<LatentDiffusionOptions['condStage']>>(
    "a conditioning stage, '__is_first_stage__' or '__is_unconditional__'",
    (v) => v === '__is_first_stage__' || v === '__is_unconditional__' || isStage(v),
  ),
  condStageKey: string('image'),
  condStageTrainable: boolean(false),
  condStageForward: string(),
  conditioningKey: oneOf(conditioningKeys),
  concatMode: boolean(true),
  scaleFactor: number(1),
  scaleByStd: boolean(false),
  numTimestepsCond: integer(1, { min: 1 }),
  splitInputParams: value<SplitInputParams>('an object', (v) => typeof v === 'object' && v !== null),
} satisfies SchemaOf<Omit<LatentDiffusionOptions, keyof DDPMOptions>>

/** Of LatentDiffusion.savePretrained. */
export interface SaveLatentOptions extends SavePretrainedOptions {
  /**
   * 'diffusers': StableDiffusionPipeline's or LDMPipeline's; 'ddpm-native': one of our own, for any stages of this package. Default:
   * diffusers' for a KL autoencoder with a CLIP, and for an unconditional model with a codebook, both without splitInputParams and
   * numTimestepsCond; else our own.
   */
  layout?: 'diffusers' | 'ddpm-native'
}

export const saveLatentSchema = {
  ...savePretrainedSchema,
  layout: oneOf(['diffusers', 'ddpm-native']),
} satisfies SchemaOf<SaveLatentOptions>

/** What a latent model is told. */
export interface CondOptions extends ConditionOptions {
  /** The condition, as getLearnedConditioning makes it. Default: none, for an unconditional model. */
  cond?: Cond
}

/** What steps of LatentDiffusion have beside DDPM's. */
export interface LatentStepOptions {
  /** The predicted x_0 is taken to the nearest entries of the first stage's codebook, as it is, in the scaled space. Default false. */
  quantizeDenoised?: boolean
  /** Changes what the network says of the noise, for models of parameterization 'eps'. Default: none. */
  scoreCorrector?: ScoreCorrector
  /** What the corrector is given last. Default {}. */
  correctorKwargs?: Readonly<Record<string, unknown>>
}

/** Whether the predicted x_0 is returned. */
export interface ReturnX0<Wanted extends boolean = boolean> {
  /** Return the predicted x_0, too. Default false. */
  returnX0?: Wanted
}

/** Of LatentDiffusion.pMeanVariance and pSample, which have returnX0, too. */
export interface LatentPMeanVarianceOptions extends CondOptions, PMeanVarianceOptions, LatentStepOptions {
  /** ddpm.py's, whose networks don't give these ids and whose p_sample raises: true throws `unsupported`. Default false. */
  returnCodebookIds?: boolean
}

/** Of LatentDiffusion.pSample. */
export interface LatentPSampleOptions extends LatentPMeanVarianceOptions, PSampleOptions {
  /** How much of the noise is dropped, from 0 to 1, as by torch's dropout, after `temperature`. Default 0. */
  noiseDropout?: number
}

const isObject = (v: unknown) => typeof v === 'object' && v !== null
const isCorrector = (v: unknown) => isObject(v) && typeof (v as ScoreCorrector).modifyScore === 'function'

const stepSchema = {
  quantizeDenoised: boolean(false),
  scoreCorrector: value<ScoreCorrector>('an object with modifyScore', isCorrector),
  correctorKwargs: value<Readonly<Record<string, unknown>>>('an object', isObject),
} satisfies SchemaOf<LatentStepOptions>

export const latentMeanSchema = {
  ...clipSchema,
  ...stepSchema,
  cond: value<Cond>('a condition', isObject),
  returnX0: boolean(false),
  returnCodebookIds: boolean(false),
} satisfies SchemaOf<LatentPMeanVarianceOptions & ReturnX0>

export const latentStepSchema = {
  ...latentMeanSchema,
  ...pSampleSchema,
  noiseDropout: number(0, { min: 0, max: 1 }),
} satisfies SchemaOf<LatentPSampleOptions & ReturnX0>

/** The same of a loss. */
export interface TrainedCondOptions extends CondOptions {
  /**
   * In place of `cond`: what the conditioning stage makes it of, which it is trained with where it is trained. ddpm.py's xc. Default: none.
   */
  xc?: unknown
}

/** Of the losses of LatentDiffusion. */
export interface LatentLossOptions extends LossOptions, TrainedCondOptions {}

/** Of LatentDiffusion.trainBatch. */
export interface LatentTrainOptions extends TrainBatchOptions, TrainedCondOptions {}

/** Of decodeFirstStage. */
export interface DecodeOptions {
  /** z is the logits of codes, [n, codes, h, w], or the codes' numbers, [n, h, w]. Default false. */
  predictCids?: boolean
  /** A VQ first stage decodes z as it is, not the nearest codes. Default false. */
  forceNotQuantize?: boolean
}

export const decodeSchema = {
  predictCids: boolean(false),
  forceNotQuantize: boolean(false),
} satisfies SchemaOf<DecodeOptions>

/** What samplings of LatentDiffusion have beside DDPM's. `quantizeDenoised` is for 'ddpm' and 'ddim'. */
export interface LatentChainOptions extends LatentStepOptions {
  /** A condition as getLearnedConditioning makes it, one for all images or one for each. Default: none. */
  cond?: Cond
  /** How much of the steps' noise is dropped, from 0 to 1, as by torch's dropout. Default 0. */
  noiseDropout?: number
  /** With numTimestepsCond: the noise that the condition gets in step i, counted from 0, of its shape. Default: drawn by `seed`. */
  condNoise?: (i: number) => Tensor | Promise<Tensor>
}

const latentChainSchema = {
  ...stepSchema,
  cond: value<Cond>('a condition', isObject),
  noiseDropout: number(0, { min: 0, max: 1 }),
  condNoise: func<NonNullable<LatentChainOptions['condNoise']>>(),
} satisfies SchemaOf<LatentChainOptions>

/** Of LatentDiffusion.pSampleLoop. */
export interface LatentLoopOptions extends PSampleLoopOptions, LatentChainOptions {
  /** The condition to go away from with guidanceScale; ddim.py's unconditional_conditioning. Default: none. */
  uncond?: Cond
}

export const latentLoopSchema = {
  ...loopSchema,
  ...latentChainSchema,
  uncond: value<Cond>('a condition', isObject),
} satisfies SchemaOf<LatentLoopOptions & Intermediates>

/** Of LatentDiffusion.progressiveDenoising: always ddpm.py's own steps, through every timestep. */
export interface ProgressiveOptions extends LatentChainOptions, ChainOptions, GivenNoise, WatchOptions {
  /** Begin at timestep startT - 1. Default: at the last. */
  startT?: number
  /** What the noise is multiplied by: a number, or one for each timestep, from 0 on. Default 1. */
  temperature?: number | readonly number[]
}

const isTemperature = (v: unknown) => [v].flat().every((one) => typeof one === 'number' && one >= 0)

export const progressiveSchema = {
  ...latentChainSchema,
  ...chainSchema,
  ...noiseSchema,
  ...watchSchema,
  startT: integer(undefined, { min: 1 }),
  temperature: value<number | readonly number[]>('a number, or an array of numbers', isTemperature),
} satisfies SchemaOf<ProgressiveOptions>

/** Of LatentDiffusion.sampleLog. */
export interface SampleLogOptions extends LatentChainOptions, ChainOptions, GivenNoise, WatchOptions {
  /** By DDIM, else by ddpm.py's own steps. Needed. */
  ddim: boolean
  /** How many steps DDIM takes. Needed with `ddim`. */
  ddimSteps?: number
  /** Of DDIM. Default 0. */
  eta?: number
  /** How many samples. Default 16. */
  batchSize?: number
  /** The condition to go away from with guidanceScale. Default: none. */
  uncond?: Cond
  /** Guidance: 1 is none. Default: none. */
  guidanceScale?: number
  /** What the noise is multiplied by. Default 1. */
  temperature?: number
}

export const sampleLogSchema = {
  ...latentChainSchema,
  ...chainSchema,
  ...noiseSchema,
  ...watchSchema,
  ddim: required(boolean()),
  ddimSteps: integer(undefined, { min: 1 }),
  eta: number(0, { min: 0 }),
  batchSize: integer(16, { min: 1 }),
  uncond: latentLoopSchema.uncond,
  guidanceScale: latentLoopSchema.guidanceScale,
  temperature: latentLoopSchema.temperature,
} satisfies SchemaOf<SampleLogOptions>

/** Of LatentDiffusion.interpolate. */
export interface LatentInterpolateOptions extends InterpolateOptions {
  /** What to draw, for a text encoder: one for all images, or one for each. Default: none. */
  prompt?: string | readonly string[]
  /** What to go away from with guidanceScale. Default '', the prompt of nothing. */
  negativePrompt?: string | readonly string[]
}

/** Of LatentDiffusion.sample. */
export interface LatentSampleOptions extends LatentLoopOptions {
  /** How many images. Default: as many as there are prompts; without any, 16. */
  batchSize?: number
  /** What to draw, for a text encoder: one for all images, or one for each. Default: none. */
  prompt?: string | readonly string[]
  /** What to go away from with guidanceScale. Default '', the prompt of nothing. */
  negativePrompt?: string | readonly string[]
  /** Of the images, in pixels; what the first stage divides must come out whole. Default: imageSize times its factor. */
  height?: number
  /** Default: imageWidth times the factor. */
  width?: number
  /** 'image' (default): decoded, in [-1, 1]; 'latent': as ddpm.py's sample returns them. `image` and `mask` are of the same kind. */
  outputType?: 'image' | 'latent'
}

const isText = (v: unknown) =>
  typeof v === 'string' || (Array.isArray(v) && v.length > 0 && v.every((text) => typeof text === 'string'))
export const latentSampleSchema = {
  ...latentLoopSchema,
  batchSize: integer(undefined, { min: 1 }),
  prompt: value<string | readonly string[]>('a text, or an array of texts', isText),
  negativePrompt: value<string | readonly string[]>('a text, or an array of texts', isText),
  height: integer(undefined, { min: 1 }),
  width: integer(undefined, { min: 1 }),
  outputType: oneOf(['image', 'latent'], 'image'),
} satisfies SchemaOf<LatentSampleOptions & Intermediates>

export const latentInterpolateSchema = {
  ...interpolateSchema,
  prompt: latentSampleSchema.prompt,
  negativePrompt: latentSampleSchema.negativePrompt,
} satisfies SchemaOf<LatentInterpolateOptions>

/** By which of their options `sample` and `interpolate` are told what to draw. */
export type PromptOptions = Pick<
  LatentSampleOptions,
  'prompt' | 'negativePrompt' | 'cond' | 'context' | 'uncond' | 'guidanceScale'
>

/** Pictures to look at. Grids are [3, height, width], with a row for each image. */
export interface LatentLoggedImages {
  /** The batch's images, [n, c, h, w]. */
  inputs: Tensor
  /** What the first stage makes of their latents. */
  reconstruction?: Tensor
  /** What the conditioning stage's `decode` makes of the condition, the texts that it was (batch.caption, batch.human_label), or the image. */
  conditioning?: Tensor | readonly string[]
  /** A condition of more than 3 channels, in random colours. */
  originalConditioning?: Tensor
  /** Inputs with more and more noise, decoded. */
  diffusionRow?: Tensor
  /** [N, c, h, w], of the averaged weights, like all that follow. */
  samples?: Tensor
  /** Samples with less and less noise. */
  denoiseRow?: Tensor
  /** Samples with quantizeDenoised, of a first stage with a codebook. */
  samplesX0Quantized?: Tensor
  /** The inputs with their middle drawn anew. */
  samplesInpainting?: Tensor
  /** 1 where samplesInpainting keeps the input, [N, 1, h, w] in latents. */
  mask?: Tensor
  /** The inputs with all but their middle drawn anew. */
  samplesOutpainting?: Tensor
  /** What progressiveDenoising predicts. */
  progressiveRow?: Tensor
}

/** Of LatentDiffusion.logImages. */
export interface LatentLogImagesOptions {
  /** How many images of the batch, and samples. Default 8. */
  N?: number
  /** How many of the images are shown with more and more noise. Default 4. */
  nRow?: number
  /** Draw samples, too. Default true. */
  sample?: boolean
  /** How many steps of DDIM samples take; null: ddpm.py's own steps. Default 200, or half of the timesteps where that is less. */
  ddimSteps?: number | null
  /** ddimSteps by the name that DDPM.logImages has for it. Default: none. */
  steps?: number
  /** Of DDIM. Default 1. */
  ddimEta?: number
  /** Which pictures are returned, and made. Default: all. */
  returnKeys?: readonly (keyof LatentLoggedImages)[]
  /** Samples of predictions that are taken to codes, where the first stage has some. Default true. */
  quantizeDenoised?: boolean
  /** samplesInpainting, samplesOutpainting and mask. Default true. */
  inpaint?: boolean
  /** denoiseRow. Default false. */
  plotDenoiseRows?: boolean
  /** progressiveRow: of all timesteps. Default true. */
  plotProgressiveRows?: boolean
  /** diffusionRow. Default true. */
  plotDiffusionRows?: boolean
  /** Of all noise. Default: the next of the model's own. */
  seed?: Seed
  /** Ends it within one step, with `aborted`. Default: none. */
  signal?: AbortSignal
}

export const latentLogImagesSchema = {
  N: integer(8, { min: 1 }),
  nRow: integer(4, { min: 1 }),
  sample: boolean(true),
  ddimSteps: integer(undefined, { min: 1 }),
  steps: integer(undefined, { min: 1 }),
  ddimEta: number(1, { min: 0 }),
  returnKeys: value<readonly (keyof LatentLoggedImages)[]>('an array of names', Array.isArray),
  quantizeDenoised: boolean(true),
  inpaint: boolean(true),
  plotDenoiseRows: boolean(false),
  plotProgressiveRows: boolean(true),
  plotDiffusionRows: boolean(true),
  seed: seed(),
  signal: watchSchema.signal,
} satisfies SchemaOf<LatentLogImagesOptions>
