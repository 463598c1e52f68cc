/**
 * A model to ship: one safetensors file with the network's weights (averaged ones where there are any) under their bare names,
 * and in its `__metadata__` the JSON that rebuilds the model.
 */
import { isObject, parseJsonObject } from '../checkpoint/json'
import { DDPM } from '../diffusion/models/ddpm'
import type { DDPMOptions } from '../diffusion/options/ddpm-options'
import type { ComputeOptions } from '../diffusion/process/model-options'
import { DiffusionError } from '../errors'
import type { UNetConfig } from '../nn/unet-config'
import { checkUNetFits } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { bigintsAsText } from '../printable'
import type { ModelConfig } from './options'
import { readStateDict, writeStateDict } from './state-dict-file'

/** `format` in the metadata. */
export const modelFormat = 'ddpm-native model 1'

export interface ModelInfo {
  /** DDPM's options. */
  readonly config: ModelConfig
  /** How it was trained: step, loss, options; as the writer liked. */
  readonly training: Record<string, unknown>
}

export interface ModelFile extends ModelInfo {
  readonly weights: StateDict
}

/** Writes the model's averaged weights (the plain ones of a model without an average). Throws `io`. */
export async function saveModel(file: string, ddpm: DDPM, info: ModelInfo): Promise<void> {
  const state = await ddpm.trainingState()
  await writeModelFile(file, { ...info, weights: state.ema ?? state.weights })
}

/** With dtype 'F16' in half precision: half the size, and 11 bits of each weight. */
export async function writeModelFile(file: string, model: ModelFile, dtype?: 'F32' | 'F16'): Promise<void> {
  const metadata = {
    format: modelFormat,
    config: JSON.stringify(model.config),
    training: JSON.stringify(model.training, bigintsAsText),
  }
  await writeStateDict(file, model.weights, metadata, dtype)
}

/** Room for the names of many classes, and for betas. */
const maxJsonLength = 4 * 2 ** 20

/** Throws `not-found`, `io` and, for a damaged file or one of another kind, `bad-file`. */
export async function readModelFile(file: string): Promise<ModelFile> {
  const { dict: weights, metadata, budget } = await readStateDict(file)
  if (metadata.format !== modelFormat) {
    throw new DiffusionError(
      'bad-file',
      `${file} is not a model of ddpm-native (its __metadata__ has no '${modelFormat}')`,
      {
        argument: 'model',
        expected: modelFormat,
        received: metadata.format,
      },
    )
  }
  const parse = (key: string) => {
    const text = metadata[key] ?? ''
    if (text.length > maxJsonLength)
      throw budget.bad(`'${key}' of its metadata has more than ${maxJsonLength} characters`)
    return parseJsonObject(Buffer.from(text), budget, `'${key}' of its metadata`)
  }
  return { weights, config: parse('config'), training: parse('training') }
}

/** A model for sampling with these weights. Throws `state-mismatch` before it is made where they are not those of its network. */
export async function modelFromWeights(
  config: ModelConfig,
  weights: StateDict,
  options: ComputeOptions = {},
): Promise<DDPM> {
  if (isObject(config.unetConfig)) checkUNetFits(config.unetConfig as unknown as UNetConfig, weights, 'the model')
  const ddpm = new DDPM({ ...config, ...options, useEma: false } as unknown as DDPMOptions)
  try {
    await ddpm.loadStateDict(weights, { strict: true })
    return ddpm
  } catch (error) {
    ddpm.dispose()
    throw error
  }
}

/** Reads a model file for sampling. */
export async function loadModelFile(file: string, options: ComputeOptions = {}): Promise<DDPM> {
  const { config, weights } = await readModelFile(file)
  return modelFromWeights(config, weights, options)
}
