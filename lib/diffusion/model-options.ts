/** Options of the diffusion classes: ddpm.py's keyword arguments camelCased, with its defaults, and a few of our own. */
import { Device, type DeviceName } from '../device'
import { precisions } from '../native'
import type { Network } from '../nn/network'
import type { UNet } from '../nn/unet'
import { array, boolean, func, integer, number, oneOf, type Parsed, seed, string, value } from '../options'
import { Tensor } from '../tensor'
import type { ClassLabels } from './condition'
import { type DenoiserFunction, isNetwork } from './denoiser'
import { samplers } from './sampling/choose'
import type { LoopOptions, StepEvent } from './sampling/loop'
import { betaSchedules, maxTimesteps, parameterizations, timestepSpacings } from './schedule'
import type { SchedulerConfig } from './scheduler-config'
import { type Threshold, varianceTypes } from './settings'

const isObject = (v: unknown) => typeof v === 'object' && v !== null && !Array.isArray(v)
const isLabels = (v: unknown) => typeof v === 'number' || typeof v === 'string' || isList(v) || v instanceof Tensor
const isThreshold = (v: unknown) => {
  const { ratio, max, ...more } = (isObject(v) ? v : {}) as Partial<Threshold>
  return Number(ratio) >= 0 && Number(ratio) <= 1 && Number(max) > 0 && Object.keys(more).length === 0
}
const isList = (v: unknown) => Array.isArray(v) || ArrayBuffer.isView(v)

/** Also register_schedule's own arguments. */
export const scheduleSchema = {
  /** Betas in place of a schedule's. */
  givenBetas: value<readonly number[] | Float32Array | Float64Array>('an array of numbers', isList),
  betaSchedule: oneOf(betaSchedules, 'linear'),
  timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  linearStart: number(1e-4, { min: 0, max: 1 }),
  linearEnd: number(2e-2, { min: 0, max: 1 }),
  cosineS: number(8e-3, { min: 0 }),
  /** Nothing of the image is left at the last timestep: Lin et al. 2024, algorithm 1. Not with parameterization 'eps'. */
  zeroTerminalSnr: boolean(false),
}

/**
 * Of registerSchedule.
 * @interface
 */
export type ScheduleOptions = Partial<Parsed<typeof scheduleSchema>>

export const modelSchema = {
  ...scheduleSchema,
  /** A network of one's own, or a function (x, t) => Tensor. Either this or unetConfig. */
  model: value<Network | DenoiserFunction>(
    'a network or a function (x, t) => Tensor',
    (v) => typeof v === 'function' || isNetwork(v),
  ),
  /** Options of UNet. */
  unetConfig: value<ConstructorParameters<typeof UNet>[0]>('an object of UNet options', isObject),
  lossType: oneOf(['l1', 'l2'], 'l2'),
  useEma: boolean(true),
  /** Of LitEma. */
  emaDecay: number(0.9999, { min: 0, max: 1 }),
  logEveryT: integer(100, { min: 1 }),
  /** The metric by which a trainer may choose among checkpoints: ddpm.py's attribute, for its users to read. */
  monitor: string('val/loss'),
  clipDenoised: boolean(true),
  /**
   * Of sampling, with all samplers but 'plms', in place of the clipping: { ratio, max }, dynamic thresholding (Saharia et al. 2022,
   * section 2.3). Default: none. Single steps (pSample, pMeanVariance) clip.
   */
  thresholding: value<Threshold>('{ ratio, max }: 0 to 1, and above 0', isThreshold),
  /** Which timesteps are taken when `steps` are fewer than all. */
  timestepSpacing: oneOf(timestepSpacings, 'linspace'),
  /** Added to the timesteps of the spacing 'leading': diffusers' steps_offset. */
  stepsOffset: integer(0, { min: 0 }),
  originalElboWeight: number(0),
  /** v of the posterior's variance (1 - v) * beta_tilde + v * beta. */
  vPosterior: number(0, { min: 0, max: 1 }),
  lSimpleWeight: number(1),
  /**
   * Of sampling: 'fixed' is that of vPosterior. With 'learned' and 'learned_range' the network has twice as many output channels,
   * the second half for the variance (Nichol & Dhariwal 2021, section 3.1), which the variational bound trains.
   */
  varianceType: oneOf(varianceTypes, 'fixed'),
  /** lambda of the bound in the loss of a learned variance (eq. 16 there). Default 0.001. */
  vlbWeight: number(undefined, { min: 0 }),
  parameterization: oneOf(parameterizations, 'eps'),
  learnLogvar: boolean(false),
  logvarInit: number(0),
  /** gamma of the min-SNR loss weights (Hang et al. 2023, section 3.4; 5 there). Default: no such weights. */
  minSnrGamma: number(undefined, { min: 0 }),
  /** In training, this much of one normal number for each channel is added to the noise that is drawn (Guttenberg 2023: 0.1). */
  offsetNoise: number(0, { min: 0 }),
  /** How trainBatch and trainingStep draw timesteps: evenly, or by their losses (Nichol & Dhariwal 2021, eq. 18). */
  timestepSampler: oneOf(['uniform', 'loss-second-moment'], 'uniform'),
  /** The class label that stands for no class; the network's numClasses counts it. Needed for classDropout and guidance. */
  nullClass: integer(undefined, { min: 0 }),
  /** Probability that a label is replaced by nullClass in training: Ho & Salimans 2022, algorithm 1. */
  classDropout: number(0, { min: 0, max: 1 }),
  /** Names of the class labels from 0 on; they are kept with the model. */
  classNames: array(string()),
  /** 'auto', 'cpu', 'cuda' or 'cuda:1'. */
  device: value<DeviceName | Device>('a device name', (v) => typeof v === 'string' || v instanceof Device),
  /**
   * What the network is computed in. 'fp16', 'bf16': operands of convolutions, linear layers and attention have 16 bits; sums,
   * weights and all else stay float32, and with 'fp16' the loss is scaled in training. Throws `unsupported` where the device has
   * not got it: the CPU has 'fp32'.
   */
  precision: oneOf(precisions, 'fp32'),
  /** Of the initial weights, of training, and of calls that are given none. */
  seed: seed(0),
  /** Fix every algorithm, so that an image is the same bit for bit in any batch. */
  deterministic: boolean(false),
}

