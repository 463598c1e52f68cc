/** Models from other libraries' files: diffusers' folders, and PyTorch checkpoints as ddpm.py's init_from_ckpt takes them. */
import { stat } from 'node:fs/promises'
import { readDiffusersFolder, type WeightsKind, writeDiffusersFolder } from '../../checkpoint/diffusers/folder'
import { unet2DConfig, unet2DWeights } from '../../checkpoint/diffusers/unet'
import type { WeightsOptions } from '../../checkpoint/diffusers/weights'
import { type FoundWeights, findWeights, isAverage, likelyDict, type NamedDict } from '../../checkpoint/find-weights'
import { isHubName } from '../../checkpoint/hub/access'
import { type HubOptions, hubSnapshot } from '../../checkpoint/hub/snapshot'
import { plainTensors } from '../../checkpoint/plain-numbers'
import { checkKey, openStateDictFile } from '../../checkpoint/state-dict-file'
import { DiffusionError, invalidArgument, quote } from '../../errors'
import type { Network } from '../../nn/network'
import { renameLegacyDiffusers, todaysName } from '../../nn/unet/diffusers'
import { diffusersUNet } from '../../nn/unet/diffusers-config'
import { UNet } from '../../nn/unet/unet'
import { withoutAugmentation } from '../../nn/unet/vector-embedding'
import { checkUNetFits } from '../../nn/unet-fit'
import type { StateDict } from '../../nn/weights'
import { array, boolean, oneOf, parseOptions, type SchemaOf, string, value } from '../../options'
import { ignoredFields } from '../sampling/diffusers/ignored-fields'
import type { SchedulerConfig } from '../sampling/diffusers/scheduler-config'
import {
  readScheduler,
  type SchedulerSettings,
  schedulerOfSettings,
  type WrittenScheduler,
} from './diffusers-scheduler'
import { emaName, type LoadReport, modelPrefix } from './state'

export interface Pretrained {
  readonly settings: SchedulerSettings & {
    readonly unetConfig: ConstructorParameters<typeof UNet>[0]
    readonly classNames?: readonly string[]
    readonly nullClass?: number
  }
  readonly weights: StateDict
  /** As it is in the folder; the defaults of DDPMScheduler where there is none. */
  readonly schedulerConfig: SchedulerConfig
  /** Fields that were ignored, and what was not found. */
  readonly warnings: readonly string[]
}

/** A folder as it is; what is none, and may be a model's name on the hub, is fetched. */
export async function pretrainedFolder(source: string, variant?: string, o: HubOptions = {}): Promise<string> {
  const isHere = typeof source !== 'string' || (await stat(source).catch(() => undefined)) !== undefined
  if (!isHere && isHubName(source)) return hubSnapshot(source, variant, o)
  if (o.revision !== undefined)
    throw invalidArgument('revision', 'none for a folder: the hub has revisions', o.revision)
  return source
}

/** Which of a file's weights: not to be mistaken for what they are held in. */
export const whichWeights = value<WeightsKind>(
  "'ema' or 'model' (what weights are held in is the option weightFormat)",
  (v) => v === 'ema' || v === 'model',
)

/** What a diffusers folder says, checked to fit together before a model is made of it. */
export async function readPretrained(
  folder: string,
  o: { readonly variant?: string; readonly weights?: WeightsKind } = {},
): Promise<Pretrained> {
  if (o.weights !== undefined) whichWeights.check(o.weights, 'weights')
  const { unetConfig, schedulerConfig, classNames, nullClass, files, readWeights } = await readDiffusersFolder(
    folder,
    o,
  )
  const scheduler = schedulerConfig ?? { _class_name: 'DDPMScheduler' }
  const { settings, ignored } = readScheduler(scheduler)
  const unet = diffusersUNet(unetConfig)
  const found = ownNames(await readWeights())
  const dict = renameLegacyDiffusers(found.dict)
  checkUNetFits(unet.options, dict, folder)
  const warnings = [
    ...(found.prefix === '' ? [] : [foundAt(folder, { key: '', prefix: found.prefix })]),
    ...ignoredFields(files.unet, unet.ignored),
    ...(files.scheduler ? ignoredFields(files.scheduler, ignored) : [noScheduler(folder)]),
  ]
  const { numClasses = 0 } = unet.options
  const named = {
    ...(classNames?.length === numClasses && { classNames }),
    ...(nullClass !== undefined && nullClass >= 0 && nullClass < numClasses && { nullClass }),
  }
  return {
    settings: { ...settings, unetConfig: unet.options, ...named },
    weights: dict,
    schedulerConfig: scheduler,
    warnings,
  }
}

