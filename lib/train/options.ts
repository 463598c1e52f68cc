/** Options of a training run: their defaults, their checks, and what a resume may change. */
import { isDeepStrictEqual } from 'node:util'
import type { ClassSource } from '../data/class-labels'
import type { ImageOptions } from '../diffusion/ddpm-options'
import { modelSchema, type ProcessOptions } from '../diffusion/model-options'
import { DiffusionError, describe, invalidArgument } from '../errors'
import { type Precision, precisions } from '../native'
import type { UNetDetails } from '../nn/unet-options'
import {
  array,
  boolean,
  integer,
  number,
  oneOf,
  type Parsed,
  parseOptions,
  required,
  type Seed,
  seed,
  string,
  unknownOption,
  value,
} from '../options'
import { decayStart, type LrSchedule, lrSchedules } from './lr-schedule'

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

/** DDPM's options but for those that are the training's own. */
export interface TrainModelOptions extends ProcessOptions, ImageOptions {
  /** Of the UNet. Default: 32x32 RGB, 64 channels multiplied by [1, 2, 2], two blocks a level, attention at 1/2 and 1/4. */
  unetConfig?: TrainUNetOptions
}

/** A DDPM's options as plain JSON, `unetConfig` included; `device` and `seed` are the training's own. */
export type ModelConfig = Record<string, unknown> & {
  /** Options of UNet. Default: none, the network is the writer's own. */
  unetConfig?: Record<string, unknown>
}

export interface TrainOptions {
  /** Folder of images, read recursively. */
  data: string
  /** Run folder: checkpoints/, samples/, metrics.jsonl, TensorBoard's event files and, at the end, model.safetensors. */
  out: string
  /** Go on from the newest checkpoint in `out`; options that are left out are taken from it (default false). */
  resume?: boolean
  /** Options of DDPM, and of its UNet. Default: DDPM's, and a UNet for 32x32 RGB. */
  model?: TrainModelOptions
  /** What shows through transparent pixels: a CSS colour (default 'white'). */
  background?: string
  /** Read SVGs, too (default false: they are unreadable). What decoding one takes is not bounded. */
  svg?: boolean
  /** Mirror half of the images left to right, at random (default true). */
  flip?: boolean
  /**
   * Train a class-conditional model: 'folders', where the first folder of an image's path is its class, or a JSON file
   * { "path of an image": "class" }. Unless `model` says otherwise it has one more class, the null class, which stands for a
   * tenth of the labels (default: no classes).
   */
  classes?: ClassSource
  /** Optimizer steps altogether, those before a resume included (default 100,000). */
  steps?: number
  /** Images in a batch (default 16). */
  batchSize?: number
  /** Batches whose gradients are averaged for one optimizer step (default 1). */
  accumulate?: number
  /** Learning rate after the warm-up (default 2e-4, Ho et al. 2020, appendix B). */
  lr?: number
  /** Steps over which the learning rate rises linearly (default 1000, or a tenth of all steps where that is less). */
  warmup?: number
  /** What the rate does after the warm-up (default 'constant'). */
  lrSchedule?: LrSchedule
  /** AdamW's decay of its two averages, each below 1 (default [0.9, 0.999]). */
  betas?: readonly number[]
  /** Added by AdamW to the root of the averaged squares (default 1e-8). */
  eps?: number
  /** Part of each weight, times lr, that AdamW takes off in a step (default 0). */
  weightDecay?: number
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
  /** A checkpoint every so many steps (default 1000); there is one at the end in any case. */
  checkpointEvery?: number
  /** How many checkpoints to keep (default 2). */
  keep?: number
  /** Of the weights, the noise, the order and the samples (default 0). */
  seed?: Seed
  /** Where it is computed, as for DDPM: 'cpu', 'cuda', 'cuda:1' (default 'auto': CUDA where it is). */
  device?: string
  /** What the network is computed in, as for DDPM: 'fp32', 'fp16', 'bf16' (default 'fp32'). */
  precision?: Precision
  /** Batches decoded ahead of the step (default 4). */
  prefetch?: number
  /** Bytes of decoded images to keep in memory (default 512 MiB). */
  cacheBytes?: number
}

