/** A latent model in one file by CompVis' names (.ckpt, .safetensors), with a YAML configuration or without. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { hasAverages, likelyDict, type NamedDict } from '../../checkpoint/find-weights'
import type { JsonObject } from '../../checkpoint/json'
import { checkKey, readShapesAndCounters } from '../../checkpoint/state-dict-file'
import { DiffusionError, invalidArgument } from '../../errors'
import type { Autoencoder } from '../../nn/autoencoder/autoencoder'
import { inOwnLayout } from '../../nn/autoencoder/layouts'
import { shapesWithin } from '../../nn/shapes'
import type { CLIPTextOptions } from '../../nn/text/clip'
import { inferCLIPText, inferOpenCLIPText } from '../../nn/text/infer'
import type { OpenCLIPTextOptions } from '../../nn/text/open-clip'
import type { UNetConfig } from '../../nn/unet-config'
import { checkFits, checkUNetFits, type Shapes } from '../../nn/unet-fit'
import type { StateDict } from '../../nn/weights'
import { definedOnly } from '../../options'
import { fileSource } from '../../stages/checkpoint'
import { Stage, type WeightsSource } from '../../stages/stage'
import { Tensor } from '../../tensor'
import type { CondStage, FirstStage } from '../latent/stages'
import type { ImageOptions } from '../options/ddpm-options'
import type { LatentDiffusionOptions } from '../options/latent-options'
import type { ComputeOptions, ProcessOptions } from '../process/model-options'
import { type CompVisConfig, readCompVisConfig } from './compvis-config'
import { condPrefix, firstPrefix, inferLatent, isLatentFile, oldCLIP } from './infer-latent'
import { stageOptions } from './latent-config'
import { type InitFromCkptOptions, whichWeights } from './pretrained'
import { condStageOf, firstStageOf, type StageSettings } from './stage-config'
import { modelPrefix } from './state'

/** Of LatentDiffusion.fromSingleFile. */
export interface SingleFileOptions extends ProcessOptions, ComputeOptions, ImageOptions {
  /** Of a file that has both. Default: the averages where there are any, with useEma the weights, as they are in the file. */
  weights?: 'ema' | 'model'
  /** Its YAML configuration, a file or what it holds. Default: what follows from names and shapes. */
  config?: string | JsonObject
  /**
   * The folder of the text encoder's tokenizer. Default: `tokenizer` beside the file, or the file's own folder, where that has one; else
   * none, and prompts are refused.
   */
  tokenizer?: string
  /**
   * Of the text encoder, in place of what follows from its tensors, which do not say numAttentionHeads (FrozenCLIPEmbedder) or heads
   * (FrozenOpenCLIPEmbedder). Default: heads of 64 channels.
   */
  textConfig?: CLIPTextOptions | OpenCLIPTextOptions
  /** Of the UNet without a configuration: no shape says it. Default: 8, as Stable Diffusion 1 has; 2 has heads of 64 channels. */
  numHeads?: number
  /** The same, channels of a head. Default: by numHeads; 64 of Stable Diffusion 2. */
  numHeadChannels?: number
  /** Which dict of the file has the weights. Default: the one that has the network's names. */
  key?: string
}

/** What is to be made and loaded. */
export interface SingleFile {
  readonly options: LatentDiffusionOptions
  /** How the network's weights are taken from the file. */
  readonly init: InitFromCkptOptions
  readonly warnings: readonly string[]
  readonly lrSchedule?: CompVisConfig['lrSchedule']
}

/** What shapes and names say of a file. */
interface Contents {
  readonly shapes: Shapes
  readonly counters: Readonly<Record<string, number>>
  readonly key: string
  readonly averaged: boolean
}

/**
 * What a file holds, with stages whose weights are read from it when they are first used. Throws `not-found`, `io`, `bad-file`,
 * `state-mismatch` and `unsupported`.
 */
