/** Options of the methods of a diffusion model, and how they are checked; those of the constructor are in model-options.ts. */
import { boolean, func, integer, number, type Seed, seed, value } from '../options'
import { Tensor } from '../tensor'
import type { ClassLabels } from './condition'
import type { Timesteps } from './timesteps'

/** What a conditional network is told. */
export interface ConditionOptions {
  /** Class labels, for a class-conditional network. */
  y?: ClassLabels
  /** Tokens [n, l, contextDim], for a network with cross-attention. */
  context?: Tensor
}

export interface PSampleOptions extends ConditionOptions {
  clipDenoised?: boolean
  /** The same noise for all samples (default false). */
  repeatNoise?: boolean
  /** In place of drawn noise: of x's shape, or with `repeatNoise` of one sample's, [1, ...]. */
  noise?: Tensor
  /** Default: the next of the model's own. */
  seed?: Seed
}

export interface TrainBatchOptions extends ConditionOptions {
  /** Names the drawn timesteps and noise, with `sampleOffset`; default: the number of updates so far. */
  step?: number
  /** Index of the first sample among those of this step; default: as many as were accumulated for it so far. */
  sampleOffset?: number
  /** Change the weights after this batch (default), or only add to the gradients. */
  update?: boolean
  /** How many batches the gradients are the mean of (default 1). */
  accumulate?: number
  /** In place of the optimizer's. */
  lr?: number
  /** In place of drawn ones. */
  t?: Timesteps
  noise?: Tensor
}

export interface CalcBpdOptions extends ConditionOptions {
  /** Default: the model's. */
  clipDenoised?: boolean
  /** The noise of timestep t, of x's shape, in place of drawn noise. */
  noise?: (t: number) => Tensor | Promise<Tensor>
  /** Default: the next of the model's own. */
  seed?: Seed
  /** Index of the first image: image i alone gets the noise of image i of a batch. */
  sampleOffset?: number
  /** After each timestep; `step` counts them from 1 to `total`. */
  onStep?: (event: { t: number; step: number; total: number }) => unknown
  signal?: AbortSignal
}

/** Of losses. */
export type LossOptions = ConditionOptions

const isTensor = (v: unknown) => v instanceof Tensor

/** Checked against the network. */
export const conditionSchema = {
  y: value<ClassLabels>('class labels', () => true),
  context: value<Tensor>('a Tensor', isTensor),
}
export const clipSchema = { clipDenoised: boolean(), ...conditionSchema }
export const pSampleSchema = {
  ...clipSchema,
  repeatNoise: boolean(false),
  noise: value<Tensor>('a Tensor', isTensor),
  seed: seed(),
}
export const calcBpdSchema = {
  ...clipSchema,
  noise: func<(t: number) => Tensor | Promise<Tensor>>(),
  seed: seed(),
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  onStep: func<NonNullable<CalcBpdOptions['onStep']>>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
}
export const trainBatchSchema = {
  step: integer(undefined, { min: 0, max: 2 ** 31 - 1 }),
  sampleOffset: integer(undefined, { min: 0, max: 2 ** 31 - 1 }),
  update: boolean(true),
  accumulate: integer(1, { min: 1 }),
  lr: number(undefined, { min: 0 }),
  t: value<Timesteps>('timesteps', () => true),
  ...conditionSchema,
  noise: value<Tensor>('a Tensor', isTensor),
}
