/** The options of UNet: their documentation, defaults and checks. */
import { invalidArgument } from '../../errors'
import * as options from '../../options'
import type { Layout } from './blocks'
import { type VectorEmbedding, vectorEmbeddings, vectorOptions } from './vector-embedding'

/** Options of UNet that have defaults. */
export interface UNetDetails {
  /** Width of the images that it is meant for, where it is another than their height. Default imageSize. */
  imageWidth?: number
  /** Probability in [0, 1) that a number is dropped in training. Default 0. */
  dropout?: number
  /**
   * Training keeps of a residual block or attention only what it puts out, and computes the rest again in the backward pass (Chen
   * et al. 2016): less memory, more time, the same numbers to the bit. openaimodel's use_checkpoint. Default false.
   */
  useCheckpoint?: boolean
  /**
   * Give the network its own last estimate of x_0 (Chen et al. 2023, section 3): in half of the training steps, and from step to step in
   * sampling. Default false.
   */
  selfCondition?: boolean
  /** Channels of each level as multiples of modelChannels. Default [1, 2, 4, 8]. */
  channelMult?: readonly number[]
  /** Convolutions in the up- and downsampling, not just repeating and averaging. Default true. */
  convResample?: boolean
  /** Classes of a class-conditional network. Default: unconditional. */
  numClasses?: number
  /** Attention heads; without effect where numHeadChannels is given. Default 1. */
  numHeads?: number
  /** Channels of a head. Default: as many as numHeads leaves. */
  numHeadChannels?: number
  /** Heads on the way up; without effect with numHeadChannels or `legacy` false. Default numHeads. */
  numHeadsUpsample?: number
  /** The time embedding scales and shifts in the residual blocks' second norm. Default false: it is added before. */
  useScaleShiftNorm?: boolean
  /** Residual blocks do the up- and downsampling. Default false. */
  resblockUpdown?: boolean
  /** q, k and v are split first and then into heads. Default false: heads first. */
  useNewAttentionOrder?: boolean
  /** See numHeadsUpsample, and below for transformers. Default true. */
  legacy?: boolean
  /**
   * Where there is attention, transformer blocks with self-attention and cross-attention to context tokens. With
   * `legacy` the heads share all channels of a level, else a head has numHeadChannels. Default false.
   */
  useSpatialTransformer?: boolean
  /** Blocks of a transformer; or a number for each level, the last of which is the middle's, too. Default 1. */
  transformerDepth?: number | readonly number[]
  /** A transformer's first and last layer are linear ones, whose weights have another shape than those of 1x1 convolutions. Default false. */
  useLinearInTransformer?: boolean
  /** Channels of a context token. Needed with useSpatialTransformer. */
  contextDim?: number
  /**
   * How many of inChannels, the last ones, are a map that the network is told of each sample (DiffusionWrapper's `concat`): what is
   * sampled has the others. Default 0.
   */
  concatChannels?: number
  /** Numbers of the vector that the network is told of each sample. Default: those that vectorEmbedding implies, else no vector. */
  vectorDim?: number
  /**
   * How the vector becomes a part of the time embedding: 'mlp' through two linear layers (openaimodel's num_classes 'sequential' with
   * adm_in_channels, SDXL; default), 'identity' as it is, with timeEmbeddingDim numbers (diffusers' class_embed_type), 'augment' through
   * a layer without bias in front of those of the time embedding: what was done to an image in training, 9 numbers (Karras et al. 2022,
   * F.2, map_augment); it may be left out, which is as zeros. Not with numClasses, but for 'augment'.
   */
  vectorEmbedding?: VectorEmbedding

