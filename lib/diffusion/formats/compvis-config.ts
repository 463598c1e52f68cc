/** Configurations of CompVis' latent-diffusion, of its DDPM and LatentDiffusion. What has no counterpart here is refused by name. */
import { instantiationOf, objectOf, translate, unsupportedValue } from '../../checkpoint/compvis'
import { isObject, type JsonObject } from '../../checkpoint/json'
import { readYaml } from '../../checkpoint/yaml'
import { invalidArgument } from '../../errors'
import type { UNetOptions } from '../../nn/unet/unet'
import { array, boolean, number, type Parsed, parseOptions, string, unknownOption } from '../../options'
import { type ConditioningKey, conditioningKeys, withConcat } from '../latent/conditioning'
import type { DDPMOptions } from '../options/ddpm-options'
import type { LatentDiffusionOptions } from '../options/latent-options'
import { type LrSchedulerConfig, lrFactor } from '../training/lr-scheduler'
import { latentNames, modelNames, targets, unetNames, vectorField } from './compvis-names'
import { type CompVisStage, compVisCondStage, compVisStage } from './compvis-stages'

/** What such a file says. */
export interface CompVisConfig {
  /** Of DDPM, or of LatentDiffusion without its stages. */
  readonly options: DDPMOptions & Omit<LatentDiffusionOptions, 'firstStage' | 'condStage'>
  /** Of a LatentDiffusion. */
  readonly stages?: CompVisStages
  /** model.base_learning_rate: for one image; ldm's main.py multiplies it by the images of a step. */
  readonly baseLearningRate?: number
  /** scheduler_config: what the learning rate is multiplied by. */
  readonly lrSchedule?: LrSchedulerConfig
  /** data.params.batch_size, where it is a number of images. */
  readonly batchSize?: number
  /** lightning.trainer.accumulate_grad_batches, where it is a number of batches. */
  readonly accumulate?: number
  /** ckpt_path, ignore_keys and load_only_unet: what initFromCkpt is to be called with. */
  readonly checkpoint?: { readonly path: string; readonly ignoreKeys: readonly string[]; readonly onlyModel: boolean }
  /** What of it is left to the user. */
  readonly warnings: readonly string[]
}

export interface CompVisStages {
  readonly firstStage: CompVisStage
  readonly condStage: CompVisStage | '__is_first_stage__' | '__is_unconditional__'
}

/** Arguments that would change the model, with the one value that does not. */
const modelFixed: JsonObject = { use_positional_encodings: false }
const unetFixed: JsonObject = {
  ...{ dims: 2, n_embed: null, disable_self_attentions: null, num_attention_blocks: null },
  disable_middle_self_attn: false,
}
/** What the UNet is computed in. */
const unetPrecision = ['use_fp16', 'use_bf16']

const latentFixed: JsonObject = { ...modelFixed, finetune_keys: null }

const checkpointSchema = {
  ckpt_path: string(),
  ignore_keys: array(string(''), []),
  load_only_unet: boolean(false),
}

/**
 * Reads a YAML file, or takes what it holds. Beside `model`, its `data` and `lightning` are for PyTorch's trainer. Throws
 * `not-found`, `io`, `bad-file`, `unknown-option`, `invalid-argument` and `unsupported`, with the field's name.
 */
export function readCompVisConfig(source: string | JsonObject): Promise<CompVisConfig> {
  return readOf(source, [...targets.model, ...targets.latent])
}

/** The same, of a DDPM alone. Throws `unsupported` for a LatentDiffusion. */
export function readDDPMConfig(source: string | JsonObject): Promise<CompVisConfig> {
  return readOf(source, targets.model)
}

async function readOf(source: string | JsonObject, known: readonly string[]): Promise<CompVisConfig> {
  const root = typeof source === 'string' ? await readYaml(source) : source
  if (!isObject(root)) throw invalidArgument('source', 'a path or an object', source)
  const { model, data, lightning, ...others } = root
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw unknownOption('the configuration', unknown, ['model', 'data', 'lightning'])
  const { base_learning_rate: rate, ...own } = objectOf(model, 'model')
  const { target, params } = instantiationOf(own, 'model')
  checkTarget('model.target', target, known)
  const { base } = parseOptions('model', { base: rate }, { base: number(undefined, { min: 0 }) })
  const batchSize = countAt(data, 'params', 'batch_size')
  const accumulate = countAt(lightning, 'trainer', 'accumulate_grad_batches')
  return {
    ...(targets.latent.includes(target) ? latentOf(params, target) : modelOf(params)),
    ...(base !== undefined && { baseLearningRate: base }),
    ...(batchSize !== undefined && { batchSize }),
    ...(accumulate !== undefined && { accumulate }),
  }
}

/** A count within what is for PyTorch's trainer, and may be anything. */
export function countAt(value: unknown, ...names: readonly string[]): number | undefined {
  const found = names.reduce((at: unknown, name) => (isObject(at) ? at[name] : undefined), value)
  return Number.isSafeInteger(found) && (found as number) >= 1 ? (found as number) : undefined
}

function modelOf({ conditioning_key: given, ...params }: JsonObject): CompVisConfig {
  const key = keyOf(given)
  const { own, ...found } = sharedOf(params)
  const options = translate('model.params', own, {
    names: modelNames,
    fixed: modelFixed,
    known: sharedNames,
  }) as DDPMOptions
  const { unetConfig, warnings } = unetOf(params.unet_config, options.imageSize)
  return { ...found, options: { ...options, unetConfig: withConcat(checkKey(unetConfig, key), key, false) }, warnings }
}