/** Without what was before all names of a network that was saved inside of another, such as torch.compile's '_orig_mod.'. */
function ownNames(dict: StateDict): { dict: StateDict; prefix: string } {
  const [{ prefix } = { prefix: '' }] = findWeights([{ key: '', names: Object.keys(dict) }], ['conv_in.weight'])
  const names = Object.keys(dict).filter((name) => name.startsWith(prefix))
  return { prefix, dict: Object.fromEntries(names.map((name) => [name.slice(prefix.length), dict[name]])) }
}

function noScheduler(folder: string): string {
  return `${folder} has no scheduler_config.json: taken for DDPMScheduler's defaults, 1000 steps of linear betas and a prediction of the noise`
}

/** Writes a folder of a network and its weights, but for a layer of augmentation. Throws `io` and `unsupported`. */
export async function writePretrained(
  folder: string,
  network: Network | undefined,
  dict: StateDict,
  o: {
    readonly classNames?: readonly string[]
    readonly nullClass?: number
    readonly schedulerConfig?: SchedulerConfig
  } & WeightsOptions &
    WrittenScheduler,
): Promise<void> {
  if (!(network instanceof UNet)) {
    throw new DiffusionError('unsupported', 'only a model whose network is a UNet can be written as a diffusers folder')
  }
  const schedulerConfig = schedulerOfSettings(o, o.schedulerConfig)
  const options = withoutAugmentation(network.options)
  const unetConfig = unet2DConfig(options)
  const weights: Record<string, Float32Array> = {}
  for (const { name } of network.parameters.slots) weights[name] = (await dict[name].values()) as Float32Array
  const { classNames, nullClass } = o
  const contents = {
    schedulerConfig,
    unetConfig,
    weights: unet2DWeights(options, weights),
    classNames,
    nullClass,
  }
  await writeDiffusersFolder(folder, contents, { maxShardSize: o.maxShardSize, variant: o.variant })
}

// ---- init_from_ckpt --------------------------------------------------------------------------------------------------

/** Of DDPM.initFromCkpt. */
export interface InitFromCkptOptions {
  /** Names that begin with one of these are left out. Default: none. */
  ignoreKeys?: readonly string[]
  /** Only the network: the schedule stays, and the averages start anew from its weights. Default false. */
  onlyModel?: boolean
  /** 'model' (default): weights and averages as they are in the file; 'ema': the file's averages as the weights. */
  weights?: 'model' | 'ema'
  /** Which dict of the file has the weights, such as 'ema' or 'ema.model'. Default: the one that has the network's names. */
  key?: string
}

export const initFromCkptSchema = {
  ignoreKeys: array(string(''), []),
  onlyModel: boolean(false),
  weights: oneOf(['model', 'ema'], 'model'),
  key: string(),
} satisfies SchemaOf<InitFromCkptOptions>

export interface Checkpoint {
  /** For loadStateDict. */
  readonly dict: StateDict
  readonly counters: CheckpointReport['counters']
  /** Where the weights were, unless that is where ddpm.py and a plain state_dict have them. */
  readonly found?: FoundWeights
  /** Names of the file that are not of the network beside them. */
  readonly left: readonly string[]
}

export interface CheckpointReport extends LoadReport {
  /** Numbers of the file beside its state_dict: global_step, epoch. */
  readonly counters: Readonly<Record<string, number>>
  /** The dict within the file that the weights are from, and what was before their names, where these are not the usual ones. */
  readonly found?: { readonly key: string; readonly prefix: string }
}