  /** Names in the state_dict and kind of the attention's projections: one for q, k and v or three. Default 'openai'. */
  layout?: Layout
  /** Groups of the norms; 0: a quarter of the channels, at most 32. Default 32. */
  normGroups?: number
  /** Added to the variances in the norms. Default 1e-5. */
  normEps?: number
  /** Frequencies of the time embedding are 10000^(-i / (half - freqShift)). Default 0. */
  freqShift?: number
  /** The time embedding is cosines, then sines. Default true. */
  flipSinToCos?: boolean
  /** Padding of the downsampling convolutions. 1: on all sides; 0: one row and column at the bottom and right. Default 1. */
  downsamplePadding?: 0 | 1
  /** The input is scaled from [0, 1] to [-1, 1]: 2x - 1. Default false. */
  centerInput?: boolean
  /** Downsampling rates with attention on the way up. Default attentionResolutions. */
  upAttentionResolutions?: readonly number[]
  /**
   * Downsampling rates of diffusers' SkipDownBlock2D: beside the residual blocks, whose sums are divided by sqrt(2), the picture
   * itself is halved by a filter and becomes a part of the map. Norms have a quarter of their channels as groups, at most 32.
   * The first levels, and perhaps the lowest, of a network of 3 channels in and out. Default none.
   */
  skipDownResolutions?: readonly number[]
  /** The same on the way up, SkipUpBlock2D: the first levels each add to a picture that is a part of the output. Default none. */
  skipUpResolutions?: readonly number[]
  /** Downsampling rates that are left by a residual block on the way down. Default by resblockUpdown. */
  resblockDownResolutions?: readonly number[]
  /** Downsampling rates that are left by a residual block on the way up. Default by resblockUpdown. */
  resblockUpResolutions?: readonly number[]
  /**
   * How a class label becomes a part of the time embedding: 'table' has a row for each class, 'timestep' takes it for a number as the
   * timestep is. Default 'table'.
   */
  classEmbedding?: 'table' | 'timestep'
  /**
   * What the linear layers of the time embedding are given of the timestep t: 'sinusoidal', waves of fixed frequencies of t;
   * 'fourier', waves of random frequencies of log(t), where the output is divided by t, which can't be 0 then (Song et al.
   * 2021, NCSN++); 'learned', a row of a table. Default 'sinusoidal'.
   */
  timeEmbedding?: 'sinusoidal' | 'fourier' | 'learned'
  /** Timesteps that have a row in the table of timeEmbedding 'learned', and needed there. */
  numTimesteps?: number
  /** Channels of the time embedding. Default 4 * modelChannels. */
  timeEmbeddingDim?: number
  /** The two residual blocks, with attention between them, at the lowest resolution. Default true. */
  middleBlock?: boolean
  /** What the residual blocks and the attention in the middle put out is divided by this. Default 1. */
  middleScale?: number
  /** Attention between the two residual blocks in the middle. Default true. */
  middleAttention?: boolean
  /** Groups of the norm before that attention; 0: no norm there. Default normGroups. */
  middleNormGroups?: number
}

/** openaimodel.UNetModel's keyword arguments in camelCase, and what tells diffusers' UNet2DModel from it. */
export interface UNetOptions extends UNetDetails {
  /** Height and width of the images that it is meant for, a multiple of 2^(levels - 1). */
  imageSize: number
  /** Channels of the input: 3 for RGB. */
  inChannels: number
  /** Channels of the first level. */
  modelChannels: number
  /** Channels of the output: as many as of the input, or twice as many for a learned variance. */
  outChannels: number
  /** Residual blocks of a level on the way down; there is one more on the way up. */
  numResBlocks: number
  /** Downsampling rates with attention: 2 is the level of half the resolution. */
  attentionResolutions: readonly number[]
}

/**
 * Beyond any network that was trained. Within these it takes moments to find out what layers a configuration means, and whether
 * a file has them.
 */
export const limits = {
  imageSize: 2 ** 14,
  channels: 2 ** 14,
  embeddingChannels: 2 ** 16,
  levels: 12,
  /** A level's channels in multiples of the first's. */
  mult: 64,
  numResBlocks: 128,
  transformerDepth: 128,
  /** Residual blocks on the way down, each with as many blocks as its transformer is deep. */
  blocks: 4096,
  numClasses: 2 ** 20,
  numTimesteps: 2 ** 20,
  contextDim: 2 ** 16,
  /** All numbers that are trained: 16 GiB. */
  parameters: 2 ** 32,
}

const count = (fallback?: number, max: number = limits.channels) => {
  return options.integer(fallback as number, { min: 1, max })
}
/** -1 means "not given" in Python's configurations. */
const optionalCount = () => ({
  fallback: undefined as number | undefined,
  check: (value: unknown, name: string): number => (value === -1 ? -1 : count().check(value, name)),
})

/** One number, or one for each level. */
function depths(): options.Field<number | readonly number[]> {
  const one = count(1, limits.transformerDepth)
  const each = options.array(one, undefined, limits.levels)
  return { fallback: 1, check: (given, name) => (Array.isArray(given) ? each : one).check(given, name) as number }
}

