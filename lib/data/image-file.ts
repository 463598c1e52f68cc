/** Image files to pixels, whatever their size and mode. Files are not trusted: image-limits.ts. */
import type { Metadata, Sharp } from 'sharp'
import { invalidArgument } from '../errors'
import { Tensor } from '../tensor'
import { decodingFailure } from './decode-failure'
import { withDecodeRoom } from './decode-room'
import { readImageBytes } from './image-bytes'
import {
  bad,
  decodeCost,
  type Format,
  formatOf,
  headLength,
  maxDecodeBytes,
  maxDecodeSeconds,
  maxPixels,
} from './image-limits'
import { sharp } from './load-sharp'
import { centre, type Fit, type Look, type Picture, toSigned } from './picture'
import { checkSides, fitted } from './resample'
import type { Range } from './sources/source'

export interface FileOptions {
  /** SVGs are read too; what they do is not bounded (default false). */
  readonly svg?: boolean
  /** Black and white of images of floats (default: they are refused). */
  readonly range?: Range
}

const inputOptions = { failOn: 'truncated', limitInputPixels: maxPixels } as const

/** sharp's words for it. */
const sharpFit: Readonly<Record<Fit, 'cover' | 'outside' | 'fill'>> = { crop: 'cover', cover: 'outside', fill: 'fill' }

/**
 * Decodes an image file as it is wanted: in 8 bits, in 16 where it has them, in floats where it has these and `range` is given.
 * Upright by its EXIF orientation, in sRGB or grey, flattened onto the background; with 2 or 4 channels the last one is its alpha. Of
 * an animation the first frame counts. Throws `bad-file` for what can't be decoded whole or is beyond the limits; where it can't be
 * read (`io`, `not-found`), takes more than maxDecodeSeconds (`io`) or the memory is short (`out-of-memory`), the image is not to
 * blame.
 */
export async function decodeImage(file: string, look: Look, o: FileOptions = {}): Promise<Picture> {
  return decodeBytes(await readImageBytes(file, maxDecodeBytes), file, look, o)
}

/** The same of a file's bytes; `file` is its name in messages. */
export async function decodeBytes(bytes: Uint8Array, file: string, look: Look, o: FileOptions = {}): Promise<Picture> {
  if (look.channels > 4) {
    throw invalidArgument('channels', 'at most 4 for images, whose channels are grey or RGB, and alpha', look.channels)
  }
  const format = formatOf(bytes.subarray(0, headLength), file, o)
  const image = sharp()(bytes, inputOptions)
  const { metadata, cost } = await headerOf(image, format, file, o)
  checkSides(metadata.autoOrient, look, file)
  const decode = decoders[metadata.depth ?? ''] ?? decode8
  const picture = await withDecodeRoom(cost, () => decode(image, look, { metadata, file, range: o.range })).catch(
    (error) => {
      throw decodingFailure(file, error)
    },
  )
  if (picture.channels === look.channels) return picture
  throw bad(file, `decoded to ${picture.channels} channels instead of ${look.channels}`)
}

/** [height, width, channels], of sharp's raw output in the array's type. */
async function pixelsOf(image: Sharp, depth: 'uchar' | 'ushort' | 'float'): Promise<Picture> {
  const { data, info } = await image
    .raw({ depth })
    .timeout({ seconds: maxDecodeSeconds })
    .toBuffer({ resolveWithObject: true })
  const { height, width, channels } = info
  const aligned = data.byteOffset % 4 === 0 ? data : Uint8Array.from(data)
  const size = height * width * channels
  const Kind = { uchar: Uint8Array, ushort: Uint16Array, float: Float32Array }[depth]
  return { data: new Kind(aligned.buffer as ArrayBuffer, aligned.byteOffset, size), height, width, channels }
}

const resize = (image: Sharp, { width, height, fit }: Look) =>
  image.resize(width, height, { fit: sharpFit[fit], position: 'centre' })

function decode8(image: Sharp, look: Look): Promise<Picture> {
  const { channels, background } = look
  const upright = image.pipelineColourspace('srgb').autoOrient()
  const opaque = channels % 2 === 0 ? upright.ensureAlpha() : upright.flatten({ background })
  const scaled = resize(opaque, look)
  if (channels === 2) return pixelsOf(scaled.toColourspace('grey16'), 'ushort') // 'b-w' would drop the alpha
  return pixelsOf(scaled.toColourspace(channels === 1 ? 'b-w' : 'srgb'), 'uchar')
}

/** sharp takes an 8-bit background for flattening, which would leave white at 254: the alpha is applied here. */
async function decode16(image: Sharp, look: Look): Promise<Picture> {
  const { channels, background } = look
  const colours = channels < 3 ? 1 : 3
  const upright = resize(image.pipelineColourspace('rgb16').autoOrient(), look)
  const picture = await pixelsOf(upright.toColourspace(colours === 1 ? 'grey16' : 'rgb16'), 'ushort')
  const { data, height, width } = picture
  if (picture.channels === channels) return picture
  const hasAlpha = picture.channels === colours + 1
  const [red, green, blue] = hasAlpha ? await colourOf(background) : [0, 0, 0]
  const behind = colours === 3 ? [red, green, blue] : [Math.round(0.2126 * red + 0.7152 * green + 0.0722 * blue)]
  const out = new Uint16Array(height * width * channels)
  for (let p = 0; p < height * width; p++) {
    const from = p * picture.channels
    const alpha = hasAlpha ? data[from + colours] / 65535 : 1
    for (let c = 0; c < channels; c++) {
      const value = c < colours ? data[from + c] : 65535
      out[p * channels + c] = c < colours ? Math.round(alpha * value + (1 - alpha) * 257 * behind[c]) : value
    }
  }
  return { data: out, height, width, channels }
}

