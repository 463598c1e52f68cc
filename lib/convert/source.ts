/** Models from whatever they are kept in: found out from the path, read into a DDPM on the CPU. */
import { readPipeline } from '../checkpoint/diffusers/pipeline'
import { bareNames, hasAverages, likelyDict } from '../checkpoint/find-weights'
import { checkKey, readShapesAndCounters } from '../checkpoint/state-dict-file'
import { readDDPMConfig } from '../diffusion/formats/compvis-config'
import { isLatentPipeline } from '../diffusion/formats/latent-pipeline'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { DDPMOptions } from '../diffusion/options/ddpm-options'
import { DiffusionError } from '../errors'
import { checkUNetFits, type Shapes } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { Tensor } from '../tensor'
import { openCheckpoint, readTrainingState } from '../train/checkpoint'
import { isLatent, latentOfRun } from '../train/latent-run'
import { modelFromWeights, readModelFile } from '../train/model-file'
import { postHocEma } from '../train/post-hoc-ema'
import { isLatentCkpt } from './latent-source'
import { configOf, configOrNone, locateModel, type SourceKind, superfluous } from './locate'
import { isLucidrains, loadLucidrains } from './lucidrains'

export interface SourceModel {
  readonly kind: SourceKind
  /** With averaged weights of its own (useEma) where the source has them. To be disposed of. */
  readonly ddpm: DDPM
  /** Of a checkpoint: global_step, epoch. */
  readonly counters: Readonly<Record<string, number>>
  /** Of a model file: how it was trained. */
  readonly training?: Record<string, unknown>
}

export interface SourceOptions {
  /** A checkpoint's YAML configuration. Default: the file beside it with the extension .yaml. */
  readonly config?: string
  /** Of a diffusers folder's weights. */
  readonly variant?: string
  /** Of a latent model in one file: the folder of its tokenizer. Default: what is beside the file. */
  readonly tokenizer?: string
  /** Of one without a configuration: what it predicts. Default: what follows. */
  readonly parameterization?: 'eps' | 'v'
  /** Which dict of a checkpoint has the weights, as of DDPM.initFromCkpt. */
  readonly key?: string
  /** Of a run with emaSigmaRels: the average of this standard deviation, as postHocEma makes it, in place of the run's own. */
  readonly sigmaRel?: number
  /** Branch, tag or commit of a model of the hub. Default 'main'. */
  readonly revision?: string
}

/** Throws `not-found`, `io`, `bad-file`, `state-mismatch`, and what the configurations' readers throw. */
export async function readSource(named: string, options: SourceOptions = {}): Promise<SourceModel> {
  const {
    kind,
    path: source,
    beside,
  } = await locateModel(named, { variant: options.variant, revision: options.revision })
  if (kind !== 'ckpt' && options.config !== undefined) throw superfluous('config', 'a checkpoint of ddpm.py', kind)
  if (kind !== 'ckpt' && options.key !== undefined) throw superfluous('key', 'a checkpoint of ddpm.py', kind)
  if (kind !== 'diffusers' && options.variant !== undefined) throw superfluous('variant', 'a diffusers folder', kind)
  if (kind !== 'run' && options.sigmaRel !== undefined) throw superfluous('sigmaRel', 'a run', kind)
  switch (kind) {
    case 'diffusers':
      return { kind, ddpm: await fromFolder(source, options.variant), counters: {} }
    case 'run':
      return { kind, ...(await fromRun(source, options.sigmaRel)) }
    case 'model': {
      const { config, weights, training } = await readModelFile(source)
      return { kind, ddpm: await modelFromWeights(config, weights, { device: 'cpu' }), counters: {}, training }
    }
    case 'ckpt':
      if (await isLucidrains(source)) {
        const { key } = options
        const config = options.config && (await configOf(source, options.config, beside))
        return { kind, ...(await loadLucidrains(source, { weights: 'both', key, config }, { device: 'cpu' })) }
      }
      if (await isLatentCkpt(source, options.key)) {
        const config = await configOrNone(source, options.config, beside)
        return { kind, ...(await fromLatentCkpt(source, { ...options, config })) }
      }
      for (const name of ['tokenizer', 'parameterization'] as const) {
        if (options[name] !== undefined) throw superfluous(name, 'a latent model in one file', kind)
      }
      return { kind, ...(await fromCkpt(source, await configOf(source, options.config, beside), options.key)) }
  }
}

async function fromFolder(folder: string, variant?: string): Promise<DDPM> {
  const pipeline = await readPipeline(folder)
  const isLatent = pipeline && isLatentPipeline(pipeline)
  const o = { device: 'cpu', variant } as const
  return isLatent ? LatentDiffusion.fromPretrained(folder, o) : DDPM.fromPretrained(folder, o)
}