export async function readSingleFile(file: string, given: SingleFileOptions): Promise<SingleFile> {
  const { config, tokenizer, textConfig = {}, numHeads, numHeadChannels, key: _, weights, ...rest } = given
  if (weights !== undefined) whichWeights.check(weights, 'weights')
  const own = definedOnly(rest)
  const { shapes, counters, key, averaged } = await contentsOf(file, given.key)
  if (!isLatentFile(Object.keys(shapes))) {
    throw mismatch(file, `it has no ${modelPrefix}* beside ${firstPrefix}*, as a latent model's has`)
  }
  const { parameterization, imageSize } = own
  const heads = {
    ...(numHeads && { numHeads, numHeadChannels: undefined }),
    ...(numHeadChannels && { numHeadChannels }),
  }
  if (config && Object.keys(heads).length > 0) throw invalidArgument('numHeads', 'nothing with config', heads)
  const said = config
    ? await readCompVisConfig(config)
    : inferLatent(shapes, { counters, parameterization, imageSize, heads }, file)
  if (!said.stages) throw mismatch(file, 'its configuration is of a model without stages')
  const network = said.options.unetConfig as UNetConfig
  checkUNetFits(network, shapesWithin(shapes, modelPrefix), file)
  const settings = stageOptions(own)
  const options: LatentDiffusionOptions = { ...said.options, unetConfig: network, useEma: false, ...own }
  const { firstStage, condStage } = said.stages
  options.firstStage = firstOf(file, firstStage.config, { shapes, key, settings })
  options.condStage =
    typeof condStage === 'string'
      ? condStage
      : condOf(file, withSizes(condStage.config, { shapes, textConfig, file }), {
          ...{ shapes, key },
          settings: { ...settings, tokenizer: tokenizer ?? tokenizerBeside(file, condStage.config) },
        })
  return {
    options,
    init: initOf({ key, averaged, weights, useEma: options.useEma === true }),
    warnings: said.warnings,
    lrSchedule: said.lrSchedule,
  }
}

async function contentsOf(file: string, wanted?: string): Promise<Contents> {
  let key = ''
  let averaged = false
  const { shapes, counters } = await readShapesAndCounters(file, (dicts) => {
    if (wanted !== undefined) checkKey(wanted, dicts)
    const among: readonly NamedDict[] = wanted === undefined ? dicts : dicts.filter((dict) => dict.key === wanted)
    averaged = hasAverages(among)
    key = likelyDict(among)?.key ?? ''
    return { key }
  })
  return { shapes, counters, key, averaged }
}

/** Only what is needed of the file is read: without useEma either the trained weights or the averages. */
function initOf(o: {
  key: string
  averaged: boolean
  weights: 'ema' | 'model' | undefined
  useEma: boolean
}): InitFromCkptOptions {
  const weights = o.useEma ? (o.weights ?? 'model') : (o.weights ?? (o.averaged ? 'ema' : 'model'))
  const other = weights === 'ema' ? modelPrefix : 'model_ema.'
  return { key: o.key, weights, ignoreKeys: [firstPrefix, condPrefix, 'depth_model.', ...(o.useEma ? [] : [other])] }
}

interface Part {
  readonly shapes: Shapes
  readonly key: string
  readonly settings: StageSettings
}

function firstOf(
  file: string,
  config: JsonObject,
  { shapes, key, settings: { tokenizer: _, ...o } }: Part,
): FirstStage {
  const networkOf = () => (stage as unknown as { network: Autoencoder }).network
  const renamed = (dict: StateDict) => inOwnLayout(networkOf(), dict)
  const source = sourceOf(file, () => stage, { prefix: firstPrefix, key, renamed })
  const stage = firstStageOf(config, o, source)
  checkStage(stage, shapesWithin(shapes, firstPrefix), file)
  return stage
}

