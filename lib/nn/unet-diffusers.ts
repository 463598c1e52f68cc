/** diffusers' UNet2DModel in terms of UNet's options. */
import { DiffusionError, describe, invalidArgument } from '../errors'
import * as options from '../options'
import type { StateDict } from './parameters'
import { limits, type UNetOptions } from './unet-options'

/** config.json of a UNet2DModel (diffusers 0.0.4 to 0.35); names that begin with an underscore are about the file. */
export type UNet2DConfig = Readonly<Record<string, unknown>>

export interface UNet2DSettings {
  readonly options: UNetOptions
  /** Fields that UNet2DModel does not have: diffusers ignores them, too. */
  readonly ignored: { readonly names: readonly string[]; readonly owner: string; readonly known: readonly string[] }
}

const downBlocks = ['DownBlock2D', 'AttnDownBlock2D'] as const
const upBlocks = ['UpBlock2D', 'AttnUpBlock2D'] as const
const oneOrMore = { min: 1 }

/**
 * UNet2DModel.__init__'s keyword arguments and defaults. An option with one value is one that is known but not
 * supported.
 */
const schema = {
  sample_size: options.required(sampleSize()),
  in_channels: options.integer(3, oneOrMore),
  out_channels: options.integer(3, oneOrMore),
  center_input_sample: only(false),
  time_embedding_type: only('positional'),
  time_embedding_dim: options.integer(undefined, oneOrMore),
  freq_shift: options.number(0),
  flip_sin_to_cos: options.boolean(true),
  down_block_types: blockTypes(downBlocks, ['DownBlock2D', ...Array(3).fill('AttnDownBlock2D')]),
  up_block_types: blockTypes(upBlocks, [...Array(3).fill('AttnUpBlock2D'), 'UpBlock2D']),
  block_out_channels: options.array(options.integer(undefined, oneOrMore), [224, 448, 672, 896], limits.levels),
  layers_per_block: options.integer(2, { min: 1, max: limits.numResBlocks }),
  // Whatever its name, it is a UNetMidBlock2D; null, which is no default, is none.
  mid_block_type: options.oneOf(['UNetMidBlock2D', 'UnCLIPUNetMidBlock2D'], 'UNetMidBlock2D'),
  mid_block_scale_factor: only(1),
  downsample_padding: options.integer(1, { min: 0, max: 1 }) as options.Field<0 | 1>,
  downsample_type: only('conv'),
  upsample_type: only('conv'),
  dropout: options.number(0),
  act_fn: only('silu'),
  attention_legacy_order: only(false),
  // The default of __init__ is 8; null, as many configurations have it, means one head.
  attention_head_dim: options.integer(undefined, oneOrMore),
  norm_num_groups: options.integer(32, oneOrMore),
  attn_norm_num_groups: options.integer(undefined, oneOrMore),
  norm_eps: options.number(1e-5),
  resnet_time_scale_shift: options.oneOf(['default', 'scale_shift'], 'default'),
  add_attention: options.boolean(true),
  class_embed_type: only(undefined),
  num_class_embeds: options.integer(undefined, oneOrMore),
  // Only used by time_embedding_type 'learned'.
  num_train_timesteps: options.integer(undefined, oneOrMore),
}

function blockTypes<T extends string>(known: readonly T[], fallback: readonly T[]) {
  return options.array(options.oneOf(known), fallback as readonly NonNullable<T>[], limits.levels)
}

/** Height and width, or one number for both. */
function sampleSize(): options.Field<number> {
  const number = options.integer(undefined, oneOrMore)
  const check = (given: unknown, name: string): number => {
    if (!Array.isArray(given)) return number.check(given, name)
    if (given.length === 2 && given[0] === given[1]) return number.check(given[0], name)
    throw unsupported(name, 'a number, or twice the same', given)
  }
  return { fallback: undefined as unknown as number, check }
}

function only<T>(value: T): options.Field<T> {
  const check = (given: unknown, name: string): NonNullable<T> => {
    if (given === value) return given as NonNullable<T>
    throw unsupported(name, value === undefined ? 'null' : describe(value), given)
  }
  return { fallback: value, check }
}

/** Throws `invalid-argument`, and `unsupported` for what UNet can't express. */
export function unet2DSettings(config: UNet2DConfig): UNet2DSettings {
  if (typeof config !== 'object' || config === null) throw invalidArgument('config', 'an object', config)
  const { _class_name: kind = 'UNet2DModel' } = config
  if (kind !== 'UNet2DModel') throw unsupported('_class_name', "'UNet2DModel'", kind)
  const own = Object.fromEntries(Object.entries(config).filter(([name]) => !name.startsWith('_')))
  const { known: c, unknown } = options.parseKnown('UNet2DModel', own, schema)

  const levels = c.block_out_channels.length
  if (c.down_block_types.length !== levels || c.up_block_types.length !== levels) {
    throw invalidArgument(
      'block_out_channels',
      'as many entries as down_block_types and up_block_types',
      c.block_out_channels,
    )
  }
  const attention = c.down_block_types.map((type) => type === 'AttnDownBlock2D')
  const upAttention = c.up_block_types.map((type) => type === 'AttnUpBlock2D').reverse()
  if (attention.some((has, level) => has !== upAttention[level])) {
    throw unsupported('up_block_types', 'attention at the levels of down_block_types', c.up_block_types)
  }
  const scaleShift = c.resnet_time_scale_shift === 'scale_shift'
  const [modelChannels] = c.block_out_channels
  const headDim = 'attention_head_dim' in config ? c.attention_head_dim : 8
  return {
    ignored: { names: unknown, owner: 'UNet2DModel', known: Object.keys(schema) },
    options: {
      layout: 'diffusers',
      imageSize: c.sample_size,
      inChannels: c.in_channels,
      outChannels: c.out_channels,
      modelChannels,
      channelMult: c.block_out_channels.map((channels) => channels / modelChannels),
      numResBlocks: c.layers_per_block,
      attentionResolutions: attention.flatMap((has, level) => (has ? [2 ** level] : [])),
      dropout: c.dropout,
      numHeads: 1,
      numHeadChannels: headDim,
      numClasses: c.num_class_embeds,
      normGroups: c.norm_num_groups,
      normEps: c.norm_eps,
      freqShift: c.freq_shift,
      flipSinToCos: c.flip_sin_to_cos,
      downsamplePadding: c.downsample_padding,
      middleAttention: c.add_attention,
      useScaleShiftNorm: scaleShift,
      // UNetMidBlock2D's rule: with scale_shift its attention has a norm only where its groups are given.
      middleNormGroups: c.attn_norm_num_groups ?? (scaleShift ? 0 : c.norm_num_groups),
      middleBlock: config.mid_block_type !== null,
      timeEmbeddingDim: c.time_embedding_dim,
    },
  }
}

const legacyNames: readonly (readonly [RegExp, string])[] = [
  [/\.query\./, '.to_q.'],
  [/\.key\./, '.to_k.'],
  [/\.value\./, '.to_v.'],
  [/\.proj_attn\./, '.to_out.0.'],
]

/** The attention's names of diffusers before 0.14 (query, key, value, proj_attn) to today's; others stay. */
export function todaysName(name: string): string {
  return legacyNames.reduce((n, [from, to]) => n.replace(from, to), name)
}

export function renameLegacyDiffusers(dict: StateDict): StateDict {
  return Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [todaysName(name), tensor]))
}

function unsupported(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  return new DiffusionError(
    'unsupported',
    `UNet2DModel's ${argument}: only ${expected} is supported, got ${received}`,
    {
      argument,
      expected,
      received,
    },
  )
}
