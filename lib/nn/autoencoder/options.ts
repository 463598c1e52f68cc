/** The options of an autoencoder: their documentation, defaults and checks. */
import { invalidArgument } from '../../errors'
import * as options from '../../options'
import { limits } from '../unet/options'

/** Of an autoencoder, wherever its other options come from. */
export interface AutoencoderDetails {
  /** Channels of each level as multiples of ch; each level beyond the first halves the map. Default [1, 2, 4, 8]. */
  chMult?: readonly number[]
  /** Probability in [0, 1) that a number is dropped in training. Default 0. */
  dropout?: number
  /** Convolutions in the resampling, not just averaging and repeating. Default true. */
  resampWithConv?: boolean
  /** attnType 'linear', whatever that says. Default false. */
  useLinearAttn?: boolean
  /** 'vanilla': one head over all channels; 'linear': linear attention in place of the map; 'none'. Default 'vanilla'. */
  attnType?: AttentionType
  /** The decoder's output goes through tanh. Default false. */
  tanhOut?: boolean
}

/** The `ddconfig` of latent-diffusion's autoencoders in camelCase: what Encoder and Decoder of its model.py take. */
export interface AutoencoderConfig extends AutoencoderDetails {
  /** Channels of the first level. */
  ch: number
  /** Channels of the decoder's output: 3 for RGB. */
  outCh: number
  /** Residual blocks of a level of the encoder; the decoder has one more. */
  numResBlocks: number
  /** Heights of the map at which levels have attention, where images of `resolution` are halved from level to level. */
  attnResolutions: readonly number[]
  /** Channels of the encoder's input: 3 for RGB. */
  inChannels: number
  /** Height and width that attnResolutions are meant for; images of others work, and have attention in the same levels. */
  resolution: number
  /** Channels of the map between encoder and decoder. */
  zChannels: number
  /** The encoder puts out 2 zChannels: means and log variances, as AutoencoderKL needs. Default true. */
  doubleZ?: boolean
  /** The decoder puts out the map before its last norm and convolution. Default false. */
  givePreEnd?: boolean
}

export type AttentionType = 'vanilla' | 'linear' | 'none'

/** Whose state_dict names: those of latent-diffusion's autoencoders, or of diffusers' AutoencoderKL and VQModel. */
export type AutoencoderLayout = 'ldm' | 'diffusers'

const count = (max: number = limits.channels) => options.integer(undefined, { min: 1, max })

const schema = {
  ch: options.required(count()),
  outCh: options.required(count()),
  chMult: options.array(options.number(undefined, { min: 0, max: limits.mult }), [1, 2, 4, 8], limits.levels),
  numResBlocks: options.required(count(limits.numResBlocks)),
  attnResolutions: options.required(options.array(count(limits.imageSize), undefined, limits.levels)),
  dropout: options.number(0, { min: 0, max: 0.999999 }),
  resampWithConv: options.boolean(true),
  inChannels: options.required(count()),
  resolution: options.required(count(limits.imageSize)),
  zChannels: options.required(count()),
  doubleZ: options.boolean(true),
  useLinearAttn: options.boolean(false),
  attnType: options.oneOf<AttentionType>(['vanilla', 'linear', 'none'], 'vanilla'),
  givePreEnd: options.boolean(false),
  tanhOut: options.boolean(false),
} satisfies options.SchemaOf<AutoencoderConfig>

/** What the networks are made of, whoever's configuration it came from. */
export interface AutoencoderShape {
  readonly layout: AutoencoderLayout
  readonly inChannels: number
  readonly outChannels: number
  readonly zChannels: number
  /** The encoder puts out twice as many channels as the decoder takes. */
  readonly doubleZ: boolean
  /** Channels after the encoder's first convolution. */
  readonly stem: number
  /** Channels of each level, the finest first. */
  readonly channels: readonly number[]
  readonly numResBlocks: number
  /** Which levels of the encoder, and of the decoder, have attention; the finest first. */
  readonly encoderAttention: readonly boolean[]
  readonly decoderAttention: readonly boolean[]
  readonly middleAttention: boolean
  readonly attnType: AttentionType
  readonly normGroups: number
  readonly dropout: number
  readonly resampWithConv: boolean
  readonly givePreEnd: boolean
  readonly tanhOut: boolean
  /** Height and width of the images that it is configured for. */
  readonly resolution: number
}

/** model.py's Normalize. */
const normGroups = 32

/** Throws `unknown-option` and `invalid-argument`. */
export function autoencoderShape(ddconfig: AutoencoderConfig): AutoencoderShape {
  const o = options.parseOptions('ddconfig', ddconfig, schema)
  if (o.chMult.length === 0) throw invalidArgument('chMult', 'an entry for each level', o.chMult)
  const channels = o.chMult.map((mult) => o.ch * mult)
  const attnType = o.useLinearAttn ? 'linear' : o.attnType
  const { down, up } = heightsOf(channels.length, o.resolution)
  const has = (resolution: number) => o.attnResolutions.includes(resolution)
  return checkedShape({
    layout: 'ldm',
    inChannels: o.inChannels,
    outChannels: o.outCh,
    zChannels: o.zChannels,
    doubleZ: o.doubleZ,
    stem: o.ch,
    channels,
    numResBlocks: o.numResBlocks,
    encoderAttention: down.map(has),
    decoderAttention: up.map(has),
    middleAttention: true,
    attnType,
    normGroups,
    dropout: o.dropout,
    resampWithConv: o.resampWithConv,
    givePreEnd: o.givePreEnd,
    tanhOut: o.tanhOut,
    resolution: o.resolution,
  })
}

/** The way back, of a shape in ldm's layout. */
export function ddconfigOf(s: AutoencoderShape): AutoencoderConfig {
  const { down, up } = heightsOf(s.channels.length, s.resolution)
  const attended = [
    ...down.filter((_, level) => s.encoderAttention[level]),
    ...up.filter((_, level) => s.decoderAttention[level]),
  ]
  return {
    ch: s.stem,
    outCh: s.outChannels,
    chMult: s.channels.map((channels) => channels / s.stem),
    numResBlocks: s.numResBlocks,
    attnResolutions: [...new Set(attended)],
    dropout: s.dropout,
    resampWithConv: s.resampWithConv,
    inChannels: s.inChannels,
    resolution: s.resolution,
    zChannels: s.zChannels,
    doubleZ: s.doubleZ,
    attnType: s.attnType,
    givePreEnd: s.givePreEnd,
    tanhOut: s.tanhOut,
  }
}

/** Heights of the map by level. Halved and rounded down on the way down; on the way up doubled from what was left. */
function heightsOf(levels: number, resolution: number): { down: number[]; up: number[] } {
  const down = Array.from({ length: levels }, (_, level) => Math.floor(resolution / 2 ** level))
  return { down, up: down.map((_, level) => down[levels - 1] * 2 ** (levels - 1 - level)) }
}

/** Throws `invalid-argument` for channels that the norms cannot split. */
export function checkedShape(shape: AutoencoderShape): AutoencoderShape {
  const { channels, normGroups: groups, layout } = shape
  for (const count of [shape.stem, ...channels]) {
    if (Number.isSafeInteger(count) && count > 0 && count <= limits.channels && count % groups === 0) continue
    const argument = layout === 'ldm' ? 'ch' : 'block_out_channels'
    throw invalidArgument(argument, `channels of each level that are multiples of ${groups}`, channels)
  }
  return shape
}
