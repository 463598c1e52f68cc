/**
 * diffusers' folders: a network's config.json with the weights beside it, and a scheduler_config.json. Only the files; what the
 * configurations mean is said elsewhere.
 */
import { access, readdir } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { makeFolder } from '../../make-folder'
import type { StateDict } from '../../nn/parameters'
import { atomicWrite } from '../atomic-write'
import { isObject, type JsonObject, readJsonFile } from '../json'
import { readWeights, type Weights, type WeightsOptions, writeWeights } from './weights'

export interface DiffusersFolder {
  /** UNet2DModel's. */
  readonly unetConfig: JsonObject
  /** Of a scheduler, by its `_class_name`. */
  readonly schedulerConfig: JsonObject
  /** By diffusers' names. */
  readonly weights: Weights
  /** Of the class labels, by number: model_index.json's id2label, as DiTPipeline has it. */
  readonly classNames?: readonly string[]
  /** The label of no class: a field of our own in model_index.json. */
  readonly nullClass?: number
}

export interface FoundFolder extends Omit<DiffusersFolder, 'weights' | 'schedulerConfig'> {
  /** Undefined where there is none, as in a training's checkpoint. */
  readonly schedulerConfig?: JsonObject
  /** Within the folder, where they were found. */
  readonly files: { readonly unet: string; readonly scheduler?: string }
  readWeights(): Promise<StateDict>
}

/** Which of a training's weights: averaged ones are in a folder of their own. */
export type WeightsKind = 'ema' | 'model'

const indexFile = 'model_index.json'
const configFile = 'config.json'
const schedulerFile = 'scheduler_config.json'
/** Where the network may be, by its folder: a pipeline and a training's checkpoint, early models such as google/ddpm-cat-256. */
const unetFolders: Readonly<Record<WeightsKind, readonly string[]>> = { ema: ['unet_ema'], model: ['unet', ''] }
/** A training keeps the scheduler beside its checkpoints. */
const schedulerFolders = ['scheduler', '', path.join('..', 'scheduler'), path.join('..', '..', 'scheduler')]
/** The version whose layout and names are written. */
const diffusersVersion = '0.27.2'

/** Whether a folder is such a one, or a network's alone. */
export async function isDiffusersFolder(folder: string): Promise<boolean> {
  if (await exists(path.join(folder, indexFile))) return true
  return (await unetFolder(folder)) !== undefined
}

/**
 * The weights are read when asked for. `weights`: default the averaged ones where a training's checkpoint has them. Throws
 * `not-found`, `io` and `bad-file`.
 */
export async function readDiffusersFolder(
  folder: string,
  o: { readonly variant?: string; readonly weights?: WeightsKind } = {},
): Promise<FoundFolder> {
  const isPipeline = await exists(path.join(folder, indexFile))
  const index = isPipeline ? await readJsonFile(path.join(folder, indexFile)) : {}
  for (const part of isPipeline ? ['unet', 'scheduler'] : []) {
    if (!Array.isArray(index[part])) throw bad(path.join(folder, indexFile), `it has no '${part}'`)
  }
  checkParts(folder, index)
  const unet = await unetFolder(folder, o.weights)
  if (unet === undefined) throw await missing(folder, o.weights, isPipeline)
  const scheduler = await firstFile(folder, isPipeline ? schedulerFolders.slice(0, 2) : schedulerFolders, schedulerFile)
  if (scheduler === undefined && isPipeline)
    throw notFound(folder, `it has no ${path.join('scheduler', schedulerFile)}`)
  return {
    unetConfig: await readJsonFile(path.join(folder, unet, configFile)),
    schedulerConfig: scheduler === undefined ? undefined : await readJsonFile(path.join(folder, scheduler)),
    classNames: classNames(index.id2label),
    nullClass: Number.isSafeInteger(index.null_class) ? (index.null_class as number) : undefined,
    files: { unet: path.join(unet, configFile), scheduler },
    readWeights: () => readWeights(path.join(folder, unet), o.variant),
  }
}

