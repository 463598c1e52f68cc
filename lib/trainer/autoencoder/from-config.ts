/** The options of a first stage's training from a configuration of latent-diffusion, as its main.py takes them. */
import { instantiationOf, objectOf, translate, unsupportedValue } from '../../checkpoint/compvis'
import { isObject, type JsonObject } from '../../checkpoint/json'
import { readYaml } from '../../checkpoint/yaml'
import { countAt } from '../../diffusion/formats/compvis-config'
import { type LrSchedulerConfig, lrFactor } from '../../diffusion/training/lr-scheduler'
import { invalidArgument } from '../../errors'
import { boolean, number, parseOptions } from '../../options'
import { readCompVisAutoencoder } from '../../stages/compvis'
import type { AutoencoderTrainOptions } from '../../train/autoencoder/options'

const shared = [
  ...['disc_start', 'disc_num_layers', 'disc_factor', 'disc_weight', 'disc_loss', 'use_actnorm', 'perceptual_weight'],
]
/** Upstream's classes of a loss by their last name, and what each takes. */
const losses: Readonly<Record<string, readonly string[]>> = {
  LPIPSWithDiscriminator: [...shared, 'kl_weight', 'logvar_init'],
  VQLPIPSWithDiscriminator: [...shared, 'codebook_weight'],
}
/** With the one value that there is here; of pixelloss_weight any does nothing upstream, either. */
const fixed: JsonObject = { disc_conditional: false, disc_ndf: 64 }
const kinds = ['AutoencoderKL', 'VQModel', 'VQModelInterface'] as const

const schema = {
  base_learning_rate: number(undefined, { min: 0 }),
  lr_g_factor: number(1, { min: 0 }),
  use_ema: boolean(false),
  ema_decay: number(undefined, { min: 0, max: 1 }),
}

/** LitEma's own. */
const defaultDecay = 0.9999

/**
 * `given` come before those of the file. Without `lr` there, base_learning_rate is that of one image (scale_lr, main.py's default).
 * Throws as readCompVisAutoencoder does, `unsupported` for a ckpt_path and for a loss of another class, and `invalid-argument` for a
 * perceptual loss without `perceptual`; `perceptualWeight: 0` leaves it out.
 */
export async function autoencoderOptionsFrom(
  source: string | JsonObject,
  given: AutoencoderTrainOptions,
): Promise<AutoencoderTrainOptions> {
  const root = typeof source === 'string' ? await readYaml(source) : source
  const { options, checkpoint } = await readCompVisAutoencoder(root, kinds)
  if (checkpoint) throw unsupportedValue('ckpt_path', 'none', checkpoint.path)
  const { base_learning_rate: base, ...model } = objectOf('model' in root ? root.model : root, 'model')
  const params = objectOf(model.params, 'model.params')
  const { lr_g_factor, use_ema, ema_decay, base_learning_rate } = parseOptions(
    'model.params',
    {
      base_learning_rate: base,
      lr_g_factor: params.lr_g_factor,
      use_ema: params.use_ema,
      ema_decay: params.ema_decay ?? undefined,
    },
    schema,
  )
  if (lr_g_factor !== 1) throw unsupportedValue('lr_g_factor', '1', lr_g_factor)
  if (isObject(params.batch_resize_range) || Array.isArray(params.batch_resize_range)) {
    throw unsupportedValue('batch_resize_range', 'null', params.batch_resize_range)
  }
  const lrSchedule = (params.scheduler_config ?? undefined) as LrSchedulerConfig | undefined
  if (lrSchedule) lrFactor(lrSchedule, 'scheduler_config')
  const { ddconfig, embedDim, nEmbed } = options
  const batchSize = countAt(root.data, 'params', 'batch_size')
  const accumulate = countAt(root.lightning, 'trainer', 'accumulate_grad_batches')
  const own: Partial<AutoencoderTrainOptions> = {
    ...{ ddconfig, embedDim, nEmbed: nEmbed as number | undefined, warmup: 0 },
    // A decay alone asks for averages, too, as in Stability AI's AutoencoderKL.
    ...(use_ema || ema_decay !== undefined ? { useEma: true, emaDecay: ema_decay ?? defaultDecay } : { useEma: false }),
    ...lossOptions(params.lossconfig, ddconfig.inChannels),
    ...(base_learning_rate !== undefined && { lr: base_learning_rate, scaleLr: true }),
    ...(given.lr !== undefined && { scaleLr: false }),
    ...(lrSchedule && { lrSchedule }),
    ...(given.lrSchedule !== undefined && { warmup: undefined }),
    ...(batchSize !== undefined && { batchSize }),
    ...(accumulate !== undefined && { accumulate }),
    ...(typeof params.monitor === 'string' && given.validation !== undefined && { monitor: params.monitor }),
  }
  const named = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const all = { ...own, ...named, ddconfig: { ...ddconfig, ...definedOnly(given.ddconfig ?? {}) } }
  return withPerception(all as AutoencoderTrainOptions)
}

/** lossconfig's. */
function lossOptions(value: unknown, inChannels: number): Partial<AutoencoderTrainOptions> {
  const { target, params } = instantiationOf(value, 'lossconfig')
  const name = target.slice(target.lastIndexOf('.') + 1)
  if (!/^(ldm|taming)\./.test(target) || !Object.hasOwn(losses, name)) {
    throw unsupportedValue('lossconfig.target', Object.keys(losses).join(' or '), target)
  }
  const { disc_in_channels = inChannels, pixelloss_weight: _, ...rest } = params
  if (disc_in_channels !== inChannels) {
    throw unsupportedValue('disc_in_channels', `in_channels, ${inChannels},`, disc_in_channels)
  }
  const known = ['disc_in_channels', 'pixelloss_weight']
  const own = translate('lossconfig.params', rest, { names: losses[name], fixed, known })
  // The defaults of upstream's constructors.
  const klWeight = name === 'LPIPSWithDiscriminator' ? { klWeight: 1 } : {}
  return { ...klWeight, perceptualWeight: 1, ...definedOnly(own) }
}

function withPerception({ perceptualWeight, ...options }: AutoencoderTrainOptions): AutoencoderTrainOptions {
  if (perceptualWeight === 0) return { ...options, perceptual: undefined }
  if (options.perceptual || options.resume) return { ...options, perceptualWeight }
  const expected =
    'the files of its weights, as the configuration has a perceptual loss; or perceptualWeight 0, to train without'
  throw invalidArgument('perceptual', expected, undefined)
}

/** Python's None is nothing given, either. */
function definedOnly<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined && v !== null)) as Partial<T>
}
