/** One image file to pixels, whatever its size and mode. Files are not trusted: image-limits.ts. */
import type { Sharp } from 'sharp'
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

export interface DecodeOptions {
  /** Height and width of the result. */
  readonly size: number
  readonly channels: 1 | 3
  /** What shows through transparent pixels: a CSS colour. */
  readonly background: string
}

export interface FileOptions {
  /** SVGs are read too; what they do is not bounded (default false). */
  readonly svg?: boolean
}

const inputOptions = { failOn: 'truncated', limitInputPixels: maxPixels } as const

/**
 * Decodes to 8-bit pixels, [size, size, channels] (HWC). Upright by its EXIF orientation, converted to sRGB (or to grey for one
 * channel), flattened onto the background, then scaled to cover the square and cropped at the centre. Of an animation the first
 * frame counts. Throws `bad-file` for what can't be decoded whole or is beyond the limits; where it can't be read (`io`,
 * `not-found`), takes more than maxDecodeSeconds (`io`) or the memory is short (`out-of-memory`), the image is not to blame.
 */
export async function decodeImage(file: string, options: DecodeOptions, o: FileOptions = {}): Promise<Uint8Array> {
  const { size, channels, background } = options
  const bytes = await readImageBytes(file, maxDecodeBytes)
  const format = formatOf(bytes.subarray(0, headLength), file, o)
  const image = sharp()(bytes, inputOptions)
  const cost = await costOf(image, format, file)
  const { data, info } = await withDecodeRoom(cost, () =>
    image
      // Before everything else: flattening 16-bit pixels onto an 8-bit colour would leave white at 254.
      .pipelineColourspace('srgb')
      .autoOrient()
      .flatten({ background })
      .resize(size, size, { fit: 'cover', position: 'centre' })
      .toColourspace(channels === 1 ? 'b-w' : 'srgb')
      .raw({ depth: 'uchar' })
      .timeout({ seconds: maxDecodeSeconds })
      .toBuffer({ resolveWithObject: true }),
  ).catch((error) => {
    throw decodingFailure(file, error)
  })
  if (info.channels !== channels) throw bad(file, `decoded to ${info.channels} channels instead of ${channels}`)
  return new Uint8Array(data.buffer, data.byteOffset, data.length)
}

/** Of readImage. */
export interface ReadImageOptions {
  /** Height and width in pixels. */
  size: number
  /** 1 for grey, 3 for RGB. Default 3. */
  channels?: 1 | 3
  /** What shows through transparent pixels: a CSS colour. Default 'white'. */
  background?: string
  /** Read an SVG, too, whose decoding is not bounded. Default false. */
  svg?: boolean
}

/**
 * An image file as [1, channels, size, size] in [-1, 1], scaled and cropped as training images are. Throws `bad-file` with what is wrong with it, or the limit that it is beyond; `not-found` and `io`.
 */
export async function readImage(file: string, options: ReadImageOptions): Promise<Tensor> {
  const { size, channels = 3, background = 'white', svg } = options
  const bytes = await decodeImage(file, { size, channels, background }, { svg })
  const pixels = new Float32Array(bytes.length)
  toSigned(bytes, { size, channels, flip: false }, pixels)
  return Tensor.wrap(pixels, [1, channels, size, size])
}

/** Reads the header only. Throws as decodeImage does where it is not that of an image which may be decoded. */
export async function checkImageHeader(file: string, o: FileOptions = {}): Promise<void> {
  const format = formatOf(await readImageBytes(file, headLength, { part: true }), file, o)
  const metadata = await sharp()(file, inputOptions)
    .metadata()
    .catch(() => undefined)
  if (metadata) decodeCost(metadata, format, file)
  else {
    // Damaged, or it can't be read just now, which sharp does not tell apart.
    await costOf(sharp()(await readImageBytes(file, maxDecodeBytes), inputOptions), format, file)
  }
}

async function costOf(image: Sharp, format: Format, file: string): Promise<number> {
  const metadata = await image.metadata().catch((error) => {
    throw decodingFailure(file, error)
  })
  return decodeCost(metadata, format, file)
}

/** [size, size, channels] bytes to [channels, size, size] floats in [-1, 1], mirrored left to right where `flip`. */
export function toSigned(
  pixels: Uint8Array,
  o: { size: number; channels: number; flip: boolean },
  out: Float32Array,
): void {
  const { size, channels, flip } = o
  let to = 0
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const from = (y * size + (flip ? size - 1 - x : x)) * channels + c
        out[to++] = pixels[from] / 127.5 - 1
      }
    }
  }
}