/** Throws `unsupported` for a pipeline whose network makes something else than images, or is told more than a class. */
function checkParts(folder: string, index: JsonObject): void {
  const parts = Object.entries(index).filter(([, part]) => Array.isArray(part) && part[0] !== null)
  const others = parts.map(([name]) => name).filter((name) => name !== 'unet' && name !== 'scheduler')
  if (others.length === 0) return
  const message = `${folder}: a pipeline with ${others.join(' and ')} is not supported, only one of a UNet and a scheduler; the network alone is ${path.join(folder, 'unet')}`
  throw new DiffusionError('unsupported', message, { argument: 'source', received: others.join(', ') })
}

async function unetFolder(folder: string, weights?: WeightsKind): Promise<string | undefined> {
  const folders = weights ? unetFolders[weights] : [...unetFolders.ema, ...unetFolders.model]
  const found = await firstFile(folder, folders, configFile)
  return found && path.dirname(found)
}

async function firstFile(folder: string, folders: readonly string[], file: string): Promise<string | undefined> {
  for (const inner of folders) if (await exists(path.join(folder, inner, file))) return path.join(inner, file)
  return undefined
}

/** { '0': 'cat', '1': 'dog' }; undefined for anything else. */
function classNames(labels: unknown): string[] | undefined {
  if (!isObject(labels)) return undefined
  const names = Object.keys(labels).map((_, i) => labels[i])
  return names.every((name) => typeof name === 'string') ? (names as string[]) : undefined
}

/** Writes what DDPMPipeline.from_pretrained opens; the index last, so that there is one only for a whole folder. */
export async function writeDiffusersFolder(
  folder: string,
  contents: DiffusersFolder,
  options: WeightsOptions = {},
): Promise<void> {
  await makeFolder(path.join(folder, 'unet'))
  await makeFolder(path.join(folder, 'scheduler'))
  const write = (name: string, kind: string, fields: JsonObject) => {
    const json = { _class_name: kind, _diffusers_version: diffusersVersion, ...fields }
    return atomicWrite(path.join(folder, name), `${JSON.stringify(json, null, 2)}\n`)
  }
  await writeWeights(path.join(folder, 'unet'), contents.weights, options)
  await write(path.join('unet', configFile), 'UNet2DModel', contents.unetConfig)
  await write(path.join('scheduler', schedulerFile), 'DDPMScheduler', contents.schedulerConfig)
  const { _class_name: scheduler = 'DDPMScheduler' } = contents.schedulerConfig
  const parts = { scheduler: ['diffusers', scheduler], unet: ['diffusers', 'UNet2DModel'] }
  const labels = {
    ...(contents.classNames && { id2label: { ...contents.classNames } }),
    ...(contents.nullClass !== undefined && { null_class: contents.nullClass }),
  }
  await write(indexFile, scheduler === 'DDIMScheduler' ? 'DDIMPipeline' : 'DDPMPipeline', { ...parts, ...labels })
}

async function missing(folder: string, weights: WeightsKind | undefined, isPipeline: boolean): Promise<DiffusionError> {
  if (weights === 'ema') return notFound(folder, `it has no averaged weights (${path.join('unet_ema', configFile)})`)
  const files = [path.join('unet', configFile), configFile]
  if (isPipeline) return notFound(folder, `it has neither ${files.join(' nor ')}`)
  // A training's folder has its checkpoints in it.
  const inside = (await readdir(folder).catch(() => [])).filter((name) => /^checkpoint-\d+$/.test(name))
  const newest = inside.sort((a, b) => Number(b.slice(11)) - Number(a.slice(11)))[0]
  const hint = newest === undefined ? '' : `; give one of its checkpoints, such as ${path.join(folder, newest)}`
  return notFound(folder, `it has none of ${[indexFile, ...files].join(', ')}${hint}`)
}

function notFound(folder: string, problem: string): DiffusionError {
  const details = { argument: 'path', received: folder }
  return new DiffusionError('not-found', `${folder} is no whole model of diffusers: ${problem}`, details)
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

function bad(file: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${file} is not of a diffusers model: ${problem}`, {
    argument: 'path',
    received: file,
  })
}
