/** The options of LucidrainsUNet: their documentation, defaults and checks. */
import { DiffusionError, invalidArgument } from '../../errors'
import * as options from '../../options'
import { limits } from '../unet/options'

/** Keyword arguments of denoising-diffusion-pytorch's Unet, camelCased, and the size of the images. */
export interface LucidrainsUNetOptions {
  /** Which network it is, for `unetConfig`. */
  architecture: 'lucidrains'
  /** Channels that `dimMults` multiplies; the time embedding has 4 * dim. */
  dim: number
  /** Height and width of the images in pixels, a multiple of 2^(levels - 1). GaussianDiffusion's image_size. Default 128. */
  imageSize?: number
  /** Channels after the first convolution. Default dim. */
  initDim?: number
  /** Channels of the output. Default `channels`, twice that with learnedVariance. */
  outDim?: number
  /** Channels of the levels, in units of dim. Default [1, 2, 4, 8]. */
  dimMults?: readonly number[]
  /** Channels of the images. Default 3. */
  channels?: number
  /** The network is given its own last estimate of x_0 beside x: Chen et al. 2023. Default false. */
  selfCondition?: boolean
  /** The output has twice the channels, the second half for `varianceType: 'learned_range'`. Default false. */
  learnedVariance?: boolean
  /** Not available, as GaussianDiffusion refuses it too: true is refused. Default false. */
  learnedSinusoidalCond?: boolean
  /** As learnedSinusoidalCond. Default false. */
  randomFourierFeatures?: boolean
  /** Longest period of the timestep's sinusoids, in timesteps. Default 10000. */
  sinusoidalPosEmbTheta?: number
  /** Chance that an element of a residual block is dropped in training. Default 0. */
  dropout?: number
  /** Channels of an attention head, of all levels or of each. Default 32. */
  attnDimHead?: number | readonly number[]
  /** Attention heads, of all levels or of each. Default 4. */
  attnHeads?: number | readonly number[]
  /** Whether a level has softmax attention in place of linear attention, for all levels or each. Default: the last alone. */
  fullAttn?: boolean | readonly boolean[]
  /** Has no effect: the numbers are the same. Default false. */
  flashAttn?: boolean
}

const count = (fallback?: number) => options.integer(fallback as number, { min: 1, max: limits.channels })
const optionalCount = () => options.integer(undefined, { min: 1, max: limits.channels })
const isCount = (v: unknown) => Number.isSafeInteger(v) && Number(v) >= 1 && Number(v) <= limits.channels
const oneOrMore = (test: (v: unknown) => boolean) => (v: unknown) => (Array.isArray(v) ? v.every(test) : test(v))
const counts = () =>
  options.value<number | readonly number[]>('a number of at least 1, or one of each level', oneOrMore(isCount))

const schema = {
  architecture: options.required(options.oneOf(['lucidrains'])),
  dim: options.required(count()),
  imageSize: options.integer(128, { min: 1, max: limits.imageSize }),
  initDim: optionalCount(),
  outDim: optionalCount(),
  dimMults: options.array(count(), [1, 2, 4, 8], limits.levels),
  channels: count(3),
  selfCondition: options.boolean(false),
  learnedVariance: options.boolean(false),
  learnedSinusoidalCond: options.boolean(false),
  randomFourierFeatures: options.boolean(false),
  sinusoidalPosEmbTheta: options.number(10000, { min: 1, max: 1e30 }),
  dropout: options.number(0, { min: 0, max: 0.999999 }),
  attnDimHead: counts(),
  attnHeads: counts(),
  fullAttn: options.value<boolean | readonly boolean[]>(
    'true, false, or one of each level',
    oneOrMore((v) => typeof v === 'boolean'),
  ),
  flashAttn: options.boolean(false),
} satisfies options.SchemaOf<LucidrainsUNetOptions>

const notAvailable = ['learnedSinusoidalCond', 'randomFourierFeatures'] as const

/** Options with their defaults, those of levels as lists. Throws `unknown-option`, `invalid-argument` and `unsupported`. */
export function resolveLucidrainsOptions(given: LucidrainsUNetOptions) {
  const { flashAttn: _, ...o } = options.parseOptions('LucidrainsUNet', given, schema)
  for (const name of notAvailable) {
    if (o[name]) throw new DiffusionError('unsupported', `${name}: true is not available`, { argument: name })
  }
  const levels = o.dimMults.length
  if (levels === 0) throw invalidArgument('dimMults', 'an entry for each level', o.dimMults)
  if (o.dim % 2 !== 0) throw invalidArgument('dim', 'an even number', o.dim)
  if (o.dim < 4) throw invalidArgument('dim', 'at least 4', o.dim)
  const widest = Math.max(...o.dimMults) * o.dim
  if (widest > limits.channels) throw invalidArgument('dimMults', `at most ${limits.channels} channels`, o.dimMults)
  if (o.imageSize % 2 ** (levels - 1) !== 0) {
    throw invalidArgument('imageSize', `a multiple of ${2 ** (levels - 1)} (2^(levels - 1))`, o.imageSize)
  }
  const each = <T>(name: string, value: T | readonly T[]): T[] => {
    const list = Array.isArray(value) ? [...value] : Array.from({ length: levels }, () => value as T)
    if (list.length !== levels) throw invalidArgument(name, `one of each of ${levels} levels`, value)
    return list
  }
  // Theirs takes false, too, for the default.
  const fullAttn = o.fullAttn || o.dimMults.map((__, level) => level === levels - 1)
  return {
    ...o,
    initDim: o.initDim ?? o.dim,
    outDim: o.outDim ?? o.channels * (o.learnedVariance ? 2 : 1),
    attnDimHead: each('attnDimHead', o.attnDimHead ?? 32),
    attnHeads: each('attnHeads', o.attnHeads ?? 4),
    fullAttn: each('fullAttn', fullAttn),
  }
}

/**
 * LucidrainsUNetOptions with all defaults filled in.
 * @interface
 */
export type ResolvedLucidrainsOptions = Readonly<ReturnType<typeof resolveLucidrainsOptions>>
