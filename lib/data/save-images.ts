/** Samples as pictures: in files, as PNG, and as pixels of a canvas. */
import { atomicWrite } from '../checkpoint/atomic-write'
import { invalidArgument } from '../errors'
import { integer, number, parseOptions, type SchemaOf } from '../options'
import { Tensor } from '../tensor'
import { encodeAnimation, encodeImage, imageFormatOf, type Pixels } from './image-format'
import { type GridOptions, imageGrid, toBytes } from './image-grid'

const gridSchema = {
  columns: integer(undefined, { min: 1 }),
  gap: integer(undefined, { min: 0 }),
  scale: integer(1, { min: 1 }),
} satisfies SchemaOf<GridOptions>

/** Of saveImages. */
export interface SaveImagesOptions extends GridOptions {
  /** Of an animation: frames a second, from 0.1 to 50. Default 10. */
  readonly fps?: number
}

const saveSchema = {
  ...gridSchema,
  fps: number(10, { min: 0.1, max: 50 }),
} satisfies SchemaOf<SaveImagesOptions>

/**
 * Samples [n, 1 or 3, h, w] in [-1, 1], or one of them without the first dimension, as one picture, side by side: PNG, JPEG, WebP,
 * AVIF, TIFF or GIF by the file's extension. An array of samples is an animation, a GIF or WebP, of which the last picture stays a
 * second: `saveImages('denoising.gif', intermediates)`. Throws `invalid-argument` for another extension or shape, and `io`.
 */
export async function saveImages(
  file: string,
  samples: Tensor | readonly Tensor[],
  options: SaveImagesOptions = {},
): Promise<void> {
  const { fps, ...o } = parseOptions('saveImages', options, saveSchema)
  if (typeof file !== 'string' || file === '') throw invalidArgument('file', 'a path', file)
  const format = imageFormatOf(file)
  if (!Array.isArray(samples))
    return atomicWrite(file, await encodeImage(await pictureOf(samples as Tensor, o), format))
  if (format !== 'gif' && format !== 'webp') throw invalidArgument('file', 'a .gif or .webp for an animation', file)
  if (samples.length === 0) {
    throw invalidArgument('samples', 'a Tensor, or an array of them', samples)
  }
  const frames: Pixels[] = []
  for (const frame of samples) frames.push(await pictureOf(frame, o))
  const { width, height } = frames[0]
  if (frames.some((frame) => frame.width !== width || frame.height !== height)) {
    throw invalidArgument('samples', 'frames of one shape', samples)
  }
  await atomicWrite(file, await encodeAnimation(frames, format, fps))
}

/**
 * The same as a PNG in memory, for a response or a canvas: `res.end(await encodePng(samples, { columns: 4, scale: 2 }))`. Throws
 * `invalid-argument`.
 */
export async function encodePng(samples: Tensor, options: GridOptions = {}): Promise<Uint8Array> {
  return encodeImage(await pictureOf(samples, parseOptions('encodePng', options, gridSchema)))
}

/** 8-bit RGBA, row by row from the top: what ImageData takes. */
export interface CanvasPixels {
  readonly data: Uint8ClampedArray
  readonly width: number
  readonly height: number
}

/**
 * The same as pixels of a canvas, [height, width, 4], opaque: `new ImageData(pixels.data, pixels.width, pixels.height)`. Throws
 * `invalid-argument`.
 */
export async function toPixels(samples: Tensor, options: GridOptions = {}): Promise<CanvasPixels> {
  const picture = await pictureOf(samples, parseOptions('toPixels', options, gridSchema))
  const { width, height, channels } = picture
  const data = new Uint8ClampedArray(width * height * 4).fill(255)
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++) data[4 * p + c] = picture.data[channels * p + (channels === 3 ? c : 0)]
  }
  return { data, width, height }
}

async function pictureOf(samples: Tensor, o: GridOptions): Promise<Pixels> {
  const shape = samples instanceof Tensor && samples.shape.length === 3 ? [1, ...samples.shape] : samples?.shape
  const [n, c] = Array.isArray(shape) ? shape : []
  const fits = samples instanceof Tensor && samples.dtype === 'float32' && shape.length === 4
  if (!fits || samples.size === 0 || (c !== 1 && c !== 3)) {
    throw invalidArgument('samples', 'a float32 Tensor of shape [n, 1 or 3, h, w]', samples)
  }
  return imageGrid(toBytes(await samples.data(), shape), { ...o, columns: o.columns && Math.min(o.columns, n) })
}
