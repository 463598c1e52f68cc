/** Options of the diffusion classes: ddpm.py's keyword arguments camelCased, with its defaults, and a few of our own. */
import { Device, type DeviceName } from '../../device'
import { type LossType, lossTypes } from '../../graph'
import { type MemoryLimit, memoryLimit } from '../../memory-limit'
import { type Precision, precisions, type WeightFormat, weightFormats } from '../../native'
import { type TrainedOptions, trainedSchema } from '../../nn/lora/trained'
import type { Network } from '../../nn/network'
import type { UNetConfig } from '../../nn/unet-config'
import {
  array,
  boolean,
  integer,
  number,
  oneOf,
  type Parsed,
  type SchemaOf,
  type Seed,
  seed,
  string,
  value,
} from '../../options'
import { type Distributed, distributedModes } from '../../world'
import { type DenoiserFunction, isNetwork } from './denoiser'
import { type Parameterization, parameterizations } from './prediction'
import {
  type BetaSchedule,
  betaSchedules,
  defaultSigmas,
  maxTimesteps,
  type TimestepSpacing,
  timestepSpacings,
} from './schedule'
import { type Threshold, type TimestepSampler, timestepSamplers, type VarianceType, varianceTypes } from './settings'

const isObject = (v: unknown) => typeof v === 'object' && v !== null && !Array.isArray(v)
const isThreshold = (v: unknown) => {
  const { ratio, max, ...more } = (isObject(v) ? v : {}) as Partial<Threshold>
  return Number(ratio) >= 0 && Number(ratio) <= 1 && Number(max) > 0 && Object.keys(more).length === 0
}
const isList = (v: unknown) => Array.isArray(v) || ArrayBuffer.isView(v)

/** The noise schedule; register_schedule's arguments. */
export interface ScheduleOptions {
  /** Betas of all timesteps, [T], each between 0 and 1, in place of a schedule's. Default: those of `betaSchedule`. */
  givenBetas?: readonly number[] | Float32Array | Float64Array
  /**
   * How beta goes from `linearStart` to `linearEnd`: 'linear' is linear in sqrt(beta), 'sqrt_linear' in beta, 'sqrt' is the
   * root of a ramp; 'cosine' is Nichol & Dhariwal 2021, eq. 17. The names are ddpm.py's. 'edm': x_0 + sigma * noise with log(sigma)
   * evenly from `sigmaMin` to `sigmaMax`; 'flow': (1 - t) x_0 + t * noise with t evenly up to 1, moved by `flowShift`. Default: the
   * parameterization's for these two, else 'linear'.
   */
  betaSchedule?: BetaSchedule
  /** T, the number of timesteps of the process. Default 1000. */
  timesteps?: number
  /** Beta of the first timestep, between 0 and 1; not for 'cosine'. Default 1e-4. */
  linearStart?: number
  /** Beta of the last timestep, between 0 and 1; not for 'cosine'. Default 2e-2. */
  linearEnd?: number
  /** s of the 'cosine' schedule, the offset that keeps the first betas from being too small. Default 8e-3. */
  cosineS?: number
  /** Of the 'edm' schedule, the least noise: Karras et al. 2022, table 1. Default 0.002. */
  sigmaMin?: number
  /** Of the 'edm' schedule, the most noise. Default 80. */
  sigmaMax?: number
  /** Of the 'flow' schedule: more than 1 has more of the timesteps at much noise (Esser et al. 2024, eq. 23). Default 1. */
  flowShift?: number
  /**
   * Rescale the betas so that nothing of the image is left at the last timestep: Lin et al. 2024, algorithm 1. Not with
   * parameterization 'eps', nor with the schedules 'edm' and 'flow'. Default false.
   */
  zeroTerminalSnr?: boolean
}

