/** Options of a first stage's training. */
import { invalidArgument } from '../errors'
import { boolean, integer, number, oneOf, type SchemaOf, type Seed, seed, value } from '../options'
import { LPIPS } from '../stages/lpips'
import { Tensor } from '../tensor'
import { type Distributed, distributedModes } from '../world'
import { type DiscriminatorLoss, discriminatorLosses } from './adversarial-loss'

/** What a step and a whole training run are told alike: ldm's `lossconfig`, and what is kept beside the weights. */
export interface AutoencoderLossOptions {
  /** Of the output's logarithmic variance, which is not trained, upstream neither. Not with a codebook. Default 0. */
  logvarInit?: number
  /** Weight of the codebook's and the commitment's loss. With a codebook only. Default 1. */
  codebookWeight?: number
  /** What the perceptual distance counts for beside the mean absolute difference. With `perceptual` only. Default 1. */
  perceptualWeight?: number
  /**
   * The update from which on a patch discriminator takes part, and what is drawn looks less blurred. Before it nothing of the
   * discriminator is computed: upstream multiplies it by 0. Default: there is none.
   */
  discStart?: number
  /** What the discriminator's and the generator's adversarial loss are multiplied by. With discStart only. Default 1. */
  discFactor?: number
  /** What the generator's counts for beside the adaptive weight, which makes it as steep as the rest. With discStart only. Default 1. */
  discWeight?: number
  /** Its convolutions that halve the map: images have at least 3 * 2^discNumLayers pixels each way. Default 3. */
  discNumLayers?: number
  /** 'hinge' (default) or 'vanilla': by which the discriminator learns. */
  discLoss?: DiscriminatorLoss
  /** ActNorm in the discriminator in place of batch norm. Default false. */
  useActnorm?: boolean
  /** Whether averages of the weights are kept, which are then what a run saves as the model. Default true. */
  useEma?: boolean
  /** What of them stays in an update, at most: LitEma's. Default 0.999. */
  emaDecay?: number
}

/** Of AutoencoderTraining: LPIPSWithDiscriminator's, for a codebook VQLPIPSWithDiscriminator's. */
export interface AutoencoderTrainingOptions extends AutoencoderLossOptions {
  /** Weight of the posterior's divergence from N(0, 1), in nats a sample. Default 1, as upstream; its configurations have 1e-6. */
  klWeight?: number
  /** A perceptual loss beside the absolute differences, on the autoencoder's device; it is not disposed of. Default: none. */
  perceptual?: LPIPS
  /** Of the posterior's noise and of dropout. Default: the autoencoder's. */
  seed?: Seed
  /**
   * Whether gradients are of all processes that a launcher started together: 'auto' (default), where it started several; 'mpi'; 'off'.
   * Without discStart only.
   */
  distributed?: Distributed
}

/** Their fields. */
export const lossFields = {
  logvarInit: number(undefined, { min: -30, max: 20 }),
  codebookWeight: number(undefined, { min: 0 }),
  perceptualWeight: number(undefined, { min: 0 }),
  discStart: integer(undefined, { min: 0 }),
  discFactor: number(undefined, { min: 0 }),
  discWeight: number(undefined, { min: 0 }),
  discNumLayers: integer(undefined, { min: 1, max: 8 }),
  discLoss: value<DiscriminatorLoss>("'hinge' or 'vanilla'", (v) =>
    discriminatorLosses.includes(v as DiscriminatorLoss),
  ),
  useActnorm: value<boolean>('true or false', (v) => typeof v === 'boolean'),
  useEma: boolean(true),
  emaDecay: number(0.999, { min: 0, max: 1 }),
} satisfies SchemaOf<AutoencoderLossOptions>

export const trainingSchema = {
  ...lossFields,
  klWeight: number(undefined, { min: 0 }),
  perceptual: value<LPIPS>('an LPIPS', (v) => v instanceof LPIPS),
  seed: seed(),
  distributed: oneOf(distributedModes, 'auto'),
} satisfies SchemaOf<AutoencoderTrainingOptions>

/** Those of `options` that a run hands on to its training. */
export function lossOptionsOf(options: AutoencoderLossOptions): AutoencoderLossOptions {
  const names = Object.keys(lossFields) as (keyof AutoencoderLossOptions)[]
  return Object.fromEntries(names.map((name) => [name, options[name]]))
}

/** Of trainingStep. */
export interface AutoencoderStepOptions {
  /** Names the noise: each batch has its own. Default: how many batches there were. */
  step?: number
  /** Normal numbers of the latents' shape, in place of drawn ones. Not with a codebook. Default: drawn by `seed` and `step`. */
  noise?: Tensor
  /** Change the weights after this batch; with false only add to the gradients. Default true. */
  update?: boolean
  /** How many batches the gradients are the mean of; with others, of each process. Default 1. */
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

type OfDiscriminator = Pick<
  AutoencoderLossOptions,
  'discStart' | 'discFactor' | 'discWeight' | 'discNumLayers' | 'discLoss' | 'useActnorm'
>

/** With defaults; undefined without a discriminator. Throws `invalid-argument` for options of one that there is not. */
export function discriminatorOf(o: OfDiscriminator): Required<OfDiscriminator> | undefined {
  const { discStart, discFactor, discWeight, discNumLayers, discLoss, useActnorm } = o
  const others = { discFactor, discWeight, discNumLayers, discLoss, useActnorm }
  if (discStart !== undefined) {
    const defaults = { discFactor: 1, discWeight: 1, discNumLayers: 3, discLoss: 'hinge', useActnorm: false } as const
    const given = Object.fromEntries(Object.entries(others).filter(([, v]) => v !== undefined))
    return { discStart, ...defaults, ...given }
  }
  for (const [name, given] of Object.entries(others)) {
    if (given !== undefined) throw invalidArgument(name, 'nothing without discStart', given)
  }
  return undefined
}
