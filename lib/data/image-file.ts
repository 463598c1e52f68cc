/** One image file to pixels, whatever its size and mode. */
import sharp from 'sharp'
import { DiffusionError } from '../errors'
import { Tensor } from '../tensor'
import { isFailureToRead, readImageBytes } from './image-bytes'

export interface DecodeOptions {
  /** Height and width of the result. */
  readonly size: number
  readonly channels: 1 | 3
  /** What shows through transparent pixels: a CSS colour. */
  readonly background: string
}

/** What sharp reads; other files of a folder are not images. */
export const imageExtensions: ReadonlySet<string> = new Set(
  '.png .jpg .jpeg .webp .gif .tif .tiff .avif .heic .heif .svg'.split(' '),
)

/**
 * Decodes to 8-bit pixels, [size, size, channels] (HWC). Upright by its EXIF orientation, converted to sRGB (or to grey for one
 * channel), flattened onto the background, then scaled to cover the square and cropped at the centre.
 * Of an animation the first frame counts. Rejects for anything that cannot be decoded whole; where it can't be read (`io`,
 * `not-found`) or the memory is short (`out-of-memory`), the image is not to blame.
 */
export async function decodeImage(file: string, options: DecodeOptions): Promise<Uint8Array> {
  const bytes = await readImageBytes(file)
  return await decodeBytes(bytes, options).catch((error) => {
    if (!/out of memory|alloc|too many open files|create thread/i.test(error.message)) throw error
    const message = `cannot decode the image ${file}: ${error.message}`
    throw new DiffusionError('out-of-memory', message, { argument: 'file', received: file, cause: error })
  })
}

async function decodeBytes(bytes: Buffer, options: DecodeOptions): Promise<Uint8Array> {
  const { size, channels, background } = options
  const { data, info } = await sharp(bytes, { failOn: 'truncated' })
    // Before everything else: flattening 16-bit pixels onto an 8-bit colour would leave white at 254.
    .pipelineColourspace('srgb')
    .autoOrient()
    .flatten({ background })
    .resize(size, size, { fit: 'cover', position: 'centre' })
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true })
  if (info.channels !== channels) throw new Error(`decoded to ${info.channels} channels instead of ${channels}`)
  return new Uint8Array(data.buffer, data.byteOffset, data.length)
}

/**
 * An image file as [1, channels, size, size] in [-1, 1], scaled and cropped as training images are. Defaults: RGB, on white. Throws
 * `not-found`, `io`, and `bad-file` with what is wrong with it.
 */
export async function readImage(
  file: string,
  o: { size: number; channels?: 1 | 3; background?: string },
): Promise<Tensor> {
  const { size, channels = 3, background = 'white' } = o
  const bytes = await decodeImage(file, { size, channels, background }).catch((error) => {
    if (isFailureToRead(error)) throw error
    const message = `cannot read the image ${file}: ${error.message}`
    throw new DiffusionError('bad-file', message, { argument: 'file', received: file, cause: error })
  })
  const pixels = new Float32Array(bytes.length)
  toSigned(bytes, { size, channels, flip: false }, pixels)
  return Tensor.wrap(pixels, [1, channels, size, size])
}

/**
 * Reads the header only. Rejects where it is not that of an image: with `io` or `not-found` where the file can't be read, which
 * sharp does not tell from damage.
 */
export async function checkImageHeader(file: string): Promise<void> {
  try {
    await sharp(file).metadata()
  } catch {
    await sharp(await readImageBytes(file)).metadata()
  }
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
