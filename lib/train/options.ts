/** Options of a training run: their types, defaults and checks. */
import type { ClassSource } from '../data/class-labels'
import { type Crop, crops } from '../data/dataset'
import { isUserData, type UserData } from '../data/sources/user'
import type { ImageOptions } from '../diffusion/options/ddpm-options'
import type { ProcessOptions } from '../diffusion/process/model-options'
import { type LrSchedulerConfig, lrFactor } from '../diffusion/training/lr-scheduler'
import { type Optimizer, optimizers } from '../diffusion/training/optimizer'
import type { FeatureExtractor } from '../evaluate/feature-extractor'
import { isExtractor } from '../evaluate/statistics'
import { type MemoryLimit, memoryLimit } from '../memory-limit'
import { type Precision, precisions } from '../native'
import type { LucidrainsUNetOptions } from '../nn/lucidrains/options'
import type { UNetDetails } from '../nn/unet/options'
import {
  array,
  boolean,
  type Field,
  integer,
  number,
  oneOf,
  type Parsed,
  required,
  type Seed,
  seed,
  string,
  value,
} from '../options'
import { type Distributed, distributedModes } from '../world'
import { type LrSchedule, lrSchedules } from './lr-schedule'

/** Of the UNet of a training; what UNet has no default for has one here. */
export interface TrainUNetOptions extends UNetDetails {
  /** Height and width of the images in pixels, a multiple of 2^(levels - 1). Default 32. */
  imageSize?: number
  /** Channels of the input: 3 for RGB, 1 for grey. Default 3. */
  inChannels?: number
  /** Channels of the output. Default 3. */
  outChannels?: number
  /** Channels of the first level. Default 64. */
  modelChannels?: number
  /** Residual blocks of a level on the way down. Default 2. */
  numResBlocks?: number
  /** Downsampling rates with attention. Default [2, 4]. */
  attentionResolutions?: readonly number[]
}

/** Of denoising-diffusion-pytorch's Unet in a training; what it has no default for has one here. */
export interface TrainLucidrainsOptions extends Omit<LucidrainsUNetOptions, 'dim'> {
  /** Channels that `dimMults` multiplies; the time embedding has 4 * dim. Default 64. */
  dim?: number
  /** Height and width of the images in pixels, a multiple of 2^(levels - 1). Default 32. */
  imageSize?: number
}

/** DDPM's options but for those that are the training's own. */
export interface TrainModelOptions extends ProcessOptions, ImageOptions {
  /**
   * Of the UNet, or with `architecture: 'lucidrains'` of the LucidrainsUNet. Default: a UNet for 32x32 RGB, 64 channels multiplied by
   * [1, 2, 2], two blocks a level, attention at 1/2 and 1/4; of LucidrainsUNet dim 64 for 32x32 RGB.
   */
  unetConfig?: TrainUNetOptions | TrainLucidrainsOptions
}

/** A DDPM's options as plain JSON, `unetConfig` included; `device` and `seed` are the training's own. */
export type ModelConfig = Record<string, unknown> & {
  /** Options of the network. Default: none, the network is the writer's own. */
  unetConfig?: Record<string, unknown>
}

