/** The options of EncoderUNet: their documentation, defaults and checks. */
import { invalidArgument } from '../../errors'
import * as options from '../../options'
import { limits } from './options'

/** openaimodel.EncoderUNetModel's keyword arguments in camelCase. */
export interface EncoderUNetOptions {
  /** Height and width of the images, a multiple of 2^(levels - 1). */
  imageSize: number
  /** Channels of the input: 3 for RGB. */
  inChannels: number
  /** Channels of the first level. */
  modelChannels: number
  /** Numbers that come out: of a classifier, the classes. */
  outChannels: number
  /** Residual blocks of a level. */
  numResBlocks: number
  /** Downsampling rates with attention: 2 is the level of half the resolution. */
  attentionResolutions: readonly number[]
  /** Probability in [0, 1) that a number is dropped in training. Default 0. */
  dropout?: number
  /** Training keeps less of a block and computes the rest again; see UNetOptions. Default false. */
  useCheckpoint?: boolean
  /** Channels of each level as multiples of modelChannels. Default [1, 2, 4, 8]. */
  channelMult?: readonly number[]
  /** Convolutions in the downsampling, not just averaging. Default true. */
  convResample?: boolean
  /** Attention heads; without effect where numHeadChannels is given. Default 1. */
  numHeads?: number
  /** Channels of a head, which the pool 'attention' needs. Default: as many as numHeads leaves. */
  numHeadChannels?: number
  /** The time embedding scales and shifts in the residual blocks' second norm. Default false: it is added before. */
  useScaleShiftNorm?: boolean
  /** Residual blocks do the downsampling. Default false. */
  resblockUpdown?: boolean
  /** q, k and v are split first and then into heads. Default false: heads first. */
  useNewAttentionOrder?: boolean
  /**
   * What makes one vector of the maps: the last one's mean ('adaptive', default) or an attention to it ('attention', as CLIP has
   * it); or a network of two layers on the means of all ('spatial' with ReLU; 'spatial_v2' with a norm and SiLU).
   */
  pool?: 'adaptive' | 'attention' | 'spatial' | 'spatial_v2'
  /** Groups of the norms. Default 32. */
  normGroups?: number
}

const count = (fallback?: number, max: number = limits.channels) => {
  return options.integer(fallback as number, { min: 1, max })
}

const schema = {
  imageSize: options.required(count(undefined, limits.imageSize)),
  inChannels: options.required(count()),
  modelChannels: options.required(count()),
  outChannels: options.required(count(undefined, limits.numClasses)),
  numResBlocks: options.required(count(undefined, limits.numResBlocks)),
  attentionResolutions: options.required(options.array(count(), undefined, limits.levels)),
  dropout: options.number(0, { min: 0, max: 1 }),
  useCheckpoint: options.boolean(false),
  channelMult: options.array(options.number(undefined, { min: 0, max: limits.mult }), [1, 2, 4, 8], limits.levels),
  convResample: options.boolean(true),
  numHeads: count(1),
  numHeadChannels: options.integer(undefined, { min: 1, max: limits.channels }),
  useScaleShiftNorm: options.boolean(false),
  resblockUpdown: options.boolean(false),
  useNewAttentionOrder: options.boolean(false),
  pool: options.oneOf(['adaptive', 'attention', 'spatial', 'spatial_v2'], 'adaptive'),
  normGroups: count(32),
} satisfies options.SchemaOf<EncoderUNetOptions>

/**
 * EncoderUNetOptions with all defaults filled in.
 * @interface
 */
export type ResolvedEncoderUNetOptions = Readonly<ReturnType<typeof resolveEncoderUNetOptions>>

/** Options with their defaults. Throws `unknown-option` and `invalid-argument`. */
export function resolveEncoderUNetOptions(given: EncoderUNetOptions) {
  const o = options.parseOptions('EncoderUNet', given, schema)
  if (o.dropout === 1) throw invalidArgument('dropout', 'a number from 0 and below 1', o.dropout)
  if (o.channelMult.length === 0) throw invalidArgument('channelMult', 'an entry for each level', o.channelMult)
  const rates = o.channelMult.map((_, level) => 2 ** level)
  const deepest = rates[rates.length - 1]
  if (o.imageSize % deepest !== 0) throw invalidArgument('imageSize', `a multiple of ${deepest}`, o.imageSize)
  for (const [i, rate] of o.attentionResolutions.entries()) {
    if (rates.includes(rate)) continue
    throw invalidArgument(`attentionResolutions[${i}]`, `a downsampling rate, one of ${rates.join(', ')}`, rate)
  }
  if (o.pool === 'attention' && o.numHeadChannels === undefined) {
    throw invalidArgument('numHeadChannels', "a number with pool 'attention'", undefined)
  }
  return o
}
