/** Models from other libraries' files: diffusers' folders, and PyTorch checkpoints as ddpm.py's init_from_ckpt takes them. */
import { readDiffusersFolder, type WeightsKind, writeDiffusersFolder } from '../checkpoint/diffusers'
import { unet2DConfig, unet2DWeights } from '../checkpoint/diffusers-unet'
import type { WeightsOptions } from '../checkpoint/diffusers-weights'
import { type NumberTensor, plainNumbers } from '../checkpoint/plain-numbers'
import { readStateDictFile } from '../checkpoint/state-dict-file'
import { DiffusionError, quote } from '../errors'
import type { Network } from '../nn/network'
import { UNet } from '../nn/unet'
import { renameLegacyDiffusers, unet2DSettings } from '../nn/unet-diffusers'
import { checkUNetFits } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { array, boolean, oneOf, type Parsed, parseOptions, string } from '../options'
import { Tensor } from '../tensor'
import {
  readScheduler,
  type SchedulerSettings,
  schedulerOfSettings,
  type WrittenScheduler,
} from './diffusers-scheduler'
import { ignoredFields } from './ignored-fields'
import type { SchedulerConfig } from './scheduler-config'
import { emaName, type LoadReport, modelPrefix } from './state'

export interface Pretrained {
  readonly settings: SchedulerSettings & {
    readonly unetConfig: ConstructorParameters<typeof UNet>[0]
    readonly classNames?: readonly string[]
  }
  readonly weights: StateDict
  /** As it is in the folder; the defaults of DDPMScheduler where there is none. */
  readonly schedulerConfig: SchedulerConfig
  /** Fields that were ignored, and what was not found. */
  readonly warnings: readonly string[]
}

/** What a diffusers folder says, checked to fit together before a model is made of it. */
export async function readPretrained(
  folder: string,
  o: { readonly variant?: string; readonly weights?: WeightsKind } = {},
): Promise<Pretrained> {
  const { unetConfig, schedulerConfig, classNames, files, readWeights } = await readDiffusersFolder(folder, o)
  const scheduler = schedulerConfig ?? { _class_name: 'DDPMScheduler' }
  const { settings, ignored } = readScheduler(scheduler)
  const unet = unet2DSettings(unetConfig)
  const dict = renameLegacyDiffusers(wrapped(await readWeights()))
  checkUNetFits(unet.options, dict, folder)
  const warnings = [
    ...ignoredFields(files.unet, unet.ignored),
    ...(files.scheduler ? ignoredFields(files.scheduler, ignored) : [noScheduler(folder)]),
  ]
  const named = classNames?.length === unet.options.numClasses ? { classNames } : {}
  return {
    settings: { ...settings, unetConfig: unet.options, ...named },
    weights: dict,
    schedulerConfig: scheduler,
    warnings,
  }
}

function noScheduler(folder: string): string {
  return `${folder} has no scheduler_config.json: taken for DDPMScheduler's defaults, 1000 steps of linear betas and a prediction of the noise`
}

/** Writes a folder of what the model's state dict has for its network. Throws `io` and `unsupported`. */
export async function writePretrained(
  folder: string,
  network: Network | undefined,
  stateDict: StateDict,
  o: { readonly averaged: boolean; readonly classNames?: readonly string[] } & WeightsOptions & WrittenScheduler,
): Promise<void> {
  if (!(network instanceof UNet)) {
    throw new DiffusionError('unsupported', 'only a model whose network is a UNet can be written as a diffusers folder')
  }
  const schedulerConfig = schedulerOfSettings(o)
  const unetConfig = unet2DConfig(network.options)
  const weights: Record<string, Float32Array> = {}
  for (const { name } of network.parameters.slots) {
    weights[name] = await stateDict[o.averaged ? emaName(name) : modelPrefix + name].data()
  }
  const { classNames } = o
  const contents = { schedulerConfig, unetConfig, weights: unet2DWeights(network.options, weights), classNames }
  await writeDiffusersFolder(folder, contents, { maxShardSize: o.maxShardSize, variant: o.variant })
}

// ---- init_from_ckpt --------------------------------------------------------------------------------------------------

export const initFromCkptSchema = {
  /** Names that begin with one of these are left out. */
  ignoreKeys: array(string(''), []),
  /** Only the network: the schedule stays, and the averages start anew from its weights. */
  onlyModel: boolean(false),
  /** 'model': weights and averages as they are in the file; 'ema': the file's averages as the weights. */
  weights: oneOf(['model', 'ema'], 'model'),
}

/**
 * Of DDPM.initFromCkpt.
 * @interface
 */
export type InitFromCkptOptions = Partial<Parsed<typeof initFromCkptSchema>>

export interface Checkpoint {
  /** For loadStateDict. */
  readonly dict: StateDict
  readonly counters: CheckpointReport['counters']
}

export interface CheckpointReport extends LoadReport {
  /** Numbers of the file beside its state_dict: global_step, epoch. */
  readonly counters: Readonly<Record<string, number>>
}

/** The state dict that a file has for a network, by ddpm.py's names or the network's own. */
export async function readCheckpoint(
  path: string,
  network: Network | undefined,
  options: unknown,
): Promise<Checkpoint> {
  const o = parseOptions('initFromCkpt', options, initFromCkptSchema)
  const { tensors, others, counters, budget } = await readStateDictFile(path, (name) => {
    return !o.ignoreKeys.some((prefix) => name.startsWith(prefix))
  })
  if (others.length > 0) throw bad(path, `${quote(others[0])} of its state_dict is not a tensor`)
  let dict = wrapped(plainNumbers(tensors, budget))
  if (network instanceof UNet && network.options.layout === 'diffusers') dict = renameLegacyDiffusers(dict)
  if (o.weights === 'ema') dict = withAverages(path, dict, network)
  if (o.onlyModel) dict = networkOnly(dict)
  return { dict, counters }
}

function withAverages(path: string, dict: StateDict, network: Network | undefined): StateDict {
  const result = { ...dict }
  for (const { name } of network?.parameters.slots ?? []) {
    const average = dict[emaName(name)]
    if (!average) throw bad(path, `it has no averaged weights (${emaName(name)})`)
    result[modelPrefix + name] = average
  }
  return result
}

/** Where a dict is of more than the network, what is of the network, by its bare names. */
function networkOnly(dict: StateDict): StateDict {
  for (const prefix of [modelPrefix, modelPrefix.slice('model.'.length)]) {
    const names = Object.keys(dict).filter((name) => name.startsWith(prefix))
    if (names.length > 0) return Object.fromEntries(names.map((name) => [name.slice(prefix.length), dict[name]]))
  }
  return dict
}

function wrapped(numbers: Readonly<Record<string, NumberTensor>>): StateDict {
  const dict: StateDict = Object.create(null)
  for (const [name, { data, shape }] of Object.entries(numbers)) dict[name] = Tensor.wrap(data, shape)
  return dict
}

function bad(path: string, problem: string): DiffusionError {
  const details = { argument: 'path', received: path }
  return new DiffusionError('bad-file', `${path} can't be loaded: ${problem}`, details)
}
