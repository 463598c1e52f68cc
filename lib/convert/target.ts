/** Models written in the form that somebody else opens. */
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import type { StoredTensor } from '../checkpoint/safetensors'
import { writeTorchCheckpoint } from '../checkpoint/torch/write'
import { writeYaml } from '../checkpoint/yaml'
import { compVisConfig } from '../diffusion/formats/compvis-write'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { DDPMOptions } from '../diffusion/options/ddpm-options'
import { DiffusionError, invalidArgument } from '../errors'
import { UNet } from '../nn/unet/unet'
import { augmentationLeftOut, withoutAugmentation } from '../nn/unet/vector-embedding'
import type { StateDict } from '../nn/weights'
import { writeModelFile } from '../train/model-file'
import type { ModelConfig } from '../train/options'
import { writeLatentCkpt } from './latent'
import { openai } from './openai-weights'
import type { SourceModel } from './source'

/** A model file of this project; a diffusers folder; a checkpoint of ddpm.py with its YAML configuration beside it. */
export type TargetKind = 'model' | 'diffusers' | 'ckpt'

/** The averaged weights, the trained ones, or both, which only a checkpoint can hold. */
export type WeightsChoice = 'ema' | 'model' | 'both'

export interface TargetOptions {
  readonly to: TargetKind
  /** Default: both for a checkpoint, else the averaged ones where there are any. */
  readonly weights?: WeightsChoice
  /** Of a diffusers folder; see DDPM.savePretrained. */
  readonly maxShardSize?: number
  /** Half precision, in a diffusers folder or a model file. */
  readonly variant?: 'fp16'
}

/** Writes the model; what was written, the main thing first. Throws `io`, and `unsupported` with the option's name. */
export async function writeTarget(source: SourceModel, target: string, o: TargetOptions): Promise<readonly string[]> {
  source.ddpm.network?.parameters.requireWide('convert')
  if (source.ddpm.config.lora || source.ddpm.config.freeze) {
    using ddpm = await source.ddpm.merged()
    return await writeTarget({ ...source, ddpm }, target, o)
  }
  const { ddpm } = source
  const averaged = ddpm.config.useEma === true
  if (o.weights === 'ema' && !averaged) throw new DiffusionError('not-configured', 'the model has no averaged weights')
  if (o.to !== 'diffusers' && o.maxShardSize !== undefined) {
    throw invalidArgument('maxShardSize', 'nothing but for a diffusers folder', o.to)
  }
  if (o.to === 'ckpt' && o.variant !== undefined)
    throw invalidArgument('variant', 'nothing for a checkpoint', o.variant)
  const { counters } = source
  // A model file of this project holds no stages: a latent model in one file is CompVis', .safetensors, too.
  if (ddpm instanceof LatentDiffusion && o.to !== 'diffusers') {
    if (o.variant !== undefined) throw invalidArgument('variant', 'nothing for a checkpoint', o.variant)
    checkCkptName(target)
    return writeLatentCkpt(ddpm, target, { weights: o.weights ?? 'both', counters })
  }
  if (o.to === 'ckpt') return writeCkpt(source, target, o.weights ?? 'both')
  if (o.weights === 'both') throw invalidArgument('weights', `'ema' or 'model' for the target '${o.to}'`, 'both')
  const weights = o.weights ?? (averaged ? 'ema' : 'model')
  if (o.to === 'diffusers') {
    await ddpm.savePretrained(target, { weights, maxShardSize: o.maxShardSize, variant: o.variant })
  } else {
    const config = ddpm.config as ModelConfig
    const model = { config, training: source.training ?? {}, weights: await networkOf(ddpm, weights) }
    await writeModelFile(target, model, o.variant === 'fp16' ? 'F16' : 'F32')
  }
  return [target]
}

/** The network's weights by their bare names. */
async function networkOf(ddpm: DDPM, which: 'ema' | 'model'): Promise<StateDict> {
  const dict = await ddpm.stateDict()
  const names = (ddpm.network?.parameters.slots ?? []).map(({ name }) => name)
  return Object.fromEntries(names.map((name) => [name, dict[which === 'ema' ? emaName(name) : modelPrefix + name]]))
}

async function writeCkpt(source: SourceModel, target: string, weights: WeightsChoice): Promise<readonly string[]> {
  checkCkptName(target)
  const both = weights === 'both' && source.ddpm.config.useEma === true
  using ddpm = await compVisModel(source.ddpm, both ? 'both' : weights === 'both' ? 'model' : weights)
  const config = compVisConfig(ddpm.config as DDPMOptions, (ddpm.network as UNet).options)
  const stateDict: Record<string, StoredTensor> = {}
  for (const [key, tensor] of Object.entries(await ddpm.stateDict())) {
    const data = await tensor.values()
    stateDict[key] = { dtype: data instanceof Float32Array ? 'F32' : 'I32', shape: tensor.shape, data }
  }
  const counters = { epoch: 0, global_step: 0, ...source.counters }
  await writeTorchCheckpoint(target, { stateDict, counters })
  const yaml = configNameOf(target)
  await atomicWrite(yaml, writeYaml(config))
  return [target, yaml]
}

/** Its configuration would be written onto it. */
function checkCkptName(target: string): void {
  if (configNameOf(target) !== path.normalize(target)) return
  throw invalidArgument('target', 'the name of a checkpoint, such as model.ckpt', target)
}

/** The YAML that is written beside a checkpoint. */
export function configNameOf(checkpoint: string): string {
  const { dir, name } = path.parse(checkpoint)
  return path.join(dir, `${name}.yaml`)
}

/** The same model with the network in CompVis' layout, without a layer of augmentation, and the weights that were chosen; its schedule's buffers stay. */
async function compVisModel(ddpm: DDPM, weights: WeightsChoice): Promise<DDPM> {
  const { network } = ddpm
  if (!(network instanceof UNet)) throw new DiffusionError('unsupported', 'only a UNet can be written as a checkpoint')
  const options = withoutAugmentation({ ...network.options, layout: 'openai' as const })
  if (network.vectorIsOptional) ddpm.warn([augmentationLeftOut])
  const model = new DDPM({
    ...(ddpm.config as DDPMOptions),
    unetConfig: options,
    useEma: weights === 'both',
    device: 'cpu',
  })
  try {
    const dict = await ddpm.stateDict()
    const isOther = (name: string) => !name.startsWith(modelPrefix) && !name.startsWith('model_ema.diffusion_model')
    const kept = Object.entries(dict).filter(
      ([name]) => isOther(name) && (weights === 'both' || !name.startsWith('model_ema.')),
    )
    const next: StateDict = Object.fromEntries(kept)
    const trained = await openai(network, await networkOf(ddpm, weights === 'ema' ? 'ema' : 'model'))
    for (const [name, tensor] of Object.entries(trained)) next[modelPrefix + name] = tensor
    if (weights === 'both') {
      const averages = await openai(network, await networkOf(ddpm, 'ema'))
      for (const [name, tensor] of Object.entries(averages)) next[emaName(name)] = tensor
    }
    await model.loadStateDict(next)
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}
