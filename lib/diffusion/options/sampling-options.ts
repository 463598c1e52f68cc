/** Options of sampling: how samples are drawn, and what they begin with. */
import {
  array,
  boolean,
  type Field,
  func,
  integer,
  number,
  oneOf,
  type SchemaOf,
  type Seed,
  seed,
  value,
} from '../../options'
import { Tensor } from '../../tensor'
import type { ClassLabels } from '../process/condition'
import { type DdimDiscretization, maxTimesteps, type TimestepSpacing, timestepSpacings } from '../process/schedule'
import type { SchedulerConfig } from '../sampling/diffusers/scheduler-config'
import { type GuidanceOptions, guidanceSchema } from '../sampling/guidance/options'
import type { StepEvent } from '../sampling/loop'
import { type SamplerName, samplerNamed } from '../sampling/sampler-names'
import { type SigmaSchedule, sigmaSchedules } from '../sampling/sigmas'

/** How a sampling is watched and ended. */
export interface WatchOptions {
  /** Called after each step; sampling waits for what it returns. Default: none. */
  onStep?: (event: StepEvent) => unknown
  /** Ends the sampling within one step, with `aborted`. Default: none. */
  signal?: AbortSignal
}

/** How samples are drawn, whatever they begin with. */
export interface PathOptions extends GuidanceOptions, WatchOptions {
  /**
   * 'ddpm' (default): ancestral; 'ddim': Song et al. 2021; 'plms': Liu et al. 2022; 'dpmsolver++' (2M; 'sde-dpmsolver++' with noise;
   * 'dpmsolver++singlestep'):
   * Lu et al. 2022; 'unipc': Zhao et al. 2023; 'deis': Zhang & Chen 2023; 'lcm', for latent consistency models; 'heun': Karras et al. 2022; k-diffusion's 'euler', 'euler-ancestral', 'lms', 'kdpm2',
   * 'kdpm2-ancestral', 'dpmsolver++2s-ancestral', 'dpmsolver++sde'. Also by the names of k-diffusion ('dpmpp_2m'), AUTOMATIC1111
   * ('DPM++ 2M Karras') and diffusers' classes. 10 to 50 steps are usual. 'heun', 'kdpm2', '2s' and 'sde' evaluate the network twice in
   * each step but the last.
   */
  sampler?: SamplerName
  /** How many steps are taken, fewer than the schedule has. Needed by all samplers but 'ddpm'. Default: all. */
  steps?: number
  /**
   * Which timesteps: for 'ddpm' with `steps` (default: the model's), 'ddim' (default: ddimDiscretize) and, with sigmas 'uniform', all
   * others but 'plms' and 'lcm' (default: 'linspace').
   */
  timestepSpacing?: TimestepSpacing
  /**
   * Which noise levels, for all samplers but 'ddpm', 'ddim', 'plms' and 'lcm': those of evenly spaced timesteps ('uniform', default), or
   * from the most noise to the least by Karras et al. 2022, eq. 5 ('karras'), evenly in log(sigma) ('exponential'), or by quantiles of a
   * beta distribution ('beta'); the denoiser is told numbers between timesteps.
   */
  sigmas?: SigmaSchedule
  /**
   * Of the noise in the steps: 0 is deterministic, 1 adds as much as ancestral sampling. Default: 0 for 'ddim', 1 for the others that
   * take it ('euler-ancestral', 'kdpm2-ancestral', 'dpmsolver++2s-ancestral', 'dpmsolver++sde').
   */
  eta?: number
  /**
   * For 'euler' and 'heun', S_churn of Karras et al. 2022, algorithm 2, as k-diffusion has it: before each step but the first, whose
   * beginning is noise already, sigma is raised by sChurn / steps of itself (at most sqrt(2) - 1) with fresh noise. Default 0: none.
   */
  sChurn?: number
  /** The least sigma = sqrt((1 - alpha_bar) / alpha_bar) of a step that sChurn adds noise to. Default 0. */
  sTmin?: number
  /** The greatest. Default: any. */
  sTmax?: number
  /** What the noise of sChurn is multiplied by; slightly more than 1 makes up for detail that denoisers take away. Default 1. */
  sNoise?: number
  /** For 'ddim' with clipping: the noise follows from the clipped x_0, not from the network's output. Default false. */
  clippedNoise?: boolean
  /** What the noise that steps add is multiplied by, with any sampler. Default 1. */
  temperature?: number
  /**
   * For 'ddim' and 'plms': ddim.py's strides, of which 'uniform' may take more steps than asked for or end beyond the schedule.
   * Default: evenly, exactly `steps`.
   */
  ddimDiscretize?: DdimDiscretization
  /** For 'dpmsolver++', its singlestep, 'unipc' and 'deis': 1, 2 (default) or 3; 'sde-dpmsolver++': 1 or 2 (default); 'lms': 1 to 4 (default). */
  solverOrder?: number
  /**
   * In place of `sampler` and its options: a scheduler_config.json of diffusers, reproduced step for step: DDPM, DDIM,
   * DPMSolverMultistep, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, LMSDiscrete, KDPM2Discrete, KDPM2AncestralDiscrete,
   * DPMSolverSDE, DEISMultistep, DPMSolverSinglestep, UniPCMultistep, PNDM or LCM; EDMEuler and
   * FlowMatchEulerDiscrete for models of parameterization 'edm' and 'flow'. Its schedule and prediction_type replace the model's; num_train_timesteps
   * must be the model's. Default: none.
   */
  scheduler?: SchedulerConfig
  /** Descending timesteps in place of `steps`, for a DDPMScheduler. Default: those of the scheduler. */
  timesteps?: readonly number[]
  /**
   * For a class-conditional network and for a classifier, which need them: one label for all samples, or one for each; also the
   * classes' names, as classLabel takes them. `ddpm.nullClass` stands for no class. Default: none.
   */
  classLabels?: ClassLabels
  /** For a network with cross-attention, which needs it: tokens [n, l, contextDim]. */
  context?: Tensor
  /**
   * For a network with `vectorDim`, which needs it unless it is of `vectorEmbedding: 'augment'`: a vector for each sample, [n, vectorDim].
   */
  vector?: Tensor
  /** For a network with `concatChannels`, which needs it: a map of the samples' size, [n, concatChannels, h, w]. Default: none. */
  concat?: Tensor
  /** Clip the predicted x_0 to [-1, 1]. Default: the model's with 'ddpm', else false, as in the samplers' sources. 'plms', 'lms' and 'deis' can't. */
  clipDenoised?: boolean
  /** Fix every algorithm, so that an image is the same bit for bit in any batch. Default: the model's. */
  deterministic?: boolean
}