const positive = { min: 1 }
const schema = {
  data: required(string()),
  out: required(string()),
  resume: boolean(false),
  model: value<ModelConfig>('an object of DDPM options', (v) => typeof v === 'object' && v !== null),
  background: string('white'),
  svg: boolean(false),
  flip: boolean(true),
  classes: string(),
  steps: integer(100_000, positive),
  batchSize: integer(16, positive),
  accumulate: integer(1, positive),
  lr: number(2e-4, { min: 0 }),
  warmup: integer(undefined, { min: 0 }),
  lrSchedule: oneOf(lrSchedules, 'constant'),
  betas: array(number(undefined, { min: 0, max: 1 }), [0.9, 0.999]),
  eps: number(1e-8, { min: 0 }),
  weightDecay: number(0, { min: 0 }),
  maxGradNorm: number(1, { min: 0 }),
  sampleEvery: integer(1000, { min: 0 }),
  sampleCount: integer(16, positive),
  sampleSteps: integer(100, positive),
  checkpointEvery: integer(1000, positive),
  keep: integer(2, positive),
  seed: seed(0),
  device: string('auto'),
  precision: oneOf(precisions, 'fp32'),
  prefetch: integer(4, positive),
  cacheBytes: integer(512 * 2 ** 20, { min: 0 }),
}

/**
 * TrainOptions with all defaults filled in.
 * @interface
 */
export type ResolvedTrainOptions = Omit<Parsed<typeof schema>, 'model' | 'warmup'> & {
  warmup: number
  model: ModelConfig & { unetConfig: Record<string, unknown> }
}

/** Where and how fast, but not what is computed: a resume may change these, and `steps` while no rate so far depends on it. */
const free: readonly string[] = [
  'data',
  'svg', // which images there are is part of the data's fingerprint
  'classes', // where they are, as with data: what they are is part of the data's fingerprint
  'out',
  'resume',
  'steps',
  'sampleEvery',
  'sampleCount',
  'sampleSteps',
  'checkpointEvery',
  'keep',
  'device',
  'prefetch',
  'cacheBytes',
]

/** The same of the network's options. */
const freeOfUnet: readonly string[] = ['useCheckpoint']

const defaultUnet = {
  imageSize: 32,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 64,
  channelMult: [1, 2, 2],
  numResBlocks: 2,
  attentionResolutions: [2, 4],
  numHeads: 4,
  dropout: 0,
  useCheckpoint: false,
}

/**
 * The options with all defaults filled in: those of the checkpoint, where one is resumed, else the library's. Throws
 * `unknown-option` and `invalid-argument`, the latter also for an option that differs from the checkpoint's and would change
 * what is computed.
 */
export function resolveTrainOptions(
  given: TrainOptions,
  from?: { readonly options: ResolvedTrainOptions; readonly step: number },
): ResolvedTrainOptions {
  const saved = from?.options
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(schema, name)) throw unknownOption('Trainer', name, Object.keys(schema))
  }
  const named = definedOnly(given as unknown as Record<string, unknown>)
  if (from) refuseChanges(named, from.options, from.step)
  const options = parseOptions('Trainer', { ...saved, ...named }, schema)
  if (options.betas.length !== 2) throw invalidArgument('betas', 'two numbers', options.betas)
  const warmup = options.warmup ?? defaultWarmup(options.steps)
  const model = (given.model ?? {}) as ModelConfig
  return { ...options, warmup, model: saved ? withFree(saved.model, model) : completeModel(model) }
}

function withFree(
  saved: ResolvedTrainOptions['model'],
  { unetConfig = {} }: ModelConfig,
): ResolvedTrainOptions['model'] {
  const changed = Object.entries(definedOnly(unetConfig)).filter(([name]) => freeOfUnet.includes(name))
  return { ...saved, unetConfig: { ...saved.unetConfig, ...Object.fromEntries(changed) } }
}