export const scheduleSchema = {
  givenBetas: value<readonly number[] | Float32Array | Float64Array>('an array of numbers', isList),
  betaSchedule: oneOf(betaSchedules),
  timesteps: integer(1000, { min: 2, max: maxTimesteps }),
  linearStart: number(1e-4, { min: 0, max: 1 }),
  linearEnd: number(2e-2, { min: 0, max: 1 }),
  cosineS: number(8e-3, { min: 0 }),
  sigmaMin: number(defaultSigmas.sigmaMin, { min: 1e-6, max: 1e6 }),
  sigmaMax: number(defaultSigmas.sigmaMax, { min: 1e-6, max: 1e6 }),
  flowShift: number(1, { min: 1e-3, max: 1e3 }),
  zeroTerminalSnr: boolean(false),
} satisfies SchemaOf<ScheduleOptions>

/** What a model is, whatever its network: what the files of a model keep. */
export interface ProcessOptions extends ScheduleOptions, TrainedOptions {
  /**
   * Distance of prediction and target in the loss: 'l1' absolute, 'l2' squared (default), or squared up to about `lossDelta` and then
   * straight: 'huber' and 'smooth_l1' as torch's HuberLoss and SmoothL1Loss (lucidrains' 'huber'), 'pseudo_huber', which diffusers'
   * training scripts call huber.
   */
  lossType?: LossType
  /** Where a Huber loss becomes straight: torch's delta or beta, diffusers' huber_c (0.1 there). Default 1. */
  lossDelta?: number
  /** Keep averages of the weights, for emaScope and for files. Default true. */
  useEma?: boolean
  /** How much of the average stays in each update, from 0 to 1; less in the first ones (LitEma). Default 0.9999. */
  emaDecay?: number
  /**
   * Further averages, by power functions whose standard deviations are these parts of the training (Karras et al. 2024, EDM2: [0.05, 0.1]).
   * Checkpoints have them, and postHocEma makes any other of them. Default: none.
   */
  emaSigmaRels?: readonly number[]
  /** Which states a sampling keeps as intermediates: each whose number of steps left this divides. Default 100. */
  logEveryT?: number
  /** The scalar by which a training with held-out images keeps its best checkpoint: ddpm.py's attribute, and Trainer's `monitor`. Default 'val/loss'. */
  monitor?: string
  /** Clip the predicted x_0 to [-1, 1] in ancestral sampling. Default true. */
  clipDenoised?: boolean
  /**
   * Of sampling, with all samplers but 'plms', in place of the clipping: dynamic thresholding (Saharia et al. 2022, section 2.3).
   * Single steps (pSample, pMeanVariance) clip. Default: none.
   */
  thresholding?: Threshold
  /** Which timesteps are taken when `steps` are fewer than all, by diffusers' names. Default 'linspace'. */
  timestepSpacing?: TimestepSpacing
  /** Added to the timesteps of the spacing 'leading': diffusers' steps_offset. Default 0. */
  stepsOffset?: number
  /** Weight of the variational bound's term (lvlbWeights) in the loss. Default 0. */
  originalElboWeight?: number
  /** v, from 0 to 1, of the posterior's variance (1 - v) * beta_tilde + v * beta. Default 0. */
  vPosterior?: number
  /** Weight of the simple loss (Ho et al. 2020, eq. 14) in the loss. Default 1. */
  lSimpleWeight?: number
  /**
   * Of sampling: 'fixed' (default) is that of `vPosterior`. With 'learned' and 'learned_range' the network has twice as many output
   * channels, the second half for the variance (Nichol & Dhariwal 2021, section 3.1), which the variational bound trains.
   */
  varianceType?: VarianceType
  /** lambda of the bound in the loss of a learned variance (eq. 16 there). Default 0.001. */
  vlbWeight?: number
  /**
   * What the network predicts: 'eps' the noise (default), 'x0' the image, 'v' that of Salimans & Ho 2022, 'edm' F of Karras et al. 2022
   * with the preconditioning of its table 1, 'flow' the velocity noise - x_0 of flow matching (Lipman et al. 2023, rectified flow).
   * With the last two the network is given x as there, and in place of timesteps log(sigma)/4 and T t. All samplers do for all.
   */
  parameterization?: Parameterization
  /** Of parameterization 'edm': the standard deviation of the data. Default 0.5. */
  sigmaData?: number
  /**
   * Make `logvar` a parameter of the state dict, as ddpm.py does. It is trained in LatentDiffusion; DDPM's loss does not use it. Default
   * false.
   */
  learnLogvar?: boolean
  /** What `logvar` is at first. Default 0. */
  logvarInit?: number
  /** gamma of the min-SNR loss weights (Hang et al. 2023, section 3.4; 5 there). Default: no such weights. */
  minSnrGamma?: number
  /** In training, this much of one normal number for each channel is added to the noise (Guttenberg 2023: 0.1). Default 0. */
  offsetNoise?: number
  /**
   * How trainBatch and trainingStep draw timesteps: 'uniform' evenly (default), 'loss-second-moment' by their losses (Nichol &
   * Dhariwal 2021, eq. 18), 'lognormal' by a normal log(sigma) (Karras et al. 2022, table 1; default with parameterization 'edm'),
   * 'logit-normal' by a normal logit of their place among all (Esser et al. 2024, eq. 19).
   */
  timestepSampler?: TimestepSampler
  /** Mean of the normal distribution of 'lognormal' (default -1.2) and 'logit-normal' (default 0). */
  timestepMean?: number
  /** Its standard deviation. Default 1.2 and 1. */
  timestepStd?: number
  /**
   * The class label that stands for no class; the network's numClasses counts it. Needed for `classDropout` and guidance.
   * Default: there is none.
   */
  nullClass?: number
  /** Probability that a label is replaced by `nullClass` in training: Ho & Salimans 2022, algorithm 1. Default 0. */
  classDropout?: number
  /**
   * Probability that a sample's context becomes zeros in training, for guidance away from no context: Ho & Salimans 2022, algorithm 1.
   * Label and context of a sample are dropped together as far as both probabilities go. Default 0.
   */
  contextDropout?: number
  /** Probability that a sample's vector becomes zeros in training, together with label and context, for guidance. Default 0. */
  vectorDropout?: number
  /** Names of the class labels from 0 on; they are kept with the model. Default: labels have no names. */
  classNames?: readonly string[]
}