/** Of every training, whatever is trained. */
export interface CommonTrainOptions {
  /**
   * A folder of images, read recursively; a file of many; or an object of yours, with `length` and `get(i)` or with
   * `batch(first, count)`. An object is not saved: a resume is given it again.
   */
  data: string | UserData
  /** Run folder: checkpoints/, samples/, metrics.jsonl, TensorBoard's event files and, at the end, the model. */
  out: string
  /** Go on from the newest checkpoint in `out`; options that are left out are taken from it (default false). */
  resume?: boolean
  /** What shows through transparent pixels: a CSS colour (default 'white'). */
  background?: string
  /** Read SVGs, too (default false: they are unreadable). What decoding one takes is not bounded. */
  svg?: boolean
  /** Mirror half of the images left to right, at random (default true). */
  flip?: boolean
  /** Turn half of the images upside down, at random (default false). */
  flipVertical?: boolean
  /**
   * Of images of another shape, which are scaled to cover the size: cut out the middle ('centre'), or a random part each time
   * ('random'); 'none' scales each side by itself and cuts nothing off (default 'centre').
   */
  crop?: Crop
  /** With crop 'random', how much larger than the size images are scaled before they are cut (default 1). */
  cropScale?: number
  /** Black and white of images and arrays of floats: [0, 1], [-1, 1] (default: floats are refused, as no file says it). */
  range?: readonly number[]
  /**
   * Images that are not trained on, by which the loss is evaluated: what `data` can be, or a fraction of it between 0 and 1, which
   * seed and name take out of it. Classes are found as those of `data`; nothing is mirrored, augmented or cropped at random (default: none).
   */
  validation?: string | number | UserData
  /** Steps from one evaluation to the next (default 1000, or a tenth of all steps where that is less). */
  validationEvery?: number
  /** How many evaluations without a lower value of the monitored scalar end the training (default: none do). */
  patience?: number
  /** By how much a value has to be lower to count for `patience` (default 0). */
  minDelta?: number
  /** Optimizer steps altogether, those before a resume included (default 100,000). */
  steps?: number
  /** Images in a batch (default 16). */
  batchSize?: number
  /** Batches whose gradients are averaged for one optimizer step (default 1); of each process, where several train together. */
  accumulate?: number
  /** Learning rate after the warm-up (default 2e-4, Ho et al. 2020, appendix B). */
  lr?: number
  /** Steps over which the learning rate rises linearly (default 1000, or a tenth of all steps where that is less; 0 with a scheduler_config). */
  warmup?: number
  /**
   * What the rate does after the warm-up (default 'constant'): or ddpm.py's scheduler_config, such as
   * { target: 'ldm.lr_scheduler.LambdaLinearScheduler', params: { warm_up_steps: [10000], ... } }, by whose factor `lr` is multiplied.
   */
  lrSchedule?: LrSchedule | LrSchedulerConfig
  /** Multiply `lr` by the images of a step, batchSize * accumulate: scale_lr of latent-diffusion's main.py (default false). */
  scaleLr?: boolean
  /** 'adamw' (default), or 'lion', with a third to a tenth of its learning rate; see OptimizerOptions. */
  optimizer?: Optimizer
  /** Added by AdamW to the root of the averaged squares (default 1e-8); Lion has none. */
  eps?: number
  /** Part of each weight, times lr, that the optimizer takes off in a step (default 0). */
  weightDecay?: number
  /** A checkpoint every so many steps (default 1000); there is one at the end in any case. */
  checkpointEvery?: number
  /** How many checkpoints to keep, beside the best (default 2). */
  keep?: number
  /** Of the weights, the noise, the order and the samples (default 0). */
  seed?: Seed
  /** Where it is computed, as for DDPM: 'cpu', 'cuda', 'cuda:1' (default 'auto': CUDA where it is). */
  device?: string
  /**
   * The most bytes that the training may hold of the device's memory; one that needs more throws `out-of-memory` before its first step, with
   * what it needs and what would fit. Default 'auto': what the device has.
   */
  memoryLimit?: MemoryLimit
  /**
   * Whether processes that were started together (mpirun, srun, torchrun) train together: 'auto' (default), by what started several;
   * 'mpi'; 'nccl', on GPUs; 'off'. See DDPMOptions. The run folder is one that all of them see.
   */
  distributed?: Distributed
  /** Batches decoded ahead of the step (default 4). */
  prefetch?: number
  /** Bytes of decoded images to keep in memory (default 512 MiB). */
  cacheBytes?: number
}

/** Of the transformer that `textEncoder` asks for. */
export interface TrainTextEncoder {
  /** Channels of a token. Default 256. */
  nEmbed?: number
  /** Blocks of self-attention and linear layers. Default 4. */
  nLayer?: number
  /** Tokens of a text, which longer ones are cut to. Default: what the tokenizer says, or 77. */
  maxSeqLen?: number
}

