/** Folders of diffusers' AutoencoderKL and VQModel: config.json with the weights beside it, alone or within a pipeline's folder. */
import { access } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { makeFolder } from '../../make-folder'
import type { StateDict } from '../../nn/parameters'
import { atomicWrite } from '../atomic-write'
import { type JsonObject, readJsonFile } from '../json'
import type { StoredTensor } from '../safetensors'
import { readWeights, type WeightsOptions, writeWeights } from './weights'

const configFile = 'config.json'
/** Where a pipeline has it. */
const inPipeline = ['', 'vae', 'vqvae']
/** The version whose layout and names are written. */
const diffusersVersion = '0.27.2'

export interface FoundAutoencoder {
  readonly config: JsonObject
  /** By diffusers' names. */
  readWeights(): Promise<StateDict>
}

/** Throws `not-found`, `io` and `bad-file`; the weights are read when asked for. */
export async function readAutoencoderFolder(folder: string, variant?: string): Promise<FoundAutoencoder> {
  for (const inner of inPipeline) {
    const own = path.join(folder, inner)
    if (!(await exists(path.join(own, configFile)))) continue
    const config = await readJsonFile(path.join(own, configFile))
    return { config, readWeights: () => readWeights(own, variant) }
  }
  const files = inPipeline.map((inner) => path.join(inner, configFile))
  const hint = (await exists(path.join(folder, 'checkpoints')))
    ? '; that of a training is written when it ends: --resume goes on with it'
    : ''
  throw new DiffusionError('not-found', `${folder} has no autoencoder: none of ${files.join(', ')}${hint}`, {
    argument: 'path',
    received: folder,
  })
}

/** Writes the weights, then the configuration. Throws `io`. */
export async function writeAutoencoderFolder(
  folder: string,
  kind: 'AutoencoderKL' | 'VQModel',
  { config, dict }: { readonly config: JsonObject; readonly dict: StateDict },
  options: WeightsOptions = {},
): Promise<void> {
  await makeFolder(folder)
  const weights: Record<string, StoredTensor> = Object.create(null)
  for (const [name, tensor] of Object.entries(dict)) {
    weights[name] = { dtype: 'F32', shape: tensor.shape, data: (await tensor.values()) as Float32Array }
  }
  await writeWeights(folder, weights, options)
  const json = { _class_name: kind, _diffusers_version: diffusersVersion, ...config }
  await atomicWrite(path.join(folder, configFile), `${JSON.stringify(json, null, 2)}\n`)
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}
