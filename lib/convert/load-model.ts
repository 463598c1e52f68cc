/** Models to draw with, from whatever they are kept in. */
import { readPipeline } from '../checkpoint/diffusers/pipeline'
import type { HubOptions } from '../checkpoint/hub/snapshot'
import { readDDPMConfig } from '../diffusion/formats/compvis-config'
import { isLatentPipeline } from '../diffusion/formats/latent-pipeline'
import { whichWeights } from '../diffusion/formats/pretrained'
import { modelPrefix } from '../diffusion/formats/state'
import { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { LoraSource } from '../diffusion/models/lora'
import type { ComputeOptions } from '../diffusion/process/model-options'
import { invalidArgument } from '../errors'
import { checkUNetFits } from '../nn/unet-fit'
import { func, number, oneOf, parseOptions, string, value } from '../options'
import { openCheckpoint, readWeights } from '../train/checkpoint'
import { isLatent, latentOfRun } from '../train/latent-run'
import { loadModelFile, modelFromWeights } from '../train/model-file'
import { postHocEma } from '../train/post-hoc-ema'
import type { DownloadOptions } from './download'
import { isLatentCkpt } from './latent-source'
import { configOf, configOrNone, locateModel, type SourceKind, shippedModel, superfluous } from './locate'
import { isLucidrains, loadLucidrains } from './lucidrains'
import { mismatch, shapesOf } from './source'

export interface LoadModelOptions extends ComputeOptions, DownloadOptions, HubOptions {
  /** The averaged weights or the trained ones, of what has both. Default: the averaged ones where there are any. */
  readonly weights?: 'ema' | 'model'
  /** In place of them, of a run with `emaSigmaRels`: the average of this standard deviation, as postHocEma makes it. Default: none. */
  readonly sigmaRel?: number
  /**
   * A checkpoint's YAML configuration, a file or a URL. Default: what is beside it with the extension .yaml. lucidrains' needs none: its
   * `image_size` (128) and `objective` are what the file may not say.
   */
  readonly config?: string
  /** Of a latent model that is one file: the folder of its text encoder's tokenizer. Default: what is beside the file. */
  readonly tokenizer?: string
  /** Of a latent model that is one file without a configuration: what it predicts, 'v' or 'eps'. Default: what follows, see fromSingleFile. */
  readonly parameterization?: 'eps' | 'v'
  /** Which weights of a diffusers folder: 'fp16'. Default: those without such a name. */
  readonly variant?: string
  /** Files of low-rank updates, which are made part of the weights. Default: none. */
  readonly loras?: readonly LoraSource[]
  /** False: they stay layers beside the weights. Default true. */
  readonly mergeLoras?: boolean
  /** Which dict of a checkpoint has the weights, such as 'ema'. Default: the one that has the network's names. */
  readonly key?: string
}

const any = <T>() => value<T>('an option of DDPM', () => true)
const schema = {
  weights: whichWeights,
  sigmaRel: number(),
  config: string(),
  variant: string(),
  revision: string(),
  onDownload: func<NonNullable<DownloadOptions['onDownload']>>(),
  key: string(),
  tokenizer: string(),
  parameterization: oneOf(['eps', 'v']),
  device: any<ComputeOptions['device']>(),
  memoryLimit: any<ComputeOptions['memoryLimit']>(),
  seed: any<ComputeOptions['seed']>(),
  deterministic: any<boolean>(),
  precision: any<ComputeOptions['precision']>(),
  weightFormat: any<ComputeOptions['weightFormat']>(),
}

/** Which kinds have an option, and what they are called. */
const owners: Readonly<
  Record<
    'weights' | 'sigmaRel' | 'config' | 'variant' | 'key' | 'tokenizer' | 'parameterization',
    readonly [owner: string, ...SourceKind[]]
  >
> = {
  weights: ['what has several weights', 'run', 'ckpt', 'diffusers'],
  sigmaRel: ['a run', 'run'],
  config: ['a checkpoint of ddpm.py', 'ckpt'],
  variant: ['a diffusers folder', 'diffusers'],
  key: ['a checkpoint of ddpm.py', 'ckpt'],
  tokenizer: ['a latent model in one file', 'ckpt'],
  parameterization: ['a latent model in one file', 'ckpt'],
}

/**
 * Reads a model for sampling: a run (its newest checkpoint; with '@best' after its name the best), a checkpoint of one, a model file, a folder of diffusers, or a checkpoint
 * of ddpm.py (.ckpt, .pt, .safetensors) with its configuration; also a file by its URL, which is kept in a cache. Default: the
 * model that comes with this package. Throws `not-found`, `io`, `bad-file`, `state-mismatch`, `invalid-argument` for an option that
 * the model's kind has not got, and what the configurations' readers throw.
 */
export async function loadModel(source: string | URL = shippedModel, options: LoadModelOptions = {}): Promise<DDPM> {
  const { loras, mergeLoras, ...rest } = options
  if (loras === undefined) {
    if (mergeLoras !== undefined) throw invalidArgument('mergeLoras', 'nothing without loras', mergeLoras)
    return loadPlain(source, rest)
  }
  using plain = await loadPlain(source, rest)
  return await plain.withLoras(loras, { merge: mergeLoras })
}

async function loadPlain(source: string | URL, options: LoadModelOptions): Promise<DDPM> {
  if (typeof source !== 'string' && !(source instanceof URL)) throw invalidArgument('source', 'a path or a URL', source)
  const { weights, sigmaRel, config, variant, key, tokenizer, parameterization, revision, onDownload, ...given } =
    parseOptions('loadModel', options, schema)
  if (weights !== undefined && sigmaRel !== undefined)
    throw invalidArgument('weights', 'nothing with sigmaRel', weights)
  const { kind, path, beside } = await locateModel(source, { onDownload, revision, variant })
  for (const [name, [owner, ...kinds]] of Object.entries(owners)) {
    if (options[name as keyof typeof owners] !== undefined && !kinds.includes(kind))
      throw superfluous(name, owner, kind)
  }
  const settings = Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)) as ComputeOptions
  switch (kind) {
    case 'model':
      return loadModelFile(path, settings)
    case 'diffusers':
      return fromFolder(path, { variant, weights }, settings)
    case 'run': {
      const checkpoint = await openCheckpoint(path)
      if (isLatent(checkpoint.state.options.model)) {
        const averages = sigmaRel === undefined ? undefined : await postHocEma(path, { sigmaRel })
        return latentOfRun(checkpoint, { weights, averages }, settings)
      }
      const dict =
        sigmaRel === undefined
          ? await readWeights(checkpoint, { ema: weights !== 'model' })
          : await postHocEma(path, { sigmaRel })
      return modelFromWeights(checkpoint.state.options.model, dict, settings)
    }
    case 'ckpt':
      if (await isLucidrains(path)) {
        const own = config && (await configOf(path, config, beside))
        return (await loadLucidrains(path, { weights, key, config: own }, settings)).ddpm
      }
      if (await isLatentCkpt(path, key)) {
        const yaml = await configOrNone(path, config, beside)
        const o = { ...settings, weights, key, tokenizer, config: yaml, ...(parameterization && { parameterization }) }
        return LatentDiffusion.fromSingleFile(path, o)
      }
      for (const [name, option] of Object.entries({ tokenizer, parameterization })) {
        if (option !== undefined) throw superfluous(name, owners[name as keyof typeof owners][0], kind)
      }
      return fromCkpt(path, await configOf(path, config, beside), { weights, key }, settings)
  }
}

