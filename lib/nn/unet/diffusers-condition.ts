/** diffusers' UNet2DConditionModel, the network of Stable Diffusion, in terms of UNet's options. */
import { invalidArgument } from '../../errors'
import * as options from '../../options'
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
  unsupported,
} from './diffusers-fields'
import { limits, type UNetOptions } from './options'

const owner = 'UNet2DConditionModel'

const downBlocks = {
  CrossAttnDownBlock2D: { attention: true, resample: 'conv' },
  DownBlock2D: { attention: false, resample: 'conv' },
  ResnetDownsampleBlock2D: { attention: false, resample: 'resnet' },
} as const satisfies Record<string, BlockType>
const upBlocks = {
  CrossAttnUpBlock2D: { attention: true, resample: 'conv' },
  UpBlock2D: { attention: false, resample: 'conv' },
  ResnetUpsampleBlock2D: { attention: false, resample: 'resnet' },
} as const satisfies Record<string, BlockType>

/** UNet2DConditionModel.__init__'s keyword arguments and defaults. An option with one value is one that is known but not supported. */
const schema = {
  sample_size: sampleSize([64, 64]),
  in_channels: options.integer(4, oneOrMore),
  out_channels: options.integer(4, oneOrMore),
  center_input_sample: options.boolean(false),
  flip_sin_to_cos: options.boolean(true),
  freq_shift: options.number(0),
  down_block_types: blockTypes(downBlocks, [...Array(3).fill('CrossAttnDownBlock2D'), 'DownBlock2D']),
  // null, which is no default, is none.
  mid_block_type: options.oneOf(['UNetMidBlock2DCrossAttn'], 'UNetMidBlock2DCrossAttn'),
  up_block_types: blockTypes(upBlocks, ['UpBlock2D', ...Array(3).fill('CrossAttnUpBlock2D')]),
  only_cross_attention: perLevel(options.boolean()),
  block_out_channels: options.array(options.integer(undefined, oneOrMore), [320, 640, 1280, 1280], limits.levels),
  layers_per_block: perLevel(options.integer(undefined, { min: 1, max: limits.numResBlocks }), 2),
  downsample_padding: options.integer(1, { min: 0, max: 1 }) as options.Field<0 | 1>,
  mid_block_scale_factor: only(owner, 1),
  dropout: options.number(0),
  act_fn: only(owner, 'silu', 'swish'),
  norm_num_groups: options.integer(32, oneOrMore),
  norm_eps: options.number(1e-5),
  cross_attention_dim: perLevel(options.integer(undefined, oneOrMore), 1280),
  transformer_layers_per_block: perLevel(options.integer(undefined, { min: 1, max: limits.transformerDepth }), 1),
  reverse_transformer_layers_per_block: only(owner, undefined),
  encoder_hid_dim: only(owner, undefined),
  encoder_hid_dim_type: only(owner, undefined),
  // The number of heads, whatever its name says; num_attention_heads, where it is given, goes before it.
  attention_head_dim: perLevel(options.integer(undefined, oneOrMore), 8),
  num_attention_heads: perLevel(options.integer(undefined, oneOrMore)),
  dual_cross_attention: only(owner, false),
  use_linear_projection: options.boolean(false),
  // 'projection' is of the unCLIP models; with either there is no table, whatever num_class_embeds says.
  class_embed_type: only(owner, undefined, 'projection', 'identity'),
  addition_embed_type: only(owner, undefined),
  addition_time_embed_dim: options.integer(undefined, oneOrMore),
  num_class_embeds: options.integer(undefined, oneOrMore),
  // Softmax sums in float32 here in every precision.
  upcast_attention: options.boolean(false),
  resnet_time_scale_shift: options.oneOf(['default', 'scale_shift'], 'default'),
  resnet_skip_time_act: only(owner, false),
  resnet_out_scale_factor: only(owner, 1),
  time_embedding_type: only(owner, 'positional'),
  time_embedding_dim: options.integer(undefined, oneOrMore),
  time_embedding_act_fn: only(owner, undefined),
  timestep_post_act: only(owner, undefined),
  time_cond_proj_dim: only(owner, undefined),
  conv_in_kernel: only(owner, 3),
  conv_out_kernel: only(owner, 3),
  projection_class_embeddings_input_dim: options.integer(undefined, oneOrMore),
  attention_type: only(owner, 'default'),
  class_embeddings_concat: only(owner, false),
  mid_block_only_cross_attention: only(owner, undefined, false),
  cross_attention_norm: only(owner, undefined),
  addition_embed_type_num_heads: options.integer(64, oneOrMore),
}

