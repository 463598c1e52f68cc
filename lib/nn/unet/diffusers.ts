/** diffusers' UNet2DModel in terms of UNet's options. */
import { invalidArgument } from '../../errors'
import * as options from '../../options'
import type { StateDict } from '../parameters'
import {
  type BlockType,
  blockTypes,
  type DiffusersUNet,
  levelsOf,
  oneOrMore,
  only,
  ownFields,
  sampleSize,
  type UNet2DConfig,
} from './diffusers-fields'
import { limits } from './options'

const owner = 'UNet2DModel'

export const downBlocks = {
  DownBlock2D: { attention: false, resample: 'conv' },
  AttnDownBlock2D: { attention: true, resample: 'type' },
  ResnetDownsampleBlock2D: { attention: false, resample: 'resnet' },
  SkipDownBlock2D: { attention: false, resample: 'skip' },
  AttnSkipDownBlock2D: { attention: true, resample: 'skip' },
} as const satisfies Record<string, BlockType>
export const upBlocks = {
  UpBlock2D: { attention: false, resample: 'conv' },
  AttnUpBlock2D: { attention: true, resample: 'type' },
  ResnetUpsampleBlock2D: { attention: false, resample: 'resnet' },
  SkipUpBlock2D: { attention: false, resample: 'skip' },
  AttnSkipUpBlock2D: { attention: true, resample: 'skip' },
} as const satisfies Record<string, BlockType>
/**
 * UNet2DModel.__init__'s keyword arguments and defaults. An option with one value is one that is known but not
 * supported.
 */
const schema = {
  sample_size: options.required(sampleSize()),
  in_channels: options.integer(3, oneOrMore),
  out_channels: options.integer(3, oneOrMore),
  center_input_sample: options.boolean(false),
  time_embedding_type: options.oneOf(['positional', 'fourier', 'learned'], 'positional'),
  time_embedding_dim: options.integer(undefined, oneOrMore),
  freq_shift: options.number(0),
  flip_sin_to_cos: options.boolean(true),
  down_block_types: blockTypes(downBlocks, ['DownBlock2D', ...Array(3).fill('AttnDownBlock2D')]),
  up_block_types: blockTypes(upBlocks, [...Array(3).fill('AttnUpBlock2D'), 'UpBlock2D']),
  block_out_channels: options.array(options.integer(undefined, oneOrMore), [224, 448, 672, 896], limits.levels),
  layers_per_block: options.integer(2, { min: 1, max: limits.numResBlocks }),
  // Whatever its name, it is a UNetMidBlock2D; null, which is no default, is none.
  mid_block_type: options.oneOf(['UNetMidBlock2D', 'UnCLIPUNetMidBlock2D'], 'UNetMidBlock2D'),
  mid_block_scale_factor: options.number(1),
  downsample_padding: options.integer(1, { min: 0, max: 1 }) as options.Field<0 | 1>,
  downsample_type: options.oneOf(['conv', 'resnet'], 'conv'),
  upsample_type: options.oneOf(['conv', 'resnet'], 'conv'),
  dropout: options.number(0),
  act_fn: only(owner, 'silu', 'swish'),
  attention_legacy_order: only(owner, false),
  // The default of __init__ is 8; null, as many configurations have it, means one head.
  attention_head_dim: options.integer(undefined, oneOrMore),
  // null, which is no default, is a quarter of the channels, at most 32.
  norm_num_groups: options.integer(32, oneOrMore),
  attn_norm_num_groups: options.integer(undefined, oneOrMore),
  norm_eps: options.number(1e-5),
  resnet_time_scale_shift: options.oneOf(['default', 'scale_shift'], 'default'),
  add_attention: options.boolean(true),
  class_embed_type: options.oneOf(['timestep', 'identity']),
  num_class_embeds: options.integer(undefined, oneOrMore),
  // Only used by time_embedding_type 'learned'.
  num_train_timesteps: options.integer(undefined, oneOrMore),
}

export const timeEmbeddings = { positional: 'sinusoidal', fourier: 'fourier', learned: 'learned' } as const

/** Throws `invalid-argument`, and `unsupported` for what UNet can't express. */
export function unet2DSettings(config: UNet2DConfig): DiffusersUNet {
  const { known: c, unknown } = options.parseKnown(owner, ownFields(config), schema)

  const levels = c.block_out_channels.length
  if (c.down_block_types.length !== levels || c.up_block_types.length !== levels) {
    throw invalidArgument(
      'block_out_channels',
      'as many entries as down_block_types and up_block_types',
      c.block_out_channels,
    )
  }
  const down = levelsOf(
    c.down_block_types.map((type: keyof typeof downBlocks) => downBlocks[type]),
    c.downsample_type,
  )
  const up = levelsOf(
    [...c.up_block_types].reverse().map((type: keyof typeof upBlocks) => upBlocks[type]),
    c.upsample_type,
  )
  // Only a convolution pads; the lowest level has none.
  const pads = [...down.resnet, ...down.skip].filter((rate) => rate < 2 ** (levels - 1)).length < levels - 1
  const numTimesteps = c.time_embedding_type === 'learned' ? c.num_train_timesteps : undefined
  const labelLimit = numTimesteps ?? limits.numClasses
  const timestepLabels = c.class_embed_type === 'timestep'
  const isVector = c.class_embed_type === 'identity'
  const scaleShift = c.resnet_time_scale_shift === 'scale_shift'
  const [modelChannels] = c.block_out_channels
  const headDim = 'attention_head_dim' in config ? c.attention_head_dim : 8
  return {
    ignored: { names: unknown, owner, known: Object.keys(schema) },
    options: {
      layout: 'diffusers',
      imageSize: c.sample_size[0],
      imageWidth: c.sample_size[1],
      inChannels: c.in_channels,
      outChannels: c.out_channels,
      modelChannels,
      channelMult: c.block_out_channels.map((channels) => channels / modelChannels),
      numResBlocks: c.layers_per_block,
      attentionResolutions: down.attention,
      upAttentionResolutions: up.attention,
      skipDownResolutions: down.skip,
      skipUpResolutions: up.skip,
      resblockDownResolutions: down.resnet,
      resblockUpResolutions: up.resnet,
      centerInput: c.center_input_sample,
      middleScale: c.mid_block_scale_factor,
      dropout: c.dropout,
      numHeads: 1,
      numHeadChannels: headDim,
      // With 'identity' there is no table, whatever num_class_embeds says.
      numClasses: isVector ? undefined : (c.num_class_embeds ?? (timestepLabels ? labelLimit : undefined)),
      vectorEmbedding: isVector ? 'identity' : undefined,
      classEmbedding: timestepLabels ? 'timestep' : 'table',
      normGroups: config.norm_num_groups === null ? 0 : c.norm_num_groups,
      normEps: c.norm_eps,
      freqShift: c.freq_shift,
      flipSinToCos: c.flip_sin_to_cos,
      downsamplePadding: pads ? c.downsample_padding : 1,
      middleAttention: c.add_attention,
      useScaleShiftNorm: scaleShift,
      // UNetMidBlock2D's rule: with scale_shift its attention has a norm only where its groups are given.
      middleNormGroups: c.attn_norm_num_groups ?? (scaleShift ? 0 : undefined),
      middleBlock: config.mid_block_type !== null,
      timeEmbedding: timeEmbeddings[c.time_embedding_type],
      numTimesteps,
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