/** More than a tenth of a short training would never reach its rate. */
function defaultWarmup(steps: number): number {
  return Math.min(1000, Math.floor(steps / 10))
}

/** Those of a checkpoint, which is not trusted: checked, and those that it is too old to have with their defaults. */
export function savedTrainOptions(saved: Record<string, unknown>): ResolvedTrainOptions {
  const { seed } = saved
  const large = typeof seed === 'string' && /^\d{1,20}$/.test(seed) // a bigint, as a checkpoint says it
  const options = parseOptions('Trainer', large ? { ...saved, seed: BigInt(seed) } : saved, schema)
  if (options.betas.length !== 2) throw invalidArgument('betas', 'two numbers', options.betas)
  return { ...options, warmup: options.warmup ?? 1000 } as ResolvedTrainOptions
}

function completeModel(model: ModelConfig): ResolvedTrainOptions['model'] {
  for (const name of ['device', 'seed', 'model', 'deterministic', 'precision']) {
    if (name in model) {
      throw new DiffusionError('invalid-argument', `model.${name}: a training has its own`, {
        argument: `model.${name}`,
      })
    }
  }
  const unetConfig = { ...defaultUnet, ...definedOnly(model.unetConfig ?? {}) }
  return { ...diffusionDefaults(), ...definedOnly(model), unetConfig }
}

/** DDPM's defaults, so that a checkpoint says all that it was made with. */
function diffusionDefaults(): Record<string, unknown> {
  const defaults = Object.entries(modelSchema).map(([name, { fallback }]) => [name, fallback])
  const { seed: _s, deterministic: _d, precision: _p, ...own } = definedOnly(Object.fromEntries(defaults))
  return own
}

function refuseChanges(given: Record<string, unknown>, saved: ResolvedTrainOptions, step: number): void {
  const refuse = (name: string, before: unknown, now: unknown) => {
    if (isDeepStrictEqual(before, now)) return
    throw new DiffusionError(
      'invalid-argument',
      `${name} is ${describe(before)} in the checkpoint and can't become ${describe(now)} on resume: ` +
        'leave it out, or start a new run',
      { argument: name, expected: describe(before), received: describe(now) },
    )
  }
  const { model, ...rest } = given as { model?: ModelConfig }
  for (const [name, now] of Object.entries(rest)) {
    const fixed = name === 'steps' ? !sameRates(saved, Number(now), step) : !free.includes(name)
    // A checkpoint from before there was the option was made with its default.
    const before = saved[name as keyof ResolvedTrainOptions] ?? schema[name as keyof typeof schema].fallback
    if (fixed) refuse(name, before, now)
  }
  const { unetConfig, ...diffusion } = model ?? {}
  for (const [name, now] of Object.entries(definedOnly(diffusion))) refuse(`model.${name}`, saved.model[name], now)
  for (const [name, now] of Object.entries(definedOnly(unetConfig ?? {}))) {
    if (freeOfUnet.includes(name)) continue
    refuse(`model.unetConfig.${name}`, saved.model.unetConfig[name], now)
  }
}

/** Whether the rates of the first `step` steps would be those of the run if it had `steps` steps altogether. */
function sameRates(saved: ResolvedTrainOptions, steps: number, step: number): boolean {
  return step <= Math.min(decayStart(saved), decayStart({ ...saved, steps }))
}

/** The same options for a class-conditional model, with what follows from the classes' names. */
export function withClasses(options: ResolvedTrainOptions, classNames: readonly string[]): ResolvedTrainOptions {
  const { unetConfig, ...diffusion } = options.model
  const own = unetConfig.numClasses !== undefined || diffusion.nullClass !== undefined
  const nullClass = own ? {} : { nullClass: classNames.length, classDropout: diffusion.classDropout || 0.1 }
  const numClasses = unetConfig.numClasses ?? classNames.length + 1
  return { ...options, model: { ...diffusion, ...nullClass, classNames, unetConfig: { ...unetConfig, numClasses } } }
}

function definedOnly<T extends Record<string, unknown>>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as T
}