/** A pipeline with a first stage is of a latent model. */
async function fromFolder(
  folder: string,
  { variant, weights }: Pick<LoadModelOptions, 'variant' | 'weights'>,
  settings: ComputeOptions,
): Promise<DDPM> {
  const pipeline = await readPipeline(folder)
  if (!pipeline || !isLatentPipeline(pipeline)) return DDPM.fromPretrained(folder, { ...settings, variant, weights })
  if (weights !== undefined) throw invalidArgument('weights', 'nothing for a latent pipeline', weights)
  return LatentDiffusion.fromPretrained(folder, { ...settings, variant })
}

async function fromCkpt(
  file: string,
  config: string,
  { weights: given, key }: Pick<LoadModelOptions, 'weights' | 'key'>,
  settings: ComputeOptions,
): Promise<DDPM> {
  const { options } = await readDDPMConfig(config)
  const { shapes, averaged } = await shapesOf(file, key)
  if (options.unetConfig) checkUNetFits(options.unetConfig, shapes, file)
  const ddpm = new DDPM({ ...options, ...settings, useEma: false })
  try {
    const { missing } = await ddpm.initFromCkpt(file, { key, weights: given ?? (averaged ? 'ema' : 'model') })
    const lost = missing.find((name) => name.startsWith(modelPrefix))
    if (lost !== undefined) throw mismatch(file, `it has no '${lost}', which ${config} asks for`)
    return ddpm
  } catch (error) {
    ddpm.dispose()
    throw error
  }
}
