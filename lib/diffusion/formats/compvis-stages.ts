/** first_stage_config and cond_stage_config of latent-diffusion's YAML as stages' configurations here. */
import { instantiationOf, translate, unsupportedValue } from '../../checkpoint/compvis'
import { isObject, type JsonObject } from '../../checkpoint/json'
import { compVisAutoencoder, isAutoencoderTarget } from '../../stages/compvis'

/** A stage as the YAML says it. */
export interface CompVisStage {
  /** For stage-config.ts: `kind` and options. */
  readonly config: JsonObject
  /** ckpt_path and ignore_keys of the stage itself. */
  readonly checkpoint?: { readonly path: string; readonly ignoreKeys: readonly string[] }
}

interface StageClass {
  readonly kind: string
  /** Arguments with the same meaning here. */
  readonly names: readonly string[]
  /** Where torch computes, which pretrained weights a package fetches: not for a configuration to say here. */
  readonly without?: readonly string[]
}

const modules = 'ldm.modules.encoders.modules.'

/** By Python's full name. */
export const stageClasses: Readonly<Record<string, StageClass>> = {
  'ldm.models.autoencoder.IdentityFirstStage': { kind: 'IdentityFirstStage', names: ['vq_interface'] },
  // What it is given is the condition.
  'torch.nn.Identity': { kind: 'IdentityFirstStage', names: [] },
  [`${modules}ClassEmbedder`]: { kind: 'ClassEmbedder', names: ['embed_dim', 'n_classes', 'key'] },
  [`${modules}SpatialRescaler`]: {
    kind: 'SpatialRescaler',
    names: ['n_stages', 'method', 'multiplier', 'in_channels', 'out_channels', 'bias'],
  },
  [`${modules}FrozenCLIPEmbedder`]: {
    kind: 'FrozenCLIPEmbedder',
    names: ['version', 'max_length', 'freeze', 'layer', 'layer_idx'],
    without: ['device'],
  },
  [`${modules}FrozenOpenCLIPEmbedder`]: {
    kind: 'FrozenOpenCLIPEmbedder',
    names: ['arch', 'max_length', 'freeze', 'layer'],
    without: ['device', 'version'],
  },
  [`${modules}TransformerEmbedder`]: {
    kind: 'TransformerEmbedder',
    names: ['n_embed', 'n_layer', 'vocab_size', 'max_seq_len'],
    without: ['device'],
  },
  [`${modules}BERTEmbedder`]: {
    kind: 'BERTEmbedder',
    names: ['n_embed', 'n_layer', 'vocab_size', 'max_seq_len', 'use_tokenizer', 'embedding_dropout'],
    without: ['device'],
  },
}

/**
 * The sizes of a CLIP other than the published, which no argument says there: a field of our own, of models that the code there does not
 * make.
 */
export const sizesField = 'text_config'

/** Throws `unsupported` for a class that is not here, and with the field's name `unknown-option` and `invalid-argument`. */
export function compVisStage(value: unknown, name: string): CompVisStage {
  const given = instantiationOf(value, name)
  if (isAutoencoderTarget(given.target)) {
    const { kind, options, checkpoint } = compVisAutoencoder(given, name)
    return { config: { kind, ...options }, checkpoint }
  }
  const { target, params } = given
  if (!Object.hasOwn(stageClasses, target)) throw unsupportedValue(`${name}.target`, known(), target)
  const { kind, names, without = [] } = stageClasses[target]
  const { [sizesField]: textConfig, ...rest } = params
  const own = Object.entries(rest).filter(([field, v]) => v !== null && !without.includes(field))
  const config = { kind, ...translate(`${name}.params`, Object.fromEntries(own), { names, known: without }) }
  return { config: textConfig === undefined ? config : { ...config, textConfig } }
}

/** A conditioning stage; '__is_first_stage__' and '__is_unconditional__' stay. */
export function compVisCondStage(value: unknown, name: string): CompVisStage | Marker {
  if (value === '__is_first_stage__' || value === '__is_unconditional__') return value
  return compVisStage(isObject(value) ? value : {}, name)
}

type Marker = '__is_first_stage__' | '__is_unconditional__'

function known(): string {
  const names = Object.keys(stageClasses).map((target) => target.slice(target.lastIndexOf('.') + 1))
  return ['AutoencoderKL', 'VQModel', 'VQModelInterface', ...names].join(', ')
}