/** What a model is computed by. */
export interface ComputeOptions {
  /** Where it is computed: 'auto' (default: CUDA where it is, else the CPU), 'cpu', 'cuda', 'cuda:1' or a Device. */
  device?: DeviceName | Device
  /**
   * The most bytes that this process may hold of the device's memory: weights, what an optimizer keeps of them, programs. A call that
   * needs more throws `out-of-memory` before it begins, with what it needs and what would fit. One for all models on the device: the last
   * that was given. Default 'auto': what the device has.
   */
  memoryLimit?: MemoryLimit
  /**
   * What the network is computed in. 'fp16', 'bf16': operands of convolutions, linear layers and attention have 16 bits; sums,
   * weights and all else stay float32, and with 'fp16' the loss is scaled in training. Throws `unsupported` where the device has
   * not got it. The CPU has 'fp32' (default) and, with AVX512-BF16 or AMX, 'bf16': where it is faster, operands are rounded as they
   * are multiplied in sampling and in training, where gradients of weights and attention's are fp32; all in memory stays float32.
   */
  precision?: Precision
  /**
   * What weights of convolutions and linear layers are held in: 'fp16' and 'bf16' take half the memory, 'int8', with a factor for each
   * output channel, a quarter. They are rounded when they are read, a file's own 'fp16' not at all; arithmetic is `precision`'s. Such a model
   * samples, and is neither trained nor written to files. Throws `unsupported` where the device has not got it: CUDA has 'fp32'
   * (default), the CPU all.
   */
  weightFormat?: WeightFormat
  /**
   * Whether processes that were started together (mpirun, srun, torchrun) train this model together: each has batches of its own,
   * gradients are of all, weights stay equal. 'mpi': by the MPI that the package was built with. 'nccl': by NCCL, of GPUs; what it needs
   * to begin is exchanged by MPI under a launcher of MPI, else where MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE say. 'auto' (default):
   * 'mpi' where a launcher of MPI started several, 'nccl' where those variables say that there are several. 'off': each on its own.
   * Concerns training alone, which throws `device-unavailable` where a library is not there, `unsupported` for 'nccl' on other devices.
   */
  distributed?: Distributed
  /**
   * Where several processes train together: each keeps only its part of the optimizer's state and of the averages, 1/n of their memory, updates
   * its part of the weights, and gets the others'; numbers and traffic are the same. What reads them whole needs gatherShards. Default false.
   */
  shardOptimizer?: boolean
  /** Of the initial weights, of training, and of calls that are given none: an integer, or a bigint of 64 bits. Default 0. */
  seed?: Seed
  /** Fix every algorithm, so that an image is the same bit for bit in any batch. Default false. */
  deterministic?: boolean
}

