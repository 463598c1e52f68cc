/**
 * Configurations of CompVis' latent-diffusion: YAML with `target`, the Python class, and `params`, its keyword arguments. What has
 * no counterpart here is refused by name.
 */
import { isObject, type JsonObject } from '../../checkpoint/json'
import { readYaml } from '../../checkpoint/yaml'
import { DiffusionError, describe, invalidArgument } from '../../errors'
import { resolveUNetOptions } from '../../nn/unet/options'
import type { UNetOptions } from '../../nn/unet/unet'
import { array, boolean, number, type Parsed, parseOptions, string, unknownOption } from '../../options'
import type { DDPMOptions } from '../options/ddpm-options'
import { type LrSchedulerConfig, lrFactor } from '../training/lr-scheduler'

/** What such a file says. */
export interface CompVisConfig {
  readonly options: DDPMOptions
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
}

/** By Python's full name, which of our classes it is. */
const targets: Readonly<Record<'model' | 'unet', readonly string[]>> = {
  model: ['ldm.models.diffusion.ddpm.DDPM'],
  unet: [
    'ldm.modules.diffusionmodules.openaimodel.UNetModel',
    'guided_diffusion.unet.UNetModel',
    'improved_diffusion.unet.UNetModel',
  ],
}

/** DDPM's arguments with the same meaning here: snake_case to camelCase. */
const modelNames = [
  ...['timesteps', 'beta_schedule', 'loss_type', 'monitor', 'use_ema', 'first_stage_key', 'image_size', 'channels'],
  ...['log_every_t', 'clip_denoised', 'linear_start', 'linear_end', 'cosine_s', 'given_betas'],
  ...['original_elbo_weight', 'v_posterior', 'l_simple_weight', 'parameterization', 'learn_logvar', 'logvar_init'],
]
const unetNames = [
  ...['image_size', 'in_channels', 'model_channels', 'out_channels', 'num_res_blocks', 'attention_resolutions'],
  ...['dropout', 'channel_mult', 'conv_resample', 'num_classes', 'num_heads', 'num_head_channels'],
  ...[
    'num_heads_upsample',
    'use_scale_shift_norm',
    'resblock_updown',
    'use_new_attention_order',
    'legacy',
    'use_checkpoint',
  ],
  ...['use_spatial_transformer', 'transformer_depth', 'use_linear_in_transformer', 'context_dim'],
]
/** Arguments that would change the model, with the one value that does not. */
const modelFixed: JsonObject = { conditioning_key: null, use_positional_encodings: false }
/** Numbers of the vector of num_classes 'sequential'. */
const vectorField = 'adm_in_channels'
const unetFixed: JsonObject = { dims: 2, use_fp16: false, n_embed: null }

const checkpointSchema = {
  ckpt_path: string(),
  ignore_keys: array(string(''), []),
  load_only_unet: boolean(false),
}

/**
 * Reads a YAML file, or takes what it holds. Beside `model`, its `data` and `lightning` are for PyTorch's trainer. Throws
 * `not-found`, `io`, `bad-file`, `unknown-option`, `invalid-argument` and `unsupported`, with the field's name.
 */
export async function readCompVisConfig(source: string | JsonObject): Promise<CompVisConfig> {
  const root = typeof source === 'string' ? await readYaml(source) : source
  if (!isObject(root)) throw invalidArgument('source', 'a path or an object', source)
  const { model, data, lightning, ...others } = root
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw unknownOption('the configuration', unknown, ['model', 'data', 'lightning'])
  const { target, params, base_learning_rate: rate, ...more } = objectOf(model, 'model')
  const [extra] = Object.keys(more)
  if (extra !== undefined) throw unknownOption('model', extra, ['target', 'params', 'base_learning_rate'])
  checkTarget('model.target', target, targets.model)
  const { base } = parseOptions('model', { base: rate }, { base: number(undefined, { min: 0 }) })
  const batchSize = countAt(data, 'params', 'batch_size')
  const accumulate = countAt(lightning, 'trainer', 'accumulate_grad_batches')
  return {
    ...modelOf(objectOf(params, 'model.params')),
    ...(base !== undefined && { baseLearningRate: base }),
    ...(batchSize !== undefined && { batchSize }),
    ...(accumulate !== undefined && { accumulate }),
  }
}