/**
 * DiffusionModelOptions with all defaults filled in.
 * @interface
 */
export type ModelSettings = Parsed<typeof modelSchema>
/**
 * Of all diffusion models.
 * @interface
 */
export type DiffusionModelOptions = Partial<ModelSettings>

/** How samples are drawn, whatever they begin with. */
export const pathSchema = {
  /**
   * 'ddpm' (default): ancestral; 'ddim': Song et al. 2021; 'plms': Liu et al. 2022; 'dpmsolver++': Lu et al. 2022; 'unipc': Zhao et al.
   * 2023. The last three are multistep solvers for 10 to 50 steps.
   */
  sampler: oneOf(samplers),
  /** Fewer steps than the schedule has. Needed by all but 'ddpm'. */
  steps: integer(undefined, { min: 1 }),
  /**
   * Which timesteps: for 'ddpm' with `steps` (default: the model's), 'ddim' (default: ddimDiscretize), 'dpmsolver++' and 'unipc'
   * (default: 'linspace').
   */
  timestepSpacing: oneOf(timestepSpacings),
  /** For 'ddim': 0 (default) is deterministic, 1 adds as much noise as ancestral sampling. */
  eta: number(undefined, { min: 0 }),
  /** For 'ddim' with clipping: the noise follows from the clipped x_0, not from the network's output. Default false. */
  clippedNoise: boolean(),
  /**
   * For 'ddim' and 'plms': ddim.py's strides, of which 'uniform' may take more steps than asked for or end beyond the schedule.
   * Default: evenly, exactly `steps`.
   */
  ddimDiscretize: oneOf(['uniform', 'quad']),
  /** For 'dpmsolver++' and 'unipc': 1, 2 (default) or 3. */
  solverOrder: integer(undefined, { min: 1, max: 3 }),
  /**
   * In place of `sampler` and its options: a scheduler_config.json of diffusers (DDPMScheduler, DDIMScheduler or
   * DPMSolverMultistepScheduler), reproduced step for step. Its schedule and prediction_type replace the model's; num_train_timesteps
   * must be the model's.
   */
  scheduler: value<SchedulerConfig>('an object of scheduler_config.json', isObject),
  /** Descending timesteps in place of `steps`, for a DDPMScheduler. */
  timesteps: array(integer(undefined, { min: 0 }), undefined, maxTimesteps),
  /** For a class-conditional network: one label for all samples, or one for each; also the classes' names, as classLabel takes them. */
  classLabels: value<ClassLabels>('a number, a name, an array, an Int32Array or a Tensor', isLabels),
  /** For a network with cross-attention: tokens [n, l, contextDim]. */
  context: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  /** Of classifier-free guidance: 1 (default) is none, 0 unconditional, more than 1 exaggerates the class. */
  guidanceScale: number(),
  /** Default: the model's with 'ddpm', else false, as in the samplers' sources. 'plms' can't. */
  clipDenoised: boolean(),
  deterministic: boolean(),
  onStep: func<(event: StepEvent) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
}

export const samplingSchema = {
  ...pathSchema,
  /** Of the noise; default: the next of the model's own. */
  seed: seed(),
  /** Index of the first sample: image i drawn alone is image i of a batch. */
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  returnIntermediates: boolean(false),
  /** Which states are intermediates; default: the model's logEveryT. */
  logEveryT: integer(undefined, { min: 1 }),
  /** Of the samples' shape: the image to begin with (`strength`), or to keep a part of (`mask`). */
  image: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  /** Image to image: the last part of the steps that is taken, from 0 (the image itself) to 1. */
  strength: number(undefined, { min: 0, max: 1 }),
  /** Inpainting: 1 keeps the image's pixel, 0 draws it. [n or 1, c or 1, h, w]. Not for 'unipc'. */
  mask: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
}

/**
 * How samples are drawn, and what they begin with.
 * @interface
 */
export type SamplingOptions = Partial<Parsed<typeof samplingSchema>>

export const loopSchema = {
  ...samplingSchema,
  /** The first state, in place of noise. */
  xT: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  /** The noise of step i, counted from 0, in place of drawn noise. */
  noise: func<LoopOptions['noise']>(),
}

/**
 * Of pSampleLoop.
 * @interface
 */
export type PSampleLoopOptions = Partial<Parsed<typeof loopSchema>>