/** The state dict that a file has for a network, by ddpm.py's names or the network's own. */
export async function readCheckpoint(
  path: string,
  network: Network | undefined,
  options: unknown,
): Promise<Checkpoint> {
  const o = parseOptions('initFromCkpt', options, initFromCkptSchema)
  const slots = (network?.parameters.slots ?? []).map(({ name }) => name)
  let place: FoundWeights = { key: '', prefix: '' }
  const { tensors, others, counters, budget } = await openStateDictFile(path, (dicts) => {
    if (o.key !== undefined) checkKey(o.key, dicts)
    place = placeOf(o.key === undefined ? dicts : dicts.filter(({ key }) => key === o.key), slots, o.weights)
    const outer = outerPrefix(place.prefix)
    const ignored = (name: string) => o.ignoreKeys.some((prefix) => name.startsWith(prefix))
    return { key: place.key, wanted: (name) => !ignored(name) && !ignored(without(outer, name)) }
  })
  let { dict, left } = stripped(plainTensors(tensors, budget), place.prefix)
  if (network instanceof UNet && network.options.layout === 'diffusers') dict = renameLegacyDiffusers(dict)
  if (o.weights === 'ema' && !isAverage(place)) dict = withAverages(path, dict, network)
  if (o.onlyModel) dict = networkOnly(dict)
  left = [...left, ...others]
  const usual = ['', 'state_dict'].includes(place.key) && outerPrefix(place.prefix) === ''
  return { dict, counters, left, ...(usual ? {} : { found: place }) }
}

/** The place that has the most of the network's names, the likely first; where none has any, the likely dict. */
function placeOf(dicts: readonly NamedDict[], slots: readonly string[], weights: 'model' | 'ema'): FoundWeights {
  let best: FoundWeights & { count: number } = { key: likelyDict(dicts)?.key ?? '', prefix: '', count: 0 }
  const names = new Map(dicts.map((dict) => [dict.key, new Set(dict.names.map(todaysName))]))
  const renamed = dicts.map(({ key }) => ({ key, names: [...names.get(key)!] }))
  for (const place of findWeights(renamed, slots.slice(0, 1), weights).slice(0, maxPlaces)) {
    const count = slots.filter((slot) => names.get(place.key)!.has(place.prefix + slot)).length
    if (count > best.count) best = { ...place, count }
  }
  return { key: best.key, prefix: best.prefix }
}

/** Each is compared with all names of the network. */
const maxPlaces = 64

/** What is before ddpm.py's own names or, where these are not used, before the network's. */
function outerPrefix(prefix: string): string {
  const own = [modelPrefix, modelPrefix.slice('model.'.length)].find((name) => prefix.endsWith(name)) ?? ''
  return prefix.slice(0, prefix.length - own.length)
}

function without(prefix: string, name: string): string {
  return name.startsWith(prefix) ? name.slice(prefix.length) : name
}

/** Without what is before ddpm.py's names; or the network's alone, by its bare names. */
function stripped(dict: StateDict, prefix: string): { dict: StateDict; left: readonly string[] } {
  const outer = outerPrefix(prefix)
  if (outer === '') return { dict, left: [] }
  const names = Object.keys(dict)
  const inner = names.filter((name) => name.startsWith(outer))
  const left = names.filter((name) => !name.startsWith(outer))
  return { dict: Object.fromEntries(inner.map((name) => [name.slice(outer.length), dict[name]])), left }
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

function bad(path: string, problem: string): DiffusionError {
  const details = { argument: 'path', received: path }
  return new DiffusionError('bad-file', `${path} can't be loaded: ${problem}`, details)
}

/** What is said where weights were found at no usual place. */
export function foundAt(path: string, { key, prefix }: FoundWeights): string {
  const where = key === '' ? 'its weights' : `the weights of its ${quote(key)}`
  return `${path}: ${where} were taken${prefix === '' ? '' : `, without ${quote(prefix)} before their names`}`
}

/** Names that its Unet alone has. */
const lucidrains = /(^|\.)(init_conv\.weight|downs\.0\.0\.block1\.proj\.weight)$/

export function nothingFits(path: string, names: readonly string[], network: Network | undefined): DiffusionError {
  if (names.some((name) => lucidrains.test(name))) {
    const message = `${path} is of denoising-diffusion-pytorch's Unet, which is another network: loadModel opens it, and LucidrainsUNet is it`
    return new DiffusionError('unsupported', message, { argument: 'path' })
  }
  const own = network?.parameters.slots[0]
  const like =
    own && names.length > 0 ? `: its names are like ${quote(names[0])}, the network's like ${quote(own.name)}` : ''
  return new DiffusionError('state-mismatch', `${path} has nothing of this model${like}`, { argument: 'path' })
}