/** A count within what is for PyTorch's trainer, and may be anything. */
function countAt(value: unknown, ...names: readonly string[]): number | undefined {
  const found = names.reduce((at: unknown, name) => (isObject(at) ? at[name] : undefined), value)
  return Number.isSafeInteger(found) && (found as number) >= 1 ? (found as number) : undefined
}

function modelOf(params: JsonObject): CompVisConfig {
  const { unet_config: unet, scheduler_config: scheduler, ...rest } = params
  const { ckpt_path, ignore_keys, load_only_unet, ...own } = rest
  const c = parseOptions('model.params', { ckpt_path, ignore_keys, load_only_unet }, checkpointSchema)
  const known = ['unet_config', 'scheduler_config', ...Object.keys(checkpointSchema)]
  const options = translate('model.params', own, { names: modelNames, fixed: modelFixed, known }) as DDPMOptions
  const { target, params: unetParams, ...others } = objectOf(unet, 'model.params.unet_config')
  const [extra] = Object.keys(others)
  if (extra !== undefined) throw unknownOption('unet_config', extra, ['target', 'params'])
  checkTarget('model.params.unet_config.target', target, targets.unet)
  const unetConfig = unetOf(objectOf(unetParams, 'model.params.unet_config.params'), options.imageSize)
  const lrSchedule = (scheduler ?? undefined) as LrSchedulerConfig | undefined
  if (lrSchedule) lrFactor(lrSchedule, 'scheduler_config')
  return { options: { ...options, unetConfig }, checkpoint: checkpointOf(c), ...(lrSchedule && { lrSchedule }) }
}

function checkpointOf(c: Parsed<typeof checkpointSchema>): CompVisConfig['checkpoint'] {
  if (c.ckpt_path === undefined) return undefined
  return { path: c.ckpt_path, ignoreKeys: c.ignore_keys, onlyModel: c.load_only_unet }
}

function unetOf(params: JsonObject, modelSize: number | undefined): UNetOptions {
  const { image_size: size, adm_in_channels: vectorDim, ...rest } = params
  const options = translate('unet_config.params', rest, { names: unetNames, fixed: unetFixed, known: [vectorField] })
  // improved-diffusion's UNetModel has no image_size; without any, the models' default.
  return { imageSize: size ?? modelSize ?? 256, ...options, ...vectorOf(rest, vectorDim) } as unknown as UNetOptions
}