export const watchSchema = {
  onStep: func<(event: StepEvent) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<WatchOptions>

export const pathSchema = {
  sampler: samplerName(),
  steps: integer(undefined, { min: 1 }),
  timestepSpacing: oneOf(timestepSpacings),
  sigmas: oneOf(sigmaSchedules),
  eta: number(undefined, { min: 0 }),
  sChurn: number(undefined, { min: 0 }),
  sTmin: number(undefined, { min: 0 }),
  sTmax: number(undefined, { min: 0 }),
  sNoise: number(undefined, { min: 0 }),
  clippedNoise: boolean(),
  temperature: number(undefined, { min: 0 }),
  ddimDiscretize: oneOf(['uniform', 'quad']),
  solverOrder: integer(undefined, { min: 1, max: 4 }),
  scheduler: value<SchedulerConfig>('an object of scheduler_config.json', isObject),
  timesteps: array(integer(undefined, { min: 0 }), undefined, maxTimesteps),
  classLabels: value<ClassLabels>('a number, a name, an array, an Int32Array or a Tensor', isLabels),
  context: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  vector: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  concat: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  ...guidanceSchema,
  clipDenoised: boolean(),
  deterministic: boolean(),
  ...watchSchema,
} satisfies SchemaOf<PathOptions>

/** What is drawn, whichever way. */
export interface ChainOptions {
  /** Of the noise: an integer, or a bigint of 64 bits. Default: the next of the model's own. */
  seed?: Seed
  /** Index of the first sample: image i drawn alone is image i of a batch. Default 0. */
  sampleOffset?: number
  /** Which states are intermediates: each whose number of steps left this divides. Default: the model's. */
  logEveryT?: number
  /** Of the samples' shape, in [-1, 1]: the image to begin with (`strength`), or to keep a part of (`mask`). Default: none. */
  image?: Tensor
  /** Inpainting: 1 keeps the image's pixel, 0 draws it. [n or 1, c or 1, h, w]. Not for 'unipc' and 'dpmsolver++singlestep'. Default: all is drawn. */
  mask?: Tensor
}

export const chainSchema = {
  seed: seed(),
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  logEveryT: integer(undefined, { min: 1 }),
  image: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  mask: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
} satisfies SchemaOf<ChainOptions>

/** How samples are drawn, and what they begin with. */
export interface SamplingOptions extends PathOptions, ChainOptions {
  /** Image to image: the last part of the steps that is taken, from 0 (the image itself) to 1. Default: all, from noise. */
  strength?: number
  /**
   * Inpainting with 'ddpm' and 'ddim' by RePaint (Lugmayr et al. 2022, algorithm 1 and section 4.2): how often each part of
   * `jumpLength` steps is taken, noise being added again in between, so that what is drawn goes with what is kept. 10 there; the names
   * are diffusers'. Default 1: once.
   */
  jumpNSample?: number
  /** How many steps a jump goes back. Default 10. */
  jumpLength?: number
  /** With 'ddpm' and all timesteps: begin at timestep startT - 1, ddpm.py's start_T and `timesteps`. Default: at the last. */
  startT?: number
}

/** Whether a sampling returns the states on the way, too. */
export interface Intermediates<Wanted extends boolean = boolean> {
  /** Return the states on the way with the samples: a LoopResult in place of a Tensor. Default false. */
  returnIntermediates?: Wanted
}

export const samplingSchema = {
  ...pathSchema,
  ...chainSchema,
  returnIntermediates: boolean(false),
  strength: number(undefined, { min: 0, max: 1 }),
  jumpNSample: integer(undefined, { min: 1 }),
  jumpLength: integer(undefined, { min: 1 }),
  startT: integer(undefined, { min: 1 }),
} satisfies SchemaOf<SamplingOptions & Intermediates>

/** What a sampling is given in place of what it would draw. */
export interface GivenNoise {
  /** The first state, of the samples' shape, in place of noise. Default: drawn by `seed`. */
  xT?: Tensor
  /** The noise of step i, counted from 0, of the samples' shape. Default: drawn by `seed`. */
  noise?: (i: number) => Tensor | Promise<Tensor>
  /** With a mask: the noise that the image gets in step i, counted from 0, of the samples' shape. Default: drawn by `seed`. */
  imageNoise?: (i: number) => Tensor | Promise<Tensor>
}

export const noiseSchema = {
  xT: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  noise: func<NonNullable<GivenNoise['noise']>>(),
  imageNoise: func<NonNullable<GivenNoise['imageNoise']>>(),
} satisfies SchemaOf<GivenNoise>

/** Of pSampleLoop. */
export interface PSampleLoopOptions extends SamplingOptions, GivenNoise {}

export const loopSchema = {
  ...samplingSchema,
  ...noiseSchema,
} satisfies SchemaOf<PSampleLoopOptions & Intermediates>

function isObject(v: unknown): boolean {
  return typeof v === 'object' && v !== null && !Array.isArray(v)
}

function isLabels(v: unknown): boolean {
  return (
    typeof v === 'number' || typeof v === 'string' || Array.isArray(v) || ArrayBuffer.isView(v) || v instanceof Tensor
  )
}

function samplerName(): Field<PathOptions['sampler']> {
  const check = (name: unknown) => {
    samplerNamed(name)
    return name as SamplerName
  }
  return { fallback: undefined, check }
}