/** Red, green and blue, 0 to 255. */
async function colourOf(background: string): Promise<Uint8Array> {
  return sharp()({ create: { width: 1, height: 1, channels: 3, background } })
    .raw()
    .toBuffer()
}

interface FloatImage {
  readonly metadata: Metadata
  readonly file: string
  readonly range?: Range
}

/** Scaled here, so that the numbers are checked before: those beyond black and white say that they are others. */
async function decodeFloats(image: Sharp, look: Look, { metadata, file, range }: FloatImage): Promise<Picture> {
  const { channels, space } = metadata
  if (channels !== look.channels || channels % 2 === 0) {
    throw bad(file, `it has ${channels} channels of floats, where ${look.channels} without alpha are wanted`)
  }
  const picture = await pixelsOf(image.autoOrient().toColourspace(space ?? 'scrgb'), 'float')
  const data = signedFloats(picture.data, range!)
  if (!data) throw bad(file, `it has floats outside of its range, ${range!.join(' to ')}`)
  return fitted({ ...picture, data }, look, file)
}

/** By sharp's names of the samples. */
const decoders: Readonly<Record<string, typeof decodeFloats>> = {
  uchar: decode8,
  ushort: decode16,
  float: decodeFloats,
  double: decodeFloats,
}

/** From [black, white] to [-1, 1]; undefined where one lies outside, or is none. */
export function signedFloats(values: ArrayLike<number>, [black, white]: Range): Float32Array | undefined {
  const half = (white - black) / 2
  const slack = 1e-4 // what other tools' rounding leaves
  const out = new Float32Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const v = (values[i] - black) / half - 1
    if (!(Math.abs(v) <= 1 + slack)) return undefined
    out[i] = Math.max(-1, Math.min(1, v))
  }
  return out
}

/** Of readImage. */
export interface ReadImageOptions {
  /** Height and width in pixels: one number for both, or two. */
  size: number | readonly [height: number, width: number]
  /** 1 for grey, 3 for RGB; 2 and 4 with alpha. Default 3. */
  channels?: 1 | 2 | 3 | 4
  /** What shows through transparent pixels: a CSS colour. Default 'white'. */
  background?: string
  /** Read an SVG, too, whose decoding is not bounded. Default false. */
  svg?: boolean
  /** Black and white of an image of floats, such as [0, 1]. Default: it is refused. */
  range?: readonly [black: number, white: number]
}

/**
 * An image file as [1, channels, height, width] in [-1, 1], scaled and cropped as training images are. Throws `bad-file` with what is
 * wrong with it, or the limit that it is beyond; `not-found` and `io`.
 */
export async function readImage(file: string, options: ReadImageOptions): Promise<Tensor> {
  const { size, channels = 3, background = 'white', svg, range } = options
  const [height, width] = typeof size === 'number' ? [size, size] : size
  const picture = await decodeImage(file, { height, width, channels, background, fit: 'crop' }, { svg, range })
  const pixels = new Float32Array(channels * height * width)
  toSigned(picture, centre(picture, { height, width }), pixels)
  return Tensor.wrap(pixels, [1, channels, height, width])
}

export interface Extent {
  readonly height: number
  readonly width: number
}

/**
 * Reads the header only: height and width, upright. Throws as decodeImage does where it is not that of an image which may be decoded.
 */
export async function checkImageHeader(file: string, o: FileOptions = {}): Promise<Extent> {
  const format = formatOf(await readImageBytes(file, headLength, { part: true }), file, o)
  const metadata = await sharp()(file, inputOptions)
    .metadata()
    .catch(() => undefined)
  if (metadata) {
    decodeCost(metadata, format, file, { floats: o.range !== undefined })
    return metadata.autoOrient
  }
  // Damaged, or it can't be read just now, which sharp does not tell apart.
  return extentOf(await readImageBytes(file, maxDecodeBytes), file, o)
}

/** The same of a file's bytes. */
export async function extentOf(bytes: Uint8Array, file: string, o: FileOptions = {}): Promise<Extent> {
  const format = formatOf(bytes.subarray(0, headLength), file, o)
  return (await headerOf(sharp()(bytes, inputOptions), format, file, o)).metadata.autoOrient
}

async function headerOf(image: Sharp, format: Format, file: string, { range }: FileOptions) {
  const metadata = await image.metadata().catch((error) => {
    throw decodingFailure(file, error)
  })
  return { metadata, cost: decodeCost(metadata, format, file, { floats: range !== undefined }) }
}