const schema = {
  imageSize: options.required(count(undefined, limits.imageSize)),
  imageWidth: options.integer(undefined, { min: 1, max: limits.imageSize }),
  inChannels: options.required(count()),
  modelChannels: options.required(count()),
  outChannels: options.required(count()),
  numResBlocks: options.required(count(undefined, limits.numResBlocks)),
  attentionResolutions: options.required(options.array(count(), undefined, limits.levels)),
  dropout: options.number(0, { min: 0, max: 1 }),
  useCheckpoint: options.boolean(false),
  selfCondition: options.boolean(false),
  channelMult: options.array(options.number(undefined, { min: 0, max: limits.mult }), [1, 2, 4, 8], limits.levels),
  convResample: options.boolean(true),
  numClasses: options.integer(undefined, { min: 1, max: limits.numClasses }),
  numHeads: optionalCount(),
  numHeadChannels: optionalCount(),
  numHeadsUpsample: optionalCount(),
  useScaleShiftNorm: options.boolean(false),
  resblockUpdown: options.boolean(false),
  useNewAttentionOrder: options.boolean(false),
  legacy: options.boolean(true),
  useSpatialTransformer: options.boolean(false),
  transformerDepth: depths(),
  useLinearInTransformer: options.boolean(false),
  contextDim: options.integer(undefined, { min: 1, max: limits.contextDim }),
  concatChannels: options.integer(0, { min: 0, max: limits.channels }),
  vectorDim: options.integer(undefined, { min: 1, max: limits.contextDim }),
  vectorEmbedding: options.oneOf(vectorEmbeddings),
  layout: options.oneOf<Layout>(['openai', 'diffusers'], 'openai'),
  normGroups: options.integer(32, { min: 0, max: limits.channels }),
  normEps: options.number(1e-5, { min: 0 }),
  freqShift: options.number(0, { min: 0 }),
  flipSinToCos: options.boolean(true),
  downsamplePadding: options.integer(1, { min: 0, max: 1 }) as options.Field<0 | 1>,
  middleScale: options.number(1, { min: 1e-6, max: 1e6 }),
  centerInput: options.boolean(false),
  upAttentionResolutions: options.array(count(), undefined, limits.levels),
  skipDownResolutions: options.array(count(), [], limits.levels),
  skipUpResolutions: options.array(count(), [], limits.levels),
  resblockDownResolutions: options.array(count(), undefined, limits.levels),
  resblockUpResolutions: options.array(count(), undefined, limits.levels),
  classEmbedding: options.oneOf(['table', 'timestep'], 'table'),
  timeEmbedding: options.oneOf(['sinusoidal', 'fourier', 'learned'], 'sinusoidal'),
  numTimesteps: options.integer(undefined, { min: 1, max: limits.numTimesteps }),
  timeEmbeddingDim: options.integer(undefined, { min: 1, max: limits.embeddingChannels }),
  middleBlock: options.boolean(true),
  middleAttention: options.boolean(true),
  middleNormGroups: options.integer(undefined, { min: 0, max: limits.channels }),
}

/**
 * UNetOptions with all defaults filled in.
 * @interface
 */
export type ResolvedUNetOptions = Readonly<ReturnType<typeof resolveUNetOptions>>