function latentOf(params: JsonObject, target: string): CompVisConfig {
  const { first_stage_config: first, cond_stage_config: cond, depth_stage_config: depth, ...rest } = params
  const isDepth = target.endsWith('.LatentDepth2ImageDiffusion')
  const known = [...sharedNames, 'first_stage_config', 'cond_stage_config', ...(isDepth ? ['depth_stage_config'] : [])]
  if (depth !== undefined && !isDepth) throw unknownOption('model.params', 'depth_stage_config', known)
  const { own, ...found } = sharedOf(rest)
  const names = [...modelNames, ...latentNames]
  const options = translate('model.params', own, { names, fixed: latentFixed, known }) as LatentDiffusionOptions
  const { unetConfig, warnings } = unetOf(rest.unet_config, options.imageSize)
  if (isDepth) warnings.push('depth_stage_config: depth maps are to be given, in cond.cConcat; MiDaS is not here')
  const stages = {
    firstStage: compVisStage(first, 'first_stage_config'),
    condStage: compVisCondStage(cond, 'cond_stage_config'),
  }
  return { ...found, options: { ...withoutNulls(options), unetConfig }, stages, warnings }
}

/** ddpm.py's None is our undefined. */
function withoutNulls<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null)) as T
}

const sharedNames = ['unet_config', 'scheduler_config', ...Object.keys(checkpointSchema)]

/** What both classes have; `own` is the rest. */
function sharedOf(params: JsonObject) {
  const { unet_config: _, scheduler_config: scheduler, ckpt_path, ignore_keys, load_only_unet, ...own } = params
  const c = parseOptions('model.params', { ckpt_path, ignore_keys, load_only_unet }, checkpointSchema)
  const lrSchedule = (scheduler ?? undefined) as LrSchedulerConfig | undefined
  if (lrSchedule) lrFactor(lrSchedule, 'scheduler_config')
  return { own, checkpoint: checkpointOf(c), ...(lrSchedule && { lrSchedule }) }
}

function checkpointOf(c: Parsed<typeof checkpointSchema>): CompVisConfig['checkpoint'] {
  if (c.ckpt_path === undefined) return undefined
  return { path: c.ckpt_path, ignoreKeys: c.ignore_keys, onlyModel: c.load_only_unet }
}

function keyOf(value: unknown): ConditioningKey | undefined {
  if (value === undefined || value === null) return undefined
  if (conditioningKeys.includes(value as ConditioningKey)) return value as ConditioningKey
  throw unsupportedValue('conditioning_key', conditioningKeys.map((key) => `'${key}'`).join(', '), value)
}

/** DiffusionWrapper gives a network what its key says. Throws `invalid-argument` where it takes something else. */
function checkKey(unet: UNetOptions, key: ConditioningKey | undefined): UNetOptions {
  if (key === undefined) return unet
  const lacks: readonly (readonly [string, boolean, readonly ConditioningKey[]])[] = [
    ['context_dim', unet.contextDim === undefined, ['crossattn', 'hybrid']],
    ['num_classes', unet.numClasses === undefined, ['adm']],
    ['in_channels beyond out_channels', unet.inChannels <= unet.outChannels, ['concat', 'hybrid']],
  ]
  const wrong = lacks.find(([, isMissing, keys]) => isMissing && keys.includes(key))
  if (!wrong) return unet
  throw invalidArgument('conditioning_key', `what the UNet takes: it has no ${wrong[0]}`, key)
}

function unetOf(value: unknown, modelSize: number | undefined): { unetConfig: UNetOptions; warnings: string[] } {
  const { target, params } = instantiationOf(value, 'model.params.unet_config')
  checkTarget('model.params.unet_config.target', target, targets.unet)
  const { image_size: size, adm_in_channels: vectorDim, ...all } = params
  const precise = unetPrecision.filter((name) => all[name] === true)
  const rest = Object.fromEntries(Object.entries(all).filter(([name]) => !unetPrecision.includes(name)))
  const options = translate('unet_config.params', rest, { names: unetNames, fixed: unetFixed, known: [vectorField] })
  // improved-diffusion's UNetModel has no image_size; without any, the models' default.
  const whole = { imageSize: size ?? modelSize ?? 256, ...options, ...vectorOf(rest, vectorDim), ...ratesOf(options) }
  const warnings = precise.map((name) => `unet_config's ${name} is left to the option precision`)
  return { unetConfig: whole as unknown as UNetOptions, warnings }
}

/** Rates that no level has say nothing there: published configurations have such. */
function ratesOf({ attentionResolutions: rates, channelMult = [1, 2, 4, 8] }: JsonObject): Partial<UNetOptions> {
  if (!Array.isArray(rates) || !Array.isArray(channelMult)) return {}
  const lowest = 2 ** (channelMult.length - 1)
  return { attentionResolutions: rates.filter((rate) => !(rate > lowest && Number.isInteger(Math.log2(rate)))) }
}

/** num_classes may be a word: what the network is told is no label then. */
function vectorOf(
  { num_classes: classes }: JsonObject,
  vectorDim: unknown,
): Partial<Record<keyof UNetOptions, unknown>> {
  if (typeof classes === 'string' && classes !== 'sequential') {
    throw unsupportedValue('num_classes', "a number or 'sequential'", classes)
  }
  if (classes !== 'sequential') {
    if (vectorDim === undefined || vectorDim === null) return {}
    throw invalidArgument(vectorField, "nothing without num_classes 'sequential'", vectorDim)
  }
  if (vectorDim === undefined || vectorDim === null) {
    throw invalidArgument(vectorField, "a number with num_classes 'sequential'", vectorDim)
  }
  return { numClasses: undefined, vectorDim, vectorEmbedding: 'mlp' }
}

function checkTarget(name: string, target: unknown, known: readonly string[]): void {
  if (!known.includes(target as string)) throw unsupportedValue(name, known.join(' or '), target)
}