/** One value, or one for each level. */
function perLevel<T>(one: options.Field<T>, fallback?: T): options.Field<T | readonly NonNullable<T>[]> {
  const each = options.array(one as options.Field<NonNullable<T>>, undefined, limits.levels)
  const check = (given: unknown, name: string) => (Array.isArray(given) ? each : one).check(given, name)
  return { fallback: fallback as T, check: check as options.Field<T | readonly NonNullable<T>[]>['check'] }
}

/** Labels by a table, or a vector. */
function conditionsOf(
  c: Pick<
    options.Parsed<typeof schema>,
    'class_embed_type' | 'num_class_embeds' | 'projection_class_embeddings_input_dim'
  >,
): Pick<UNetOptions, 'numClasses' | 'vectorDim' | 'vectorEmbedding'> {
  if (c.class_embed_type === undefined) return { numClasses: c.num_class_embeds }
  if (c.class_embed_type === 'identity') return { vectorEmbedding: 'identity' }
  const vectorDim = c.projection_class_embeddings_input_dim
  if (vectorDim !== undefined) return { vectorEmbedding: 'mlp', vectorDim }
  throw invalidArgument(
    'projection_class_embeddings_input_dim',
    "a number with class_embed_type 'projection'",
    undefined,
  )
}

/** Throws `invalid-argument`, and `unsupported` for what UNet can't express. */
export function unet2DConditionSettings(config: UNet2DConfig): DiffusersUNet {
  const { known: c, unknown } = options.parseKnown(owner, ownFields(config), schema)
  if (config.norm_num_groups === null) throw unsupported(owner, 'norm_num_groups', 'a number', null)
  const levels = c.block_out_channels.length
  if (c.down_block_types.length !== levels || c.up_block_types.length !== levels) {
    const expected = 'as many entries as down_block_types and up_block_types'
    throw invalidArgument('block_out_channels', expected, c.block_out_channels)
  }
  const down = levelsOf(
    c.down_block_types.map((type: keyof typeof downBlocks) => downBlocks[type]),
    'conv',
  )
  const up = levelsOf(
    [...c.up_block_types].reverse().map((type: keyof typeof upBlocks) => upBlocks[type]),
    'conv',
  )
  const each = <T>(name: keyof typeof schema): T[] => {
    const given = c[name] as T | readonly T[]
    const list = Array.isArray(given) ? (given as readonly T[]) : Array<T>(levels).fill(given as T)
    if (list.length === levels) return [...list]
    throw invalidArgument(name, `a value, or one for each of the ${levels} levels`, given)
  }
  const one = <T>(name: keyof typeof schema): T => {
    const [first, ...more] = each<T>(name)
    if (more.every((value) => value === first)) return first
    throw unsupported(owner, name, 'the same at every level', c[name])
  }
  if (one<boolean | undefined>('only_cross_attention')) throw unsupported(owner, 'only_cross_attention', 'false', true)
  const [modelChannels] = c.block_out_channels
  const attention = [...new Set([...down.attention, ...up.attention, 2 ** (levels - 1)])].map((rate) => Math.log2(rate))
  const headNames = c.num_attention_heads === undefined ? 'attention_head_dim' : 'num_attention_heads'
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
      numResBlocks: one<number>('layers_per_block'),
      attentionResolutions: down.attention,
      upAttentionResolutions: up.attention,
      resblockDownResolutions: down.resnet,
      resblockUpResolutions: up.resnet,
      centerInput: c.center_input_sample,
      dropout: c.dropout,
      ...headsOf(each<number>(headNames), { name: headNames, channels: c.block_out_channels, attention }),
      legacy: false,
      ...conditionsOf(c),
      normGroups: c.norm_num_groups,
      normEps: c.norm_eps,
      freqShift: c.freq_shift,
      flipSinToCos: c.flip_sin_to_cos,
      downsamplePadding: c.downsample_padding,
      useScaleShiftNorm: c.resnet_time_scale_shift === 'scale_shift',
      middleBlock: config.mid_block_type !== null,
      timeEmbeddingDim: c.time_embedding_dim,
      useSpatialTransformer: true,
      useLinearInTransformer: c.use_linear_projection,
      transformerDepth: Array.isArray(c.transformer_layers_per_block)
        ? each<number>('transformer_layers_per_block')
        : c.transformer_layers_per_block,
      contextDim: one<number>('cross_attention_dim'),
    },
  }
}

/** UNet has one number of heads, or one width of a head, for all levels with attention. */
function headsOf(
  heads: readonly number[],
  o: { name: string; channels: readonly number[]; attention: readonly number[] },
): { numHeads?: number; numHeadChannels?: number } {
  const counts = new Set(o.attention.map((level) => heads[level]))
  if (counts.size === 1) return { numHeads: [...counts][0] }
  const widths = new Set(o.attention.map((level) => o.channels[level] / heads[level]))
  if (widths.size === 1) return { numHeadChannels: [...widths][0] }
  throw unsupported(owner, o.name, 'one number of heads, or one width of a head, for all levels', heads)
}
