/** Options of LatentDiffusion and of its own methods: ddpm.py's keyword arguments camelCased, with its defaults. */
import { boolean, integer, number, oneOf, type SchemaOf, string, value } from '../../options'
import { type Cond, type ConditioningKey, conditioningKeys } from '../latent/conditioning'
import type { SplitInputParams } from '../latent/split-input'
import type { CondStage, FirstStage } from '../latent/stages'
import { type DDPMOptions, type SavePretrainedOptions, savePretrainedSchema } from './ddpm-options'
import type { ConditionOptions, LossOptions } from './method-options'
import { type Intermediates, loopSchema, type PSampleLoopOptions } from './sampling-options'

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
  /** Cut what is too large into patches: in applyModel, and with patchDistributedVq in the first stage. Default: none. */
  splitInputParams?: SplitInputParams
}

const isStage = (v: unknown) => typeof v === 'object' && v !== null && typeof (v as FirstStage).encode === 'function'

export const latentSchema = {
  firstStage: value<FirstStage>('a first stage, with encode and decode', isStage),
  condStage: value<NonNullable<LatentDiffusionOptions['condStage']>>(
    "a conditioning stage, '__is_first_stage__' or '__is_unconditional__'",
    (v) => v === '__is_first_stage__' || v === '__is_unconditional__' || isStage(v),
  ),
  condStageKey: string('image'),
  condStageForward: string(),
  conditioningKey: oneOf(conditioningKeys),
  concatMode: boolean(true),
  scaleFactor: number(1),
  scaleByStd: boolean(false),
  splitInputParams: value<SplitInputParams>('an object', (v) => typeof v === 'object' && v !== null),
} satisfies SchemaOf<Omit<LatentDiffusionOptions, keyof DDPMOptions>>

/** Of LatentDiffusion.savePretrained. */
export interface SaveLatentOptions extends SavePretrainedOptions {
  /**
   * 'diffusers': StableDiffusionPipeline's or LDMPipeline's; 'ddpm-native': one of our own, for any stages of this package. Default:
   * diffusers' for a KL autoencoder with a CLIP, and for an unconditional model with a codebook; else our own.
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

/** Of the losses of LatentDiffusion. */
export interface LatentLossOptions extends LossOptions, CondOptions {}

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

/** Of LatentDiffusion.pSampleLoop. */
export interface LatentLoopOptions extends PSampleLoopOptions {
  /** A condition as getLearnedConditioning makes it, one for all images or one for each. Default: none. */
  cond?: Cond
  /** The condition to go away from with guidanceScale; ddim.py's unconditional_conditioning. Default: none. */
  uncond?: Cond
}

const isCond = (v: unknown) => typeof v === 'object' && v !== null

export const latentLoopSchema = {
  ...loopSchema,
  cond: value<Cond>('a condition', isCond),
  uncond: value<Cond>('a condition', isCond),
} satisfies SchemaOf<LatentLoopOptions & Intermediates>

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