/** With averages where the file has them. */
async function fromLatentCkpt(file: string, o: SourceOptions): Promise<Omit<SourceModel, 'kind'>> {
  const { config, tokenizer, parameterization, key } = o
  const { averaged: useEma, counters } = await shapesOf(file, key)
  const given = { config, tokenizer, key, useEma, ...(parameterization && { parameterization }) }
  return { ddpm: await LatentDiffusion.fromSingleFile(file, { ...given, device: 'cpu' }), counters }
}

/** The newest checkpoint of a run, or the one that the folder is. */
async function fromRun(folder: string, sigmaRel?: number): Promise<Omit<SourceModel, 'kind'>> {
  const checkpoint = await openCheckpoint(folder)
  if (isLatent(checkpoint.state.options.model)) {
    const averages = sigmaRel === undefined ? undefined : await postHocEma(folder, { sigmaRel })
    const ddpm = await latentOfRun(checkpoint, { weights: 'both', averages }, { device: 'cpu' })
    return { ddpm, counters: { global_step: checkpoint.state.step } }
  }
  const { weights, ema: own, emaUpdates } = await readTrainingState(checkpoint)
  const ema = sigmaRel === undefined ? own : await postHocEma(folder, { sigmaRel })
  const dict: StateDict = {}
  for (const [name, tensor] of Object.entries(weights)) dict[modelPrefix + name] = tensor
  for (const [name, tensor] of Object.entries(ema ?? {})) dict[emaName(name)] = tensor
  if (ema) dict['model_ema.num_updates'] = Tensor.from(Int32Array.of(emaUpdates), [])
  const { model } = checkpoint.state.options
  const options = { ...model, useEma: ema !== undefined } as unknown as DDPMOptions
  const { ddpm } = await loaded(options, (model) => model.loadStateDict(dict, { strict: false }))
  return { ddpm, counters: { global_step: checkpoint.state.step } }
}

/** All of the network's weights must be there, and the averages wholly or not at all. */
async function fromCkpt(file: string, config: string, key?: string): Promise<Omit<SourceModel, 'kind'>> {
  const { options } = await readDDPMConfig(config)
  // Before a network is made that has nothing to do with the file.
  if (options.unetConfig) checkUNetFits(options.unetConfig, (await shapesOf(file, key)).shapes, file)
  let counters = {}
  const { ddpm, result: noAverages } = await loaded(options, async (model) => {
    const report = await model.initFromCkpt(file, { key })
    counters = report.counters
    const averages = report.missing.filter((name) => name.startsWith('model_ema.'))
    const lost = report.missing.find((name) => name.startsWith(modelPrefix))
    if (lost !== undefined) throw mismatch(file, `it has no '${lost}', which ${config} asks for`)
    const expected = Object.keys(await model.stateDict()).filter((name) => name.startsWith('model_ema.')).length
    if (averages.length > 0 && averages.length < expected) throw mismatch(file, `it has no '${averages[0]}'`)
    return averages.length > 0
  })
  if (!noAverages) return { ddpm, counters }
  // use_ema of the configuration, but none in the file.
  ddpm.dispose()
  const plain = await loaded({ ...options, useEma: false }, (model) => model.initFromCkpt(file, { key }))
  return { ddpm: plain.ddpm, counters }
}

/** By the network's names, wherever the file has them; and whether it has averages. */
export async function shapesOf(
  file: string,
  key?: string,
): Promise<{ shapes: Shapes; averaged: boolean; counters: Readonly<Record<string, number>> }> {
  let averaged = false
  const { shapes, counters } = await readShapesAndCounters(file, (dicts) => {
    if (key !== undefined) checkKey(key, dicts)
    const among = key === undefined ? dicts : dicts.filter((dict) => dict.key === key)
    averaged = hasAverages(among)
    return { key: likelyDict(among)?.key ?? '' }
  })
  return { shapes: bareNames(shapes), averaged, counters }
}

async function loaded<T>(options: DDPMOptions, load: (ddpm: DDPM) => Promise<T>): Promise<{ ddpm: DDPM; result: T }> {
  const ddpm = new DDPM({ ...options, device: 'cpu' })
  try {
    return { ddpm, result: await load(ddpm) }
  } catch (error) {
    ddpm.dispose()
    throw error
  }
}

export function mismatch(file: string, problem: string): DiffusionError {
  return new DiffusionError('state-mismatch', `${file}: ${problem}`, { argument: 'path', received: file })
}