/** num_classes may be a word: what the network is told is no label then. */
function vectorOf(
  { num_classes: classes }: JsonObject,
  vectorDim: unknown,
): Partial<Record<keyof UNetOptions, unknown>> {
  if (typeof classes === 'string' && classes !== 'sequential') {
    throw unsupported('num_classes', "a number or 'sequential'", classes)
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

/** Values are checked by whom the options are for. */
function translate(
  owner: string,
  params: JsonObject,
  o: { names: readonly string[]; fixed: JsonObject; known: readonly string[] },
): JsonObject {
  const result: JsonObject = {}
  for (const [name, value] of Object.entries(params)) {
    if (o.names.includes(name)) result[camelCase(name)] = value
    else if (!Object.hasOwn(o.fixed, name))
      throw unknownOption(owner, name, [...o.names, ...Object.keys(o.fixed), ...o.known])
    else if (value !== o.fixed[name] && value !== null) throw unsupported(name, describe(o.fixed[name]), value)
  }
  return result
}

export function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function checkTarget(name: string, target: unknown, known: readonly string[]): void {
  if (!known.includes(target as string)) throw unsupported(name, known.join(' or '), target)
}

function objectOf(value: unknown, name: string): JsonObject {
  if (isObject(value)) return value
  throw invalidArgument(name, 'a mapping', value)
}

function unsupported(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  const message = `${argument}: only ${expected} is supported, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}

// ---- writing ---------------------------------------------------------------------------------------------------------

/** UNet options that openaimodel's network has no argument for, with what it does. */
const unetImplied: Partial<UNetOptions> = {
  layout: 'openai',
  normGroups: 32,
  normEps: 1e-5,
  freqShift: 0,
  flipSinToCos: true,
  downsamplePadding: 1,
  middleAttention: true,
  middleBlock: true,
  middleScale: 1,
  centerInput: false,
  imageWidth: undefined,
  classEmbedding: 'table',
  selfCondition: false,
}
/** DDPM's, the same. What is about training alone is left out of a configuration. */
const modelImplied: DDPMOptions = {
  varianceType: 'fixed',
  zeroTerminalSnr: false,
  timestepSpacing: 'linspace',
  stepsOffset: 0,
  thresholding: undefined,
  imageWidth: undefined,
}

/** The configuration of a model with these options. Throws `unsupported` for what ddpm.py or openaimodel can't express. */
export function compVisConfig(options: DDPMOptions, unet: UNetOptions): JsonObject {
  only(options, modelImplied)
  only(unet, { ...unetImplied, middleNormGroups: unet.normGroups, timeEmbeddingDim: 4 * unet.modelChannels })
  checkLists(unet)
  oneOf('betaSchedule', options.betaSchedule, ['linear', 'cosine', 'sqrt_linear', 'sqrt'])
  oneOf('parameterization', options.parameterization, ['eps', 'x0'])
  oneOf('lossType', options.lossType, ['l1', 'l2'])
  return {
    model: {
      target: targets.model[0],
      params: {
        ...pick(options, modelNames),
        unet_config: { target: targets.unet[0], params: { ...pick(unet, unetNames), ...vectorFields(unet) } },
      },
    },
  }
}

function vectorFields({ vectorEmbedding, vectorDim }: UNetOptions): JsonObject {
  if (vectorDim === undefined) return {}
  if (vectorEmbedding === 'mlp') return { num_classes: 'sequential', [vectorField]: vectorDim }
  throw unsupported('vectorEmbedding', "'mlp' of CompVis' model", vectorEmbedding)
}

function oneOf(name: string, value: string | undefined, values: readonly string[]): void {
  if (value !== undefined && !values.includes(value)) throw unsupported(name, values.map(describe).join(' or '), value)
}

function only<T extends object>(options: T, implied: Partial<T>): void {
  for (const name of Object.keys(implied) as (keyof T & string)[]) {
    const value = options[name] ?? implied[name]
    if (value !== implied[name]) throw unsupported(name, `${describe(implied[name])} of CompVis' model`, value)
  }
}

/** What openaimodel has one option for, and this UNet a list for either way. */
function checkLists(unet: UNetOptions): void {
  const names = ['upAttentionResolutions', 'resblockDownResolutions', 'resblockUpResolutions'] as const
  const implied = resolveUNetOptions({ ...unet, ...Object.fromEntries(names.map((name) => [name, undefined])) })
  const sorted = (list: readonly number[] = []) => [...list].sort((a, b) => a - b)
  for (const name of names) {
    const [given, expected] = [sorted(unet[name] ?? implied[name]), sorted(implied[name])]
    if (String(given) !== String(expected)) throw unsupported(name, `${describe(expected)} of CompVis' model`, given)
  }
}

function pick(options: object, names: readonly string[]): JsonObject {
  const values = names.map((name) => [name, (options as Record<string, unknown>)[camelCase(name)]] as const)
  const given = values.filter(([, value]) => value !== undefined)
  return Object.fromEntries(
    given.map(([name, value]) => [name, ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value]),
  )
}