/** Options with their defaults. Throws `unknown-option` and `invalid-argument`. */
export function resolveUNetOptions(given: UNetOptions) {
  const o = options.parseOptions('UNet', given, schema)
  if (o.dropout === 1) throw invalidArgument('dropout', 'a number from 0 and below 1', o.dropout)
  const levels = o.channelMult.length
  if (levels === 0) throw invalidArgument('channelMult', 'an entry for each level', o.channelMult)
  if (levels * o.numResBlocks * Math.max(...depthsOf(o)) > limits.blocks) {
    const expected = `at most ${limits.blocks} blocks in ${levels} levels, with those of their transformers`
    throw invalidArgument('numResBlocks', expected, o.numResBlocks)
  }
  // The last norm and convolution work on the first level's channels: openaimodel declares them with model_channels.
  if (o.channelMult[0] !== 1) throw invalidArgument('channelMult[0]', '1', o.channelMult[0])
  for (const [i, channels] of levelChannels(o).entries()) {
    checkMultiple(`modelChannels * channelMult[${i}]`, channels, groupsOf(channels, o.normGroups), 'normGroups')
  }
  checkMultiple('imageSize', o.imageSize, 2 ** (levels - 1), '2^(levels - 1)')
  if (o.imageWidth) checkMultiple('imageWidth', o.imageWidth, 2 ** (levels - 1), '2^(levels - 1)')
  const rates = o.channelMult.map((_, level) => 2 ** level)
  for (const name of rateOptions) {
    for (const [i, rate] of (o[name] ?? []).entries()) {
      // These are rates, but are easily taken for sizes; such a network would silently have no attention.
      if (rates.includes(rate)) continue
      throw invalidArgument(`${name}[${i}]`, `a downsampling rate, one of ${rates.join(', ')}`, rate)
    }
  }
  if (o.concatChannels >= o.inChannels) {
    throw invalidArgument('concatChannels', `fewer than inChannels, ${o.inChannels}`, o.concatChannels)
  }
  checkSkips(o)
  const [down, up] = resamplers(o)
  if ((o.timeEmbedding === 'learned') !== (o.numTimesteps !== undefined)) {
    const expected =
      o.numTimesteps === undefined ? "a number with timeEmbedding 'learned'" : "nothing without timeEmbedding 'learned'"
    throw invalidArgument('numTimesteps', expected, o.numTimesteps)
  }
  if (o.classEmbedding === 'timestep' && o.numClasses === undefined) {
    throw invalidArgument('numClasses', "a number with classEmbedding 'timestep'", undefined)
  }
  if (o.classEmbedding === 'timestep' && o.numTimesteps && o.numClasses! > o.numTimesteps) {
    throw invalidArgument(
      'numClasses',
      `at most numTimesteps with classEmbedding 'timestep', ${o.numTimesteps}`,
      o.numClasses,
    )
  }
  checkTransformer(o)
  if (o.layout === 'diffusers') {
    if (!o.convResample) throw invalidArgument('convResample', "true with layout 'diffusers'", false)
    if (o.useNewAttentionOrder) throw invalidArgument('useNewAttentionOrder', "false with layout 'diffusers'", true)
  } else if (o.timeEmbedding !== 'sinusoidal') {
    throw invalidArgument('timeEmbedding', `'sinusoidal' with layout '${o.layout}'`, o.timeEmbedding)
  }
  const padless = new Set([...down, ...o.skipDownResolutions.filter((rate) => rate < 2 ** (levels - 1))])
  if (o.downsamplePadding === 0 && levels > 1 && (!o.convResample || padless.size === levels - 1)) {
    throw invalidArgument('downsamplePadding', '1 where no convolution does the downsampling', 0)
  }
  const { middleNormGroups = groupsOf(levelChannels(o)[levels - 1], o.normGroups) } = o
  if (middleNormGroups > 0) {
    checkMultiple(
      'modelChannels * channelMult[last]',
      levelChannels(o)[levels - 1],
      middleNormGroups,
      'middleNormGroups',
    )
  }
  if (o.useSpatialTransformer && o.middleScale !== 1) {
    throw invalidArgument('middleScale', '1 with useSpatialTransformer', o.middleScale)
  }
  if (o.useSpatialTransformer && middleNormGroups !== o.normGroups) {
    throw invalidArgument('middleNormGroups', 'normGroups with useSpatialTransformer', middleNormGroups)
  }
  const timeEmbeddingDim = o.timeEmbeddingDim ?? 4 * o.modelChannels
  const heads = (value: number | undefined) => (value === -1 ? undefined : value)
  const numHeads = heads(o.numHeads) ?? 1
  return {
    ...o,
    imageWidth: o.imageWidth === o.imageSize ? undefined : o.imageWidth,
    upAttentionResolutions: o.upAttentionResolutions ?? o.attentionResolutions,
    resblockDownResolutions: down,
    resblockUpResolutions: up,
    resblockUpdown: levels > 1 ? down.length + up.length === 2 * (levels - 1) : o.resblockUpdown,
    timeEmbeddingDim,
    ...vectorOptions({ ...o, timeEmbeddingDim }),
    middleNormGroups,
    numHeads,
    numHeadChannels: heads(o.numHeadChannels),
    numHeadsUpsample: heads(o.numHeadsUpsample) ?? numHeads,
  }
}

/** 0: a quarter of the channels, at most 32. */
export function groupsOf(channels: number, groups = 0): number {
  return groups || Math.min(Math.floor(channels / 4), 32)
}