export interface TrainOptions extends CommonTrainOptions {
  /**
   * Train a LatentDiffusion on what this first stage makes of the images: a folder of diffusers with an AutoencoderKL or a VQModel, a
   * pipeline's, or a run of AutoencoderTrainer. The network's imageSize and channels are then those of latents, which are computed
   * once. `out` gets a folder `model` at the end, for LatentDiffusion.fromPretrained (default: none, a DDPM is trained).
   */
  firstStage?: string
  /** With firstStage: height and width of the images in pixels (default: those of the network, times the first stage's factor). */
  size?: readonly number[]
  /**
   * With firstStage: what encodes the images' captions: 'transformer', or its sizes, for a TransformerEmbedder that is trained with the network;
   * or the folder of a CLIP, which stays as it is (default: none, captions are not used). Captions are those of the data's file, or of a folder's metadata.jsonl or .txt files.
   */
  textEncoder?: string | TrainTextEncoder
  /** Folder of the tokenizer's files (default: a CLIP's own; of a transformer, one of the captions' own words, which is made). */
  tokenizer?: string
  /** With textEncoder: the part of the captions that are left empty, for guidance (default 0.1). */
  captionDropout?: number
  /** With firstStage: what latents are multiplied by (default: 1 / the standard deviation of those of the data). */
  scaleFactor?: number
  /** With firstStage: the folder where latents are kept, which other trainings may share (default: `latents` in `out`). */
  latents?: string
  /** Options of DDPM, and of its UNet. Default: DDPM's, and a UNet for 32x32 RGB. */
  model?: TrainModelOptions
  /**
   * Aspect buckets, [height, width] of each: an image is trained in the size that is most like its own, a batch in one. Samples keep
   * the size of `model` (default: all images have that).
   */
  buckets?: readonly (readonly number[])[]
  /**
   * Non-leaking augmentation (Karras et al. 2022, F.2; 0.12 to 0.15 there), against overfitting of few images: the probability with
   * which an image is scaled, turned, stretched, moved or turned upside down, each by itself. The network is told what was done,
   * mirroring included, through a layer of its own (`vectorEmbedding: 'augment'`), so that samples show nothing of it (default: none).
   */
  augment?: number
  /**
   * Train a class-conditional model: 'folders', where the first folder of an image's path is its class, 'labels' for those that the
   * file of the images has itself, or a JSON file { "path of an image": "class" }. Unless `model` says otherwise it has one more class, the null class, which stands for a
   * tenth of the labels (default: no classes).
   */
  classes?: ClassSource
  /**
   * Start from a model in place of from nothing: a run, a model file, a diffusers folder, a checkpoint with its configuration, or a
   * name of the hub. Its options hold but for those that are given, its weights and averages are taken over, and classes that it
   * has not got come after its own. Default: from nothing.
   */
  from?: string
  /** Held-out images that are evaluated, each at four timesteps: chosen by the seed (default 256, or all where there are fewer). */
  validationCount?: number
  /**
   * By which scalar the best checkpoint is kept, the lowest: 'val/loss', 'val/loss_ema', 'val/loss_simple', 'val/loss_q0' and their
   * like; 'fid' (with `fidEvery`); or 'train/loss', as the mean since the evaluation before (default: the model's `monitor`, where
   * there is `validation`, else 'fid' where there is `fidEvery`).
   */
  monitor?: string
  /** Steps from one FID of samples to the next (default: there is none). They are compared with the images that are trained on. */
  fidEvery?: number
  /** Samples of an FID, of the averaged weights, always with the same noise (default 5000). */
  fidCount?: number
  /** Sampling steps of these samples (default 100, or all there are). */
  fidSteps?: number
  /**
   * With `fidEvery`: the file of InceptionV3's weights, or an object of yours with `extract`. An object is not saved: a resume is
   * given it again (default: the file that DDPM_INCEPTION names).
   */
  inception?: string | FeatureExtractor
  /** The optimizer's two decays, each below 1 (default [0.9, 0.999], of Lion [0.9, 0.99]). */
  betas?: readonly number[]
  /** Gradients are scaled down to this global norm; 0 for no limit (default 1, Ho et al. 2020). */
  maxGradNorm?: number
  /**
   * Pictures (inputs, diffusion, samples, denoising) every so many steps, after the first 100, 200 and 500, and at the end; 0 for none
   * (default 1000).
   */
  sampleEvery?: number
  /** Samples in the picture (default 16). */
  sampleCount?: number
  /** Sampling steps for the picture (default 100). */
  sampleSteps?: number
  /** What the network is computed in, as for DDPM: 'fp32', 'fp16', 'bf16' (default 'fp32'); on the CPU 'bf16' needs AVX512-BF16 or AMX. */
  precision?: Precision
  /** Where several processes train together: each keeps its part of the optimizer's state and of the averages only. Default false. */
  shardOptimizer?: boolean
}

