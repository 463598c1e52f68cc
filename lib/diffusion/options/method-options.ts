/** Options of the methods of a diffusion model, and how they are checked; those of the constructor are in model-options.ts. */
import { boolean, func, integer, number, type SchemaOf, type Seed, seed, value } from '../../options'
import { Tensor } from '../../tensor'
import type { ClassLabels, MadeCondition } from '../process/condition'
import type { Timesteps } from '../process/timesteps'

/** What a conditional network is told. */
export interface ConditionOptions {
  /** Class labels, one for all samples or one for each. Needed by a class-conditional network without a null class. */
  y?: ClassLabels
  /** Tokens [n, l, contextDim], for a network with cross-attention, which needs them. */
  context?: Tensor
  /**
   * For a network with `vectorDim`, which needs it unless it is of `vectorEmbedding: 'augment'`: a vector for each sample, [n, vectorDim].
   */
  vector?: Tensor
  /** For a network with `concatChannels`, which needs it: a map of x's size, [n, concatChannels, h, w]. */
  concat?: Tensor
}

/** What a loss is told: `made` in place of context or concat. */
export interface Told extends ConditionOptions {
  made?: MadeCondition
}

/** Of pMeanVariance. */
export interface PMeanVarianceOptions extends ConditionOptions {
  /** Clip the predicted x_0 to [-1, 1]. Default: the model's. */
  clipDenoised?: boolean
}

/** Of pSample. */
export interface PSampleOptions extends PMeanVarianceOptions {
  /** The same noise for all samples. Default false. */
  repeatNoise?: boolean
  /** What the noise is multiplied by. Default 1. */
  temperature?: number
  /** In place of drawn noise: of x's shape, or with `repeatNoise` of one sample's, [1, ...]. Default: drawn by `seed`. */
  noise?: Tensor
  /** Of the noise. Default: the next of the model's own. */
  seed?: Seed
}

/** Of trainBatch and trainingStep. */

export interface TrainBatchOptions extends ConditionOptions {
  /** Names the drawn timesteps and noise, with `sampleOffset`. Default: the number of updates so far. */
  step?: number
  /**
   * Index of the first sample among those of this step. Default: as many as were accumulated for it so far, after those of the ranks
   * before this one where processes train together, whose batches of a step are of one size then.
   */
  sampleOffset?: number
  /** Change the weights after this batch; false: only add to the gradients. Default true. */
  update?: boolean
  /** How many batches the gradients are the mean of; of each rank, where processes train together. Default 1. */
  accumulate?: number
  /** Learning rate of this update. Default: the optimizer's. */
  lr?: number
  /** Timesteps, one for all samples or one for each, from 0 to T - 1. Default: drawn. */
  t?: Timesteps
  /** Of x's shape. Default: drawn. */
  noise?: Tensor
}

/** Of calcBpd. */
export interface CalcBpdOptions extends ConditionOptions {
  /** Clip the predicted x_0 to [-1, 1]. Default: the model's. */
  clipDenoised?: boolean
  /** The noise of timestep t, of x's shape. Default: drawn by `seed`. */
  noise?: (t: number) => Tensor | Promise<Tensor>
  /** Of the noise. Default: the next of the model's own. */
  seed?: Seed
  /** Index of the first image: image i alone gets the noise of image i of a batch. Default 0. */
  sampleOffset?: number
  /** Called after each timestep; `step` counts them from 1 to `total`. Default: none. */
  onStep?: (event: { t: number; step: number; total: number }) => unknown
  /** Ends it within one timestep, with `aborted`. Default: none. */
  signal?: AbortSignal
}

/** Of losses. */
export type LossOptions = ConditionOptions

/** Of validationStep. */
export interface ValidationOptions {
  /**
   * Of timesteps and noise: with one, image i has the same in any batch, and with the averaged weights as with the trained ones.
   * Default: the next two of the model's own.
   */
  seed?: Seed
  /** Index of the first image: image i alone gets the noise of image i of a batch. Default 0. */
  sampleOffset?: number
  /** Timesteps, one for all images or one for each, from 0 to T - 1. Default: drawn. */
  t?: Timesteps
}

/** Of loadStateDict. */
export interface LoadStateDictOptions {
  /** Throw for missing and unexpected names, too. Default true. */
  strict?: boolean
}

export const loadStateDictSchema = { strict: boolean(true) } satisfies SchemaOf<LoadStateDictOptions>

const isTensor = (v: unknown) => v instanceof Tensor

/** Checked against the network. */
export const conditionSchema = {
  y: value<ClassLabels>('class labels', () => true),
  context: value<Tensor>('a Tensor', isTensor),
  vector: value<Tensor>('a Tensor', isTensor),
  concat: value<Tensor>('a Tensor', isTensor),
} satisfies SchemaOf<ConditionOptions>
export const clipSchema = { clipDenoised: boolean(), ...conditionSchema } satisfies SchemaOf<PMeanVarianceOptions>
export const pSampleSchema = {
  ...clipSchema,
  repeatNoise: boolean(false),
  temperature: number(1, { min: 0 }),
  noise: value<Tensor>('a Tensor', isTensor),
  seed: seed(),
} satisfies SchemaOf<PSampleOptions>
export const calcBpdSchema = {
  ...clipSchema,
  noise: func<(t: number) => Tensor | Promise<Tensor>>(),
  seed: seed(),
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  onStep: func<NonNullable<CalcBpdOptions['onStep']>>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<CalcBpdOptions>
export const validationSchema = {
  seed: seed(),
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  t: value<Timesteps>('timesteps', () => true),
} satisfies SchemaOf<ValidationOptions>
export const trainBatchSchema = {
  step: integer(undefined, { min: 0, max: 2 ** 31 - 1 }),
  sampleOffset: integer(undefined, { min: 0, max: 2 ** 31 - 1 }),
  update: boolean(true),
  accumulate: integer(1, { min: 1 }),
  lr: number(undefined, { min: 0 }),
  t: value<Timesteps>('timesteps', () => true),
  ...conditionSchema,
  noise: value<Tensor>('a Tensor', isTensor),
} satisfies SchemaOf<TrainBatchOptions>
