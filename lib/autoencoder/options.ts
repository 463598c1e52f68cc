/** Options of a first stage's training. */
import { boolean, integer, number, type SchemaOf, type Seed, seed, value } from '../options'
import { Tensor } from '../tensor'

/** ldm's `lossconfig` of LPIPSWithDiscriminator, for a codebook of VQLPIPSWithDiscriminator, and what else a training keeps. */
export interface AutoencoderTrainingOptions {
  /** Weight of the posterior's divergence from N(0, 1), in nats a sample. Default 1, as upstream; its configurations have 1e-6. */
  klWeight?: number
  /** Of the output's logarithmic variance, which is not trained, upstream neither. Not with a codebook. Default 0. */
  logvarInit?: number
  /** Weight of the codebook's and the commitment's loss. With a codebook only. Default 1. */
  codebookWeight?: number
  /** Whether averages of the weights are kept. Default true. */
  useEma?: boolean
  /** What of them stays in an update, at most: LitEma's. Default 0.999. */
  emaDecay?: number
  /** Of the posterior's noise and of dropout. Default: the autoencoder's. */
  seed?: Seed
}

export const trainingSchema = {
  klWeight: number(undefined, { min: 0 }),
  logvarInit: number(undefined, { min: -30, max: 20 }),
  codebookWeight: number(undefined, { min: 0 }),
  useEma: boolean(true),
  emaDecay: number(0.999, { min: 0, max: 1 }),
  seed: seed(),
} satisfies SchemaOf<AutoencoderTrainingOptions>

/** Of trainingStep. */
export interface AutoencoderStepOptions {
  /** Names the noise: each batch has its own. Default: how many batches there were. */
  step?: number
  /** Normal numbers of the latents' shape, in place of drawn ones. Not with a codebook. Default: drawn by `seed` and `step`. */
  noise?: Tensor
  /** Change the weights after this batch; with false only add to the gradients. Default true. */
  update?: boolean
  /** How many batches the gradients are the mean of. Default 1. */
  accumulate?: number
  /** In place of the optimizer's learning rate. Default: that. */
  lr?: number
}

const noise = value<Tensor>('a Tensor', (v) => v instanceof Tensor)

export const stepSchema = {
  step: integer(undefined, { min: 0 }),
  noise,
  update: boolean(true),
  accumulate: integer(1, { min: 1 }),
  lr: number(undefined, { min: 0 }),
} satisfies SchemaOf<AutoencoderStepOptions>

/** Of validationStep. */
export interface AutoencoderValidationOptions {
  /** By the averaged weights. Default false. */
  ema?: boolean
  /** As in a step. Default: drawn by `seed` and `sampleOffset`. */
  noise?: Tensor
  /** Of the noise. Default: the training's. */
  seed?: Seed
  /** The number of the batch's first image, by which its noise is drawn. Default 0. */
  sampleOffset?: number
}

export const validationSchema = {
  ema: boolean(false),
  noise,
  seed: seed(),
  sampleOffset: integer(0, { min: 0 }),
} satisfies SchemaOf<AutoencoderValidationOptions>