/** Of all diffusion models. */
export interface DiffusionModelOptions extends ProcessOptions, ComputeOptions {
  /** A network of one's own, or a function (x, t) => Tensor. Either this or `unetConfig` is needed. */
  model?: Network | DenoiserFunction
  /**
   * Options of the UNet that is made, or with `architecture: 'lucidrains'` of the LucidrainsUNet. Either this or `model` is
   * needed.
   */
  unetConfig?: UNetConfig
}

export const modelSchema = {
  ...scheduleSchema,
  ...trainedSchema,
  model: value<Network | DenoiserFunction>(
    'a network or a function (x, t) => Tensor',
    (v) => typeof v === 'function' || isNetwork(v),
  ),
  unetConfig: value<UNetConfig>('an object of UNet options', isObject),
  lossType: oneOf(lossTypes, 'l2'),
  lossDelta: number(undefined, { min: 1e-6, max: 1e6 }),
  useEma: boolean(true),
  emaDecay: number(0.9999, { min: 0, max: 1 }),
  emaSigmaRels: array(number(), undefined, 16),
  logEveryT: integer(100, { min: 1 }),
  monitor: string('val/loss'),
  clipDenoised: boolean(true),
  thresholding: value<Threshold>('{ ratio, max }: 0 to 1, and above 0', isThreshold),
  timestepSpacing: oneOf(timestepSpacings, 'linspace'),
  stepsOffset: integer(0, { min: 0 }),
  originalElboWeight: number(0),
  vPosterior: number(0, { min: 0, max: 1 }),
  lSimpleWeight: number(1),
  varianceType: oneOf(varianceTypes, 'fixed'),
  vlbWeight: number(undefined, { min: 0 }),
  parameterization: oneOf(parameterizations, 'eps'),
  sigmaData: number(undefined, { min: 1e-6, max: 1e6 }),
  learnLogvar: boolean(false),
  logvarInit: number(0),
  minSnrGamma: number(undefined, { min: 0 }),
  offsetNoise: number(0, { min: 0 }),
  timestepSampler: oneOf(timestepSamplers),
  timestepMean: number(),
  timestepStd: number(undefined, { min: 1e-3, max: 1e3 }),
  nullClass: integer(undefined, { min: 0 }),
  classDropout: number(0, { min: 0, max: 1 }),
  contextDropout: number(0, { min: 0, max: 1 }),
  vectorDropout: number(0, { min: 0, max: 1 }),
  classNames: array(string()),
  device: value<DeviceName | Device>('a device name', (v) => typeof v === 'string' || v instanceof Device),
  memoryLimit,
  precision: oneOf(precisions, 'fp32'),
  weightFormat: oneOf(weightFormats, 'fp32'),
  distributed: oneOf(distributedModes, 'auto'),
  shardOptimizer: boolean(false),
  seed: seed(0),
  deterministic: boolean(false),
} satisfies SchemaOf<DiffusionModelOptions>

/**
 * DiffusionModelOptions with all defaults filled in.
 * @interface
 */
export type ModelSettings = Parsed<typeof modelSchema>