/** A picture that skipped a level would have another size than the next level's map. */
function checkSkips(o: {
  layout: Layout
  selfCondition: boolean
  concatChannels: number
  inChannels: number
  outChannels: number
  channelMult: readonly number[]
  skipDownResolutions: readonly number[]
  skipUpResolutions: readonly number[]
}): void {
  const lowest = 2 ** (o.channelMult.length - 1)
  for (const name of ['skipDownResolutions', 'skipUpResolutions'] as const) {
    if (o[name].length === 0) continue
    if (o.selfCondition) throw invalidArgument('selfCondition', `false with ${name}`, true)
    if (o.concatChannels) throw invalidArgument('concatChannels', `0 with ${name}`, o.concatChannels)
    if (o.layout !== 'diffusers') throw invalidArgument(name, `none with layout '${o.layout}'`, o[name])
    for (const channels of ['inChannels', 'outChannels'] as const) {
      if (o[channels] !== 3) throw invalidArgument(channels, `3 with ${name}`, o[channels])
    }
    const linked = [...new Set(o[name])].filter((rate) => name === 'skipUpResolutions' || rate < lowest)
    if (Math.max(1, ...linked.map((rate) => 2 * rate)) !== 2 ** linked.length) {
      throw invalidArgument(name, 'the first levels, without a gap', o[name])
    }
  }
}

const rateOptions = [
  'attentionResolutions',
  'upAttentionResolutions',
  'skipDownResolutions',
  'skipUpResolutions',
  'resblockDownResolutions',
  'resblockUpResolutions',
] as const

/** The rates that are left by residual blocks on the way down and up, ascending: the lowest is not left downwards, nor 1 upwards. */
function resamplers(o: {
  channelMult: readonly number[]
  resblockUpdown: boolean
  skipDownResolutions: readonly number[]
  skipUpResolutions: readonly number[]
  resblockDownResolutions?: readonly number[]
  resblockUpResolutions?: readonly number[]
}): [number[], number[]] {
  const rates = o.channelMult.map((_, level) => 2 ** level)
  const among = (
    possible: number[],
    skips: readonly number[],
    given: readonly number[] = o.resblockUpdown ? possible : [],
  ) => possible.filter((rate) => given.includes(rate) && !skips.includes(rate))
  return [
    among(rates.slice(0, -1), o.skipDownResolutions, o.resblockDownResolutions),
    among(rates.slice(1), o.skipUpResolutions, o.resblockUpResolutions),
  ]
}

/** Blocks of a transformer at each level. */
export function depthsOf(o: {
  channelMult: readonly number[]
  transformerDepth: number | readonly number[]
}): number[] {
  const { transformerDepth: depth } = o
  return o.channelMult.map((_, level) => (typeof depth === 'number' ? depth : depth[level]))
}

function checkTransformer(o: {
  useSpatialTransformer: boolean
  useLinearInTransformer: boolean
  transformerDepth: number | readonly number[]
  contextDim?: number
  channelMult: readonly number[]
  skipDownResolutions: readonly number[]
  skipUpResolutions: readonly number[]
}): void {
  if (typeof o.transformerDepth !== 'number' && o.transformerDepth.length !== o.channelMult.length) {
    throw invalidArgument('transformerDepth', 'a number, or one for each level', o.transformerDepth)
  }
  if (o.useSpatialTransformer) {
    if (o.contextDim === undefined)
      throw invalidArgument('contextDim', 'a number with useSpatialTransformer', undefined)
    for (const name of ['skipDownResolutions', 'skipUpResolutions'] as const) {
      if (o[name].length > 0) throw invalidArgument(name, 'none with useSpatialTransformer', o[name])
    }
    return
  }
  // openaimodel refuses a context_dim without the transformer as well.
  if (o.contextDim !== undefined)
    throw invalidArgument('contextDim', 'nothing without useSpatialTransformer', o.contextDim)
  if (o.useLinearInTransformer) {
    throw invalidArgument('useLinearInTransformer', 'false without useSpatialTransformer', true)
  }
  if (o.transformerDepth !== 1) {
    throw invalidArgument('transformerDepth', '1 without useSpatialTransformer', o.transformerDepth)
  }
}

/** Channels of each level. */
export function levelChannels(o: { modelChannels: number; channelMult: readonly number[] }): number[] {
  return o.channelMult.map((mult) => {
    const channels = o.modelChannels * mult
    const rounded = Math.round(channels) // 3 * (4 / 3) is not 4 for every pair of integers
    return Math.abs(channels - rounded) < 1e-6 ? rounded : channels
  })
}

function checkMultiple(name: string, value: number, of: number, why: string): void {
  if (value > 0 && value % of === 0) return
  throw invalidArgument(name, `a multiple of ${of} (${why})`, value)
}
