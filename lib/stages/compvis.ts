/** First stages by latent-diffusion's YAML: AutoencoderKL, VQModel, VQModelInterface. */
import { type Instantiation, instantiationOf, objectOf, translate, unsupportedValue } from '../checkpoint/compvis'
import { isObject, type JsonObject } from '../checkpoint/json'
import { readYaml } from '../checkpoint/yaml'
import { invalidArgument } from '../errors'
import type { AutoencoderConfig } from '../nn/autoencoder/options'
import { array, parseOptions, string } from '../options'

/** What a configuration says of an autoencoder. */
export interface CompVisAutoencoder {
  readonly kind: 'AutoencoderKL' | 'VQModel' | 'VQModelInterface'
  /** Of the class here: ddconfig, embedDim and, of a codebook, nEmbed, remap and saneIndexShape. */
  readonly options: JsonObject & { ddconfig: AutoencoderConfig; embedDim: number }
  /** ckpt_path and ignore_keys. */
  readonly checkpoint?: { readonly path: string; readonly ignoreKeys: readonly string[] }
}

/** By Python's full names. */
const targets: Readonly<Record<string, CompVisAutoencoder['kind']>> = {
  'ldm.models.autoencoder.AutoencoderKL': 'AutoencoderKL',
  'ldm.models.autoencoder.VQModel': 'VQModel',
  'ldm.models.autoencoder.VQModelInterface': 'VQModelInterface',
}

const names = ['embed_dim', 'n_embed', 'remap', 'sane_index_shape']
const ddNames = [
  ...['double_z', 'z_channels', 'resolution', 'in_channels', 'out_ch', 'ch', 'ch_mult', 'num_res_blocks'],
  ...['attn_resolutions', 'dropout', 'attn_type', 'use_linear_attn', 'resamp_with_conv', 'give_pre_end', 'tanh_out'],
]
/** What is for training alone, or for the names of a batch. */
const ofTraining = [
  ...['lossconfig', 'monitor', 'image_key', 'learning_rate', 'lr_g_factor', 'batch_resize_range', 'scheduler_config'],
  ...['use_ema', 'ema_decay'],
]
const fixed: JsonObject = { colorize_nlabels: null }

const checkpointSchema = { ckpt_path: string(), ignore_keys: array(string(''), []) }

/** Whether it is one of these classes. */
export function isAutoencoderTarget(target: string): boolean {
  return Object.hasOwn(targets, target)
}

/** Throws `unknown-option`, `invalid-argument` and `unsupported`, with the field's name. */
export function compVisAutoencoder({ target, params }: Instantiation, name: string): CompVisAutoencoder {
  if (!isAutoencoderTarget(target)) {
    throw unsupportedValue(`${name}.target`, Object.keys(targets).join(' or '), target)
  }
  const kind = targets[target]
  const { ddconfig, ckpt_path, ignore_keys, ...rest } = params
  const own = Object.fromEntries(Object.entries(rest).filter(([field]) => !ofTraining.includes(field)))
  const known = ['ddconfig', ...Object.keys(checkpointSchema), ...ofTraining]
  const options = translate(`${name}.params`, own, { names, fixed, known })
  if (kind === 'AutoencoderKL') {
    const ofCodebook = names.slice(1).find((field) => own[field] !== undefined && own[field] !== null)
    if (ofCodebook) throw invalidArgument(ofCodebook, 'nothing for AutoencoderKL', own[ofCodebook])
  }
  if (options.remap !== undefined && options.remap !== null && !Array.isArray(options.remap)) {
    throw unsupportedValue('remap', 'numbers of entries, not a file of them,', options.remap)
  }
  const c = parseOptions(`${name}.params`, { ckpt_path, ignore_keys }, checkpointSchema)
  return {
    kind,
    options: { ...withoutNulls(options), ddconfig: ddconfigOf(ddconfig, name) } as CompVisAutoencoder['options'],
    ...(c.ckpt_path !== undefined && { checkpoint: { path: c.ckpt_path, ignoreKeys: c.ignore_keys } }),
  }
}

function withoutNulls(options: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null))
}

function ddconfigOf(value: unknown, name: string): AutoencoderConfig {
  const owner = `${name}.params.ddconfig`
  const config = translate(owner, objectOf(value, owner), { names: ddNames })
  // The same attention, by another implementation.
  if (config.attnType === 'vanilla-xformers') config.attnType = 'vanilla'
  return config as unknown as AutoencoderConfig
}

/**
 * Of a whole file: its model.target, or target, is the autoencoder. Throws `not-found`, `io`, `bad-file`, and with the field's name
 * `unknown-option`, `invalid-argument` and `unsupported`.
 */
export async function readCompVisAutoencoder(
  source: string | JsonObject,
  kinds: readonly CompVisAutoencoder['kind'][],
): Promise<CompVisAutoencoder> {
  const root = typeof source === 'string' ? await readYaml(source) : source
  if (!isObject(root)) throw invalidArgument('source', 'a path or an object', source)
  const [name, value] = 'model' in root ? ['model', objectOf(root.model, 'model')] : ['the configuration', root]
  const { base_learning_rate: _, ...own } = value as JsonObject
  const found = compVisAutoencoder(instantiationOf(own, name as string), name as string)
  if (kinds.includes(found.kind)) return found
  throw unsupportedValue(`${name}.target`, kinds.join(' or '), found.kind)
}
