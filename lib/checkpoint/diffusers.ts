/**
 * diffusers' folders: model_index.json, unet/config.json with the weights beside it, scheduler/scheduler_config.json. Only the
 * files; what the configurations mean is said elsewhere.
 */
import path from 'node:path'
import { DiffusionError } from '../errors'
import { makeFolder } from '../make-folder'
import { atomicWrite } from './atomic-write'
import { readWeights, type Weights, type WeightsOptions, writeWeights } from './diffusers-weights'
import { type JsonObject, readJsonFile } from './json'
import type { NumberTensor } from './plain-numbers'

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
/** The version whose layout and names are written. */
const diffusersVersion = '0.27.2'

/** The weights are read when asked for. Throws `not-found`, `io` and `bad-file`. */
export async function readDiffusersFolder(
  folder: string,
  variant?: string,
): Promise<Omit<DiffusersFolder, 'weights'> & { readWeights(): Promise<Record<string, NumberTensor>> }> {
  const index = await readJsonFile(path.join(folder, indexFile))
  for (const part of ['unet', 'scheduler']) {
    if (!Array.isArray(index[part])) throw bad(path.join(folder, indexFile), `it has no '${part}'`)
  }
  return {
    unetConfig: await readJsonFile(path.join(folder, unetConfigFile)),
    schedulerConfig: await readJsonFile(path.join(folder, schedulerConfigFile)),
    readWeights: () => readWeights(path.join(folder, 'unet'), variant),
  }
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
  await write(unetConfigFile, 'UNet2DModel', contents.unetConfig)
  await write(schedulerConfigFile, 'DDPMScheduler', contents.schedulerConfig)
  const parts = { scheduler: ['diffusers', 'DDPMScheduler'], unet: ['diffusers', 'UNet2DModel'] }
  await write(indexFile, 'DDPMPipeline', parts)
}

function bad(file: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${file} is not of a diffusers model: ${problem}`, {
    argument: 'path',
    received: file,
  })
}
