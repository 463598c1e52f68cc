/**
 * diffusers' folders: model_index.json, unet/config.json with the weights beside it, scheduler/scheduler_config.json. Only the
 * files; what the configurations mean is said elsewhere.
 */
import { access, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../errors'
import { atomicWrite } from './atomic-write'
import { isObject, type JsonObject, readJsonFile } from './json'
import { type StoredTensor, writeSafetensors } from './safetensors'
import { readStateDictFile } from './state-dict-file'

type Weights = Readonly<Record<string, StoredTensor>>

export interface DiffusersFolder {
  /** UNet2DModel's. */
  readonly unetConfig: JsonObject
  /** Of a scheduler, by its `_class_name`. */
  readonly schedulerConfig: JsonObject
  /** By diffusers' names. */
  readonly weights: Weights
}

const indexFile = 'model_index.json'
const unetConfigFile = path.join('unet', 'config.json')
const schedulerConfigFile = path.join('scheduler', 'scheduler_config.json')
const safetensorsFile = 'diffusion_pytorch_model.safetensors'
/** In the order of preference, as diffusers looks for them. */
const weightFiles = [safetensorsFile, 'diffusion_pytorch_model.bin']

/** The version whose layout and names are written. */
const diffusersVersion = '0.27.2'

/** The weights are read when asked for. Throws `not-found`, `io` and `bad-file`. */
export async function readDiffusersFolder(
  folder: string,
): Promise<Omit<DiffusersFolder, 'weights'> & { readWeights(): Promise<Weights> }> {
  const index = await readJsonFile(path.join(folder, indexFile))
  for (const part of ['unet', 'scheduler']) {
    if (!Array.isArray(index[part])) throw bad(path.join(folder, indexFile), `it has no '${part}'`)
  }
  return {
    unetConfig: await readJsonFile(path.join(folder, unetConfigFile)),
    schedulerConfig: await readJsonFile(path.join(folder, schedulerConfigFile)),
    readWeights: () => readWeights(path.join(folder, 'unet')),
  }
}

/** Writes what DDPMPipeline.from_pretrained opens; the index last, so that there is one only for a whole folder. */
export async function writeDiffusersFolder(folder: string, contents: DiffusersFolder): Promise<void> {
  await makeFolder(path.join(folder, 'unet'))
  await makeFolder(path.join(folder, 'scheduler'))
  const write = (name: string, kind: string, fields: JsonObject) => {
    const json = { _class_name: kind, _diffusers_version: diffusersVersion, ...fields }
    return atomicWrite(path.join(folder, name), `${JSON.stringify(json, null, 2)}\n`)
  }
  await writeSafetensors(path.join(folder, 'unet', safetensorsFile), contents.weights, { format: 'pt' })
  await write(unetConfigFile, 'UNet2DModel', contents.unetConfig)
  await write(schedulerConfigFile, 'DDPMScheduler', contents.schedulerConfig)
  const parts = { scheduler: ['diffusers', 'DDPMScheduler'], unet: ['diffusers', 'UNet2DModel'] }
  await write(indexFile, 'DDPMPipeline', parts)
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
  } catch (error) {
    const message = `cannot make ${folder}: ${(error as Error).message}`
    throw new DiffusionError('io', message, { argument: 'path', received: folder, cause: error })
  }
}

/** One file, or several with an index of which tensor is where. */
async function readWeights(folder: string): Promise<Record<string, StoredTensor>> {
  for (const name of weightFiles) {
    if (await exists(path.join(folder, name))) return wholeFile(path.join(folder, name))
    const index = path.join(folder, `${name}.index.json`)
    if (await exists(index)) return shards(folder, index)
  }
  const message = `${folder} has no weights: none of ${weightFiles.join(', ')}, whole or with an index`
  throw new DiffusionError('not-found', message, { argument: 'path', received: folder })
}

async function wholeFile(file: string): Promise<Record<string, StoredTensor>> {
  const { tensors, others } = await readStateDictFile(file)
  if (others.length > 0) throw bad(file, `'${others[0]}' is not a tensor`)
  return tensors
}

async function shards(folder: string, index: string): Promise<Record<string, StoredTensor>> {
  const { weight_map: map } = await readJsonFile(index)
  if (!isObject(map)) throw bad(index, "it has no 'weight_map'")
  const tensors: Record<string, StoredTensor> = Object.create(null)
  for (const file of new Set(Object.values(map))) {
    // A name, not a path: nothing outside of the folder is read.
    if (typeof file !== 'string' || !/^[\w-][\w.-]*$/.test(file)) throw bad(index, 'it names a file that is none')
    const shard = await wholeFile(path.join(folder, file))
    for (const [name, tensor] of Object.entries(shard)) {
      if (map[name] !== file) throw bad(index, `it does not have '${name}' in ${file}`)
      tensors[name] = tensor
    }
  }
  const missing = Object.keys(map).find((name) => !(name in tensors))
  if (missing !== undefined) throw bad(index, `'${missing}' is not where it says`)
  return tensors
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