function condOf(file: string, config: JsonObject, { shapes, key, settings }: Part): CondStage {
  const renamed = (dict: StateDict) => withoutProjection(todays(dict), stage)
  const source = sourceOf(file, () => stage, { prefix: condPrefix, key, renamed })
  const stage = condStageOf(config, settings, source)
  const dict = shapesWithin(shapes, condPrefix)
  checkStage(
    stage,
    config.kind === 'FrozenOpenCLIPEmbedder' ? { ...projectionOf(stage), ...todays(dict) } : todays(dict),
    file,
  )
  return stage
}

function sourceOf(
  file: string,
  stage: () => object,
  o: { prefix: string; key: string; renamed: (dict: StateDict) => StateDict | Promise<StateDict> },
): WeightsSource {
  return fileSource(file, () => (stage() as Stage).parameters, o)
}

/** Throws `state-mismatch` for a stage whose weights are not all in the file. */
function checkStage(stage: object, shapes: Shapes, file: string): void {
  if (stage instanceof Stage) checkFits(stage.parameters.slots, shapes, file)
}

/** CLIP's names with text_model before them. */
function todays<T>(dict: Readonly<Record<string, T>>): Record<string, T> {
  if (!Object.hasOwn(dict, oldCLIP)) return dict
  const entries = Object.entries(dict).map(([name, value]) => {
    return [name.replace(/^transformer\.(?=embeddings|encoder|final)/, 'transformer.text_model.'), value] as const
  })
  return Object.fromEntries(entries)
}

/** What OpenCLIP has for the comparison with images, and files may lack: no text is encoded by it. */
const projection = ['model.text_projection', 'model.logit_scale']

function projectionOf(stage: object): Record<string, { shape: readonly number[] }> {
  const slots = (stage as Stage).parameters.slots.filter(({ name }) => projection.includes(name))
  return Object.fromEntries(slots.map(({ name, shape }) => [name, { shape }]))
}

function withoutProjection(dict: StateDict, stage: object): StateDict {
  const zeros = Object.entries(projectionOf(stage)).map(([name, { shape }]) => {
    return [name, Tensor.wrap(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)] as const
  })
  return { ...Object.fromEntries(zeros), ...dict }
}

/** The sizes of a CLIP are in no YAML. */
function withSizes(
  config: JsonObject,
  o: { shapes: Shapes; textConfig: CLIPTextOptions | OpenCLIPTextOptions; file: string },
): JsonObject {
  const { version: _, arch: __, textConfig: said = {}, ...rest } = config
  const given = { ...(said as object), ...o.textConfig }
  if (config.kind === 'FrozenCLIPEmbedder') {
    const own = shapesWithin(todays(shapesWithin(o.shapes, condPrefix)), 'transformer.')
    return { ...rest, textConfig: inferCLIPText(own, given as CLIPTextOptions, o.file) }
  }
  if (config.kind === 'FrozenOpenCLIPEmbedder') {
    const own = shapesWithin(o.shapes, `${condPrefix}model.`)
    const sizes = inferOpenCLIPText(own, given as OpenCLIPTextOptions, o.file)
    // Files that were made of a folder of diffusers have no layer to leave out; open_clip's tokenizer makes texts of the network's length,
    // whatever max_length says.
    const layer = sizes.layers === 23 ? 'last' : rest.layer
    return { ...rest, layer, maxLength: undefined, textConfig: sizes }
  }
  return config
}

/** A tokenizer's files, beside a file of weights or in a folder of its own there, for a stage that reads texts by them. */
function tokenizerBeside(file: string, { kind, useTokenizer }: JsonObject): string | undefined {
  if (useTokenizer === false || !String(kind).endsWith('Embedder')) return undefined
  const folder = path.dirname(file)
  return [path.join(folder, 'tokenizer'), folder].find((place) => {
    const has = (name: string) => existsSync(path.join(place, name))
    return has('tokenizer.json') || (has('vocab.json') && has('merges.txt'))
  })
}

function mismatch(file: string, problem: string): DiffusionError {
  return new DiffusionError('state-mismatch', `${file}: ${problem}`, { argument: 'path', received: file })
}
