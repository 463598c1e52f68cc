/** diffusers' AutoencoderKL and VQModel in terms of an autoencoder's shape, and back. */
import { DiffusionError, describe, invalidArgument } from '../../errors'
import * as options from '../../options'
import type { StateDict } from '../parameters'
import { todaysName } from '../unet/diffusers'
import { limits } from '../unet/options'
import { type AutoencoderShape, checkedShape } from './options'

/** config.json of an AutoencoderKL or VQModel; names that begin with an underscore are about the file. */
export type DiffusersAutoencoderConfig = Readonly<Record<string, unknown>>

export interface DiffusersAutoencoder {
  readonly shape: AutoencoderShape
  readonly embedDim: number
  /** Entries of the codebook; undefined for an AutoencoderKL. */
  readonly nEmbed?: number
  /** What pipelines multiply latents by. */
  readonly scalingFactor: number
  /** Fields that the class does not have: diffusers ignores them, too. */
  readonly ignored: readonly string[]
}

const blocks = {
  down: { DownEncoderBlock2D: false, AttnDownEncoderBlock2D: true },
  up: { UpDecoderBlock2D: false, AttnUpDecoderBlock2D: true },
} as const

const count = (fallback?: number) => options.integer(fallback as number, { min: 1, max: limits.channels })
const names = <T extends string>(of: Readonly<Record<T, boolean>>, fallback: T) =>
  options.array(options.oneOf(Object.keys(of) as T[]), [fallback as never], limits.levels)

/** __init__'s keyword arguments and defaults that both classes have. */
const shared = {
  in_channels: count(3),
  out_channels: count(3),
  down_block_types: names(blocks.down, 'DownEncoderBlock2D'),
  up_block_types: names(blocks.up, 'UpDecoderBlock2D'),
  block_out_channels: options.array(count(), [64], limits.levels),
  layers_per_block: options.integer(1, { min: 1, max: limits.numResBlocks }),
  act_fn: only('silu', 'swish'),
  norm_num_groups: count(32),
  sample_size: options.integer(32, { min: 1, max: limits.imageSize }),
  scaling_factor: options.number(0.18215),
  mid_block_add_attention: options.boolean(true),
  force_upcast: options.boolean(true), // of half precision: pipelines then decode in float32
}

const schemas = {
  AutoencoderKL: {
    ...shared,
    latent_channels: count(4),
    latents_mean: only(undefined),
    latents_std: only(undefined),
    shift_factor: only(undefined),
    use_quant_conv: only(true),
    use_post_quant_conv: only(true),
  },
  VQModel: {
    ...shared,
    latent_channels: count(3),
    num_vq_embeddings: options.integer(256, { min: 1, max: 2 ** 24 }),
    vq_embed_dim: options.integer(undefined, { min: 1, max: limits.channels }),
    norm_type: only('group'),
    lookup_from_codebook: only(false),
  },
}

export type DiffusersAutoencoderClass = keyof typeof schemas

/** The first is the default. */
function only<T>(...values: readonly [T, ...T[]]): options.Field<T> {
  const check = (given: unknown, name: string): NonNullable<T> => {
    if (values.includes(given as T)) return given as NonNullable<T>
    const known = values.map((value) => (value === undefined ? 'null' : describe(value)))
    throw unsupported(name, known.join(' and '), given)
  }
  return { fallback: values[0], check }
}

