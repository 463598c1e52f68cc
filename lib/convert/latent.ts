/** Latent models as one file by CompVis' names, .ckpt or .safetensors, with the YAML beside it. */
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import type { JsonObject } from '../checkpoint/json'
import { type StoredTensor, writeSafetensors } from '../checkpoint/safetensors'
import { writeTorchCheckpoint } from '../checkpoint/torch/write'
import { writeYaml } from '../checkpoint/yaml'
import { compVisLatentConfig } from '../diffusion/formats/compvis-write'
import { condPrefix, firstPrefix } from '../diffusion/formats/infer-latent'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import type { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { LatentDiffusionOptions } from '../diffusion/options/latent-options'
import { DiffusionError } from '../errors'
import { inLayout } from '../nn/autoencoder/layouts'
import { openClipWeightsOf } from '../nn/text/open-clip-names'
import { UNet } from '../nn/unet/unet'
import type { StateDict } from '../nn/weights'
import { FirstStage } from '../stages/first-stage'
import { FrozenCLIPEmbedder } from '../stages/text/clip'
import type { Tensor } from '../tensor'
import { openai } from './openai-weights'

export interface LatentCkptOptions {
  readonly weights: 'ema' | 'model' | 'both'
  readonly counters: Readonly<Record<string, number>>
}

/** What was written. Throws `io`, and `unsupported` with the option's name for what CompVis' classes can't express. */
export async function writeLatentCkpt(
  model: LatentDiffusion,
  target: string,
  { weights, counters }: LatentCkptOptions,
): Promise<readonly string[]> {
  const { network } = model
  if (!(network instanceof UNet)) throw new DiffusionError('unsupported', 'only a UNet can be written as a checkpoint')
  const averaged = model.config.useEma === true
  const both = weights === 'both' && averaged
  const trained = weights === 'ema' ? emaName : (name: string) => modelPrefix + name
  const config = compVisLatentConfig(
    { ...model.config, useEma: both } as unknown as LatentDiffusionOptions & JsonObject,
    network.options,
  )
  const given = await model.stateDict()
  const names = network.parameters.slots.map(({ name }) => name)
  const networkBy = (nameOf: (name: string) => string) =>
    openai(network, Object.fromEntries(names.map((name) => [name, given[nameOf(name)]])))
  const dict: StateDict = {}
  for (const [name, tensor] of Object.entries(given)) {
    const isPart = [modelPrefix, 'model_ema.', firstPrefix, condPrefix].some((prefix) => name.startsWith(prefix))
    if (!isPart) dict[name] = tensor
  }
  put(dict, await networkBy(trained), (name) => modelPrefix + name)
  if (both) {
    for (const name of ['model_ema.decay', 'model_ema.num_updates']) dict[name] = given[name]
    put(dict, await networkBy(emaName), emaName)
  }
  put(dict, await firstWeights(model, within(given, firstPrefix)), (name) => firstPrefix + name)
  put(dict, await condWeights(model, within(given, condPrefix)), (name) => condPrefix + name)
  const stored = await storedOf(dict)
  if (/\.safetensors$/i.test(target)) await writeSafetensors(target, stored, { format: 'pt' })
  else await writeTorchCheckpoint(target, { stateDict: stored, counters: { epoch: 0, global_step: 0, ...counters } })
  const { dir, name } = path.parse(target)
  const yaml = path.join(dir, `${name}.yaml`)
  await atomicWrite(yaml, writeYaml(config))
  return [target, yaml]
}

function put(dict: StateDict, part: StateDict, nameOf: (name: string) => string): void {
  for (const [name, tensor] of Object.entries(part)) dict[nameOf(name)] = tensor
}

function within(dict: StateDict, prefix: string): StateDict {
  const own = Object.entries(dict).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]))
}

async function firstWeights({ firstStageModel: stage }: LatentDiffusion, dict: StateDict): Promise<StateDict> {
  return stage instanceof FirstStage && stage.network.shape.layout !== 'ldm'
    ? inLayout(stage.network, dict, 'ldm')
    : dict
}

/** CLIP with the exact GELU is Stable Diffusion 2's, by OpenCLIP's names there. */
async function condWeights({ condStageModel: stage }: LatentDiffusion, dict: StateDict): Promise<StateDict> {
  if (!(stage instanceof FrozenCLIPEmbedder) || stage.network.options.hiddenAct === 'quick_gelu') return dict
  return openClipWeightsOf(dict, stage.network.options.numHiddenLayers, 'transformer.text_model.', 'model.')
}

async function storedOf(dict: StateDict): Promise<Record<string, StoredTensor>> {
  const stored: Record<string, StoredTensor> = Object.create(null)
  for (const [name, tensor] of Object.entries(dict)) stored[name] = await storedTensor(tensor)
  return stored
}

async function storedTensor(tensor: Tensor): Promise<StoredTensor> {
  const data = await tensor.values()
  return { dtype: data instanceof Float32Array ? 'F32' : 'I32', shape: tensor.shape, data }
}