const positive = { min: 1 }
const isEncoder = (v: unknown) => (typeof v === 'string' ? v !== '' : typeof v === 'object' && v !== null)
const isData = (v: unknown) => typeof v === 'string' || isUserData(v)
const isValidation = (v: unknown) => (typeof v === 'number' ? v > 0 && v < 1 : isData(v))

const named = oneOf(lrSchedules, 'constant')
const lrScheduleField: Field<LrSchedule | LrSchedulerConfig> = {
  fallback: 'constant',
  check: (given, name) => {
    if (typeof given !== 'object') return named.check(given, name)
    lrFactor(given as LrSchedulerConfig, name)
    return given as LrSchedulerConfig
  },
}

/** Of TrainOptions. */
export const trainSchema = {
  data: required(value<string | UserData>('a path, or an object with get() or batch()', isData)),
  out: required(string()),
  resume: boolean(false),
  model: value<ModelConfig>('an object of DDPM options', (v) => typeof v === 'object' && v !== null),
  background: string('white'),
  svg: boolean(false),
  flip: boolean(true),
  flipVertical: boolean(false),
  crop: oneOf(crops, 'centre'),
  cropScale: number(1, { min: 1, max: 8 }),
  buckets: array(array(integer(undefined, positive), undefined, 2)),
  augment: number(undefined, { min: 0, max: 1 }),
  range: array(number(), undefined, 2),
  classes: string(),
  from: string(),
  firstStage: string(),
  size: array(integer(undefined, positive), undefined, 2),
  textEncoder: value<string | TrainTextEncoder>('transformer, its sizes, or a folder', isEncoder),
  tokenizer: string(),
  captionDropout: number(undefined, { min: 0, max: 1 }),
  scaleFactor: number(undefined, { min: 1e-6 }),
  latents: string(),
  validation: value<string | number | UserData>('what data can be, or a fraction between 0 and 1', isValidation),
  validationEvery: integer(undefined, positive),
  validationCount: integer(256, positive),
  monitor: string(),
  patience: integer(undefined, positive),
  minDelta: number(0, { min: 0 }),
  fidEvery: integer(undefined, positive),
  fidCount: integer(5000, { min: 2 }),
  fidSteps: integer(100, positive),
  inception: value<string | FeatureExtractor>(
    'a path, or an object with extract()',
    (v) => typeof v === 'string' || isExtractor(v),
  ),
  steps: integer(100_000, positive),
  batchSize: integer(16, positive),
  accumulate: integer(1, positive),
  lr: number(2e-4, { min: 0 }),
  warmup: integer(undefined, { min: 0 }),
  lrSchedule: lrScheduleField,
  scaleLr: boolean(false),
  optimizer: oneOf(optimizers, 'adamw'),
  betas: array(number(undefined, { min: 0, max: 1 })),
  eps: number(undefined, { min: 0 }),
  weightDecay: number(0, { min: 0 }),
  maxGradNorm: number(1, { min: 0 }),
  sampleEvery: integer(1000, { min: 0 }),
  sampleCount: integer(16, positive),
  sampleSteps: integer(100, positive),
  checkpointEvery: integer(1000, positive),
  keep: integer(2, positive),
  seed: seed(0),
  device: string('auto'),
  memoryLimit,
  precision: oneOf(precisions, 'fp32'),
  distributed: oneOf(distributedModes, 'auto'),
  shardOptimizer: boolean(false),
  prefetch: integer(4, positive),
  cacheBytes: integer(512 * 2 ** 20, { min: 0 }),
}

/**
 * TrainOptions with all defaults filled in.
 * @interface
 */
export type ResolvedTrainOptions = Omit<Parsed<typeof trainSchema>, 'model' | 'warmup' | 'validationEvery'> & {
  warmup: number
  validationEvery: number
  model: ModelConfig & { unetConfig: Record<string, unknown> }
}