/** Throws `invalid-argument`, and `unsupported` for what no autoencoder here can express. */
export function diffusersAutoencoder(
  kind: DiffusersAutoencoderClass,
  config: DiffusersAutoencoderConfig,
): DiffusersAutoencoder {
  if (typeof config !== 'object' || config === null) throw invalidArgument('config', 'an object', config)
  const { _class_name: name = kind } = config
  if (name !== kind) throw unsupported('_class_name', `'${kind}'`, name)
  const own = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith('_')))
  const { known, unknown } = options.parseKnown<(typeof schemas)[typeof kind]>(kind, own, schemas[kind] as never)
  const c = known as options.Parsed<typeof shared> & { latent_channels: number }
  const codebook = kind === 'VQModel' ? (known as { num_vq_embeddings: number; vq_embed_dim?: number }) : undefined
  const channels = c.block_out_channels
  if (channels.length === 0 || c.down_block_types.length !== channels.length) {
    throw invalidArgument('down_block_types', 'as many entries as block_out_channels', c.down_block_types)
  }
  if (c.up_block_types.length !== channels.length) {
    throw invalidArgument('up_block_types', 'as many entries as block_out_channels', c.up_block_types)
  }
  const shape = checkedShape({
    layout: 'diffusers',
    inChannels: c.in_channels,
    outChannels: c.out_channels,
    zChannels: c.latent_channels,
    doubleZ: codebook === undefined,
    stem: channels[0],
    channels,
    numResBlocks: c.layers_per_block,
    encoderAttention: c.down_block_types.map((type) => blocks.down[type as keyof typeof blocks.down]),
    decoderAttention: [...c.up_block_types].reverse().map((type) => blocks.up[type as keyof typeof blocks.up]),
    middleAttention: c.mid_block_add_attention,
    attnType: 'vanilla',
    normGroups: c.norm_num_groups,
    dropout: 0,
    resampWithConv: true,
    givePreEnd: false,
    tanhOut: false,
    resolution: c.sample_size,
  })
  return {
    shape,
    embedDim: codebook?.vq_embed_dim ?? c.latent_channels,
    ...(codebook && { nEmbed: codebook.num_vq_embeddings }),
    scalingFactor: c.scaling_factor,
    ignored: unknown,
  }
}

/** The way back: the fields of config.json. Throws `unsupported` for what diffusers' class can't express. */
export function diffusersAutoencoderConfig({
  shape: s,
  embedDim,
  nEmbed,
  scalingFactor,
}: Omit<DiffusersAutoencoder, 'ignored'>): Record<string, unknown> {
  const middle = s.middleAttention && s.attnType !== 'none'
  const refused: readonly (readonly [argument: string, expected: string, value: unknown, fits: boolean])[] = [
    ['attnType', "'vanilla'", s.attnType, s.attnType !== 'linear'],
    ['attnType', "'vanilla'", s.attnType, nEmbed !== undefined || middle],
    ['resampWithConv', 'true', s.resampWithConv, s.resampWithConv],
    ['givePreEnd', 'false', s.givePreEnd, !s.givePreEnd],
    ['tanhOut', 'false', s.tanhOut, !s.tanhOut],
    ['chMult', 'a first entry of 1', s.channels[0] / s.stem, s.channels[0] === s.stem],
    ['embedDim', `zChannels, ${s.zChannels}`, embedDim, nEmbed !== undefined || embedDim === s.zChannels],
  ]
  for (const [argument, expected, value, fits] of refused) if (!fits) throw unsupported(argument, expected, value)
  const has = (attention: boolean) => attention && s.attnType !== 'none'
  return {
    act_fn: 'silu',
    block_out_channels: s.channels,
    down_block_types: s.encoderAttention.map((a) => (has(a) ? 'AttnDownEncoderBlock2D' : 'DownEncoderBlock2D')),
    force_upcast: nEmbed === undefined,
    in_channels: s.inChannels,
    latent_channels: s.zChannels,
    layers_per_block: s.numResBlocks,
    norm_num_groups: s.normGroups,
    out_channels: s.outChannels,
    sample_size: s.resolution,
    scaling_factor: scalingFactor,
    up_block_types: s.decoderAttention.map((a) => (has(a) ? 'AttnUpDecoderBlock2D' : 'UpDecoderBlock2D')).reverse(),
    ...(nEmbed === undefined
      ? {}
      : {
          lookup_from_codebook: false,
          mid_block_add_attention: middle,
          norm_type: 'group',
          num_vq_embeddings: nEmbed,
          vq_embed_dim: embedDim === s.zChannels ? null : embedDim,
        }),
  }
}

/** The attention's names of diffusers before 0.14 as today's. */
export function renameLegacyAutoencoder(dict: StateDict): StateDict {
  return Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [todaysName(name), tensor]))
}

function unsupported(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  const message = `diffusers' autoencoders, ${argument}: only ${expected} is supported, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}
