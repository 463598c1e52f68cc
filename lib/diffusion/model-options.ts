/** Options of the diffusion classes: ddpm.py's keyword arguments camelCased, with its defaults, and a few of our own. */
import { Device, type DeviceName } from '../device'
import type { Network } from '../nn/network'
import type { UNet } from '../nn/unet'
import { boolean, func, integer, number, oneOf, type Parsed, seed, value } from '../options'
import { Tensor } from '../tensor'
import type { ClassLabels } from './condition'
import { type DenoiserFunction, isNetwork } from './denoiser'
import type { LoopOptions, StepEvent } from './sampling/loop'
import { betaSchedules, timestepSpacings } from './schedule'

const isObject = (v: unknown) => typeof v === 'object' && v !== null && !Array.isArray(v)
const isIntegers = (v: unknown) => typeof v === 'number' || isList(v) || v instanceof Tensor
const isList = (v: unknown) => Array.isArray(v) || ArrayBuffer.isView(v)

/** Also register_schedule's own arguments. */
export const scheduleSchema = {
  /** Betas in place of a schedule's. */
  givenBetas: value<readonly number[] | Float32Array | Float64Array>('an array of numbers', isList),
  betaSchedule: oneOf(betaSchedules, 'linear'),
  timesteps: integer(1000, { min: 2 }),
  linearStart: number(1e-4, { min: 0, max: 1 }),
  linearEnd: number(2e-2, { min: 0, max: 1 }),
  cosineS: number(8e-3, { min: 0 }),
}
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
  clipDenoised: boolean(true),
  /** Which timesteps are taken when `steps` are fewer than all. */
  timestepSpacing: oneOf(timestepSpacings, 'linspace'),
  originalElboWeight: number(0),
  /** v of the posterior's variance (1 - v) * beta_tilde + v * beta. */
  vPosterior: number(0, { min: 0, max: 1 }),
  lSimpleWeight: number(1),
  parameterization: oneOf(['eps', 'x0'], 'eps'),
  learnLogvar: boolean(false),
  logvarInit: number(0),
  /** The class label that stands for no class; the network's numClasses counts it. Needed for classDropout and guidance. */
  nullClass: integer(undefined, { min: 0 }),
  /** Probability that a label is replaced by nullClass in training: Ho & Salimans 2022, algorithm 1. */
  classDropout: number(0, { min: 0, max: 1 }),
  /** 'auto', 'cpu', 'cuda' or 'cuda:1'. */
  device: value<DeviceName | Device>('a device name', (v) => typeof v === 'string' || v instanceof Device),
  /** Of the initial weights, of training, and of calls that are given none. */
  seed: seed(0),
  /** Fix every algorithm, so that an image is the same bit for bit in any batch. */
  deterministic: boolean(false),
}

export type ModelSettings = Parsed<typeof modelSchema>
export type DiffusionModelOptions = Partial<ModelSettings>

export const samplingSchema = {
  /** Of the noise; default: the next of the model's own. */
  seed: seed(),
  /** Index of the first sample: image i drawn alone is image i of a batch. */
  sampleOffset: integer(0, { min: 0, max: 2 ** 31 - 1 }),
  returnIntermediates: boolean(false),
  /** Which states are intermediates; default: the model's logEveryT. */
  logEveryT: integer(undefined, { min: 1 }),
  /** 'ddpm': ancestral; 'ddim': Song et al. 2021. */
  sampler: oneOf(['ddpm', 'ddim'], 'ddpm'),
  /** Fewer steps than the schedule has. Needed for 'ddim'. */
  steps: integer(undefined, { min: 1 }),
  /** For 'ddpm' with `steps`: which timesteps; default: the model's. */
  timestepSpacing: oneOf(timestepSpacings),
  /** For 'ddim': 0 (default) is deterministic, 1 adds as much noise as ancestral sampling. */
  eta: number(undefined, { min: 0 }),
  /** For 'ddim': how steps are spread, default 'uniform'. */
  ddimDiscretize: oneOf(['uniform', 'quad']),
  /** For a class-conditional network: one label for all samples, or one for each. */
  classLabels: value<ClassLabels>('a number, an array, an Int32Array or a Tensor', isIntegers),
  /** Of classifier-free guidance: 1 (default) is none, 0 unconditional, more than 1 exaggerates the class. */
  guidanceScale: number(),
  /** Default: the model's; for 'ddim' false, as in ddim.py. */
  clipDenoised: boolean(),
  deterministic: boolean(),
  onStep: func<(event: StepEvent) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
}
export type SamplingOptions = Partial<Parsed<typeof samplingSchema>>

export const loopSchema = {
  ...samplingSchema,
  /** The first state, in place of noise. */
  xT: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  /** The noise of step i, counted from 0, in place of drawn noise. */
  noise: func<LoopOptions['noise']>(),
}
export type PSampleLoopOptions = Partial<Parsed<typeof loopSchema>>
