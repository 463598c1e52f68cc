/** Samples as 8-bit pictures. */
import { invalidArgument } from '../errors'
import type { Pixels } from './image-format'

/** 8-bit images. */
export interface ImageBytes {
  readonly data: Uint8Array
  /** [n, height, width, channels] */
  readonly shape: readonly number[]
}

/** [n, c, h, w] in [-1, 1], clamped and rounded; c is 1 or 3. */
export function toBytes(samples: Float32Array, [n, c, h, w]: readonly number[]): ImageBytes {
  const data = new Uint8Array(samples.length)
  const plane = h * w
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      for (let p = 0; p < plane; p++) {
        // Uint8Array would wrap, so the clamp comes first; NaN becomes 0.
        const v = Math.round((samples[(i * c + k) * plane + p] + 1) * 127.5)
        data[(i * plane + p) * c + k] = Math.min(255, Math.max(0, v))
      }
    }
  }
  return { data, shape: [n, h, w, c] }
}

/** Batches of images of one size as one. */
export function joinBytes(batches: readonly ImageBytes[]): ImageBytes {
  const [, ...image] = batches[0].shape
  const n = batches.reduce((sum, { shape }) => sum + shape[0], 0)
  return { data: Buffer.concat(batches.map(({ data }) => data)), shape: [n, ...image] }
}

export function imageAt({ data, shape: [, height, width, channels] }: ImageBytes, index: number): Pixels {
  const size = height * width * channels
  return { data: data.subarray(index * size, (index + 1) * size), width, height, channels: channels === 1 ? 1 : 3 }
}

/** How images lie in one picture. */
export interface GridOptions {
  /** Images in a row. Default: the square root of the number of images, rounded up. */
  readonly columns?: number
  /** Between images and around them, in pixels of the images (default 2; 0 for one image). */
  readonly gap?: number
  /** Pixels of the grid for each pixel of an image (default 1). */
  readonly scale?: number
}

/** As many as sharp takes. */
const maxPixels = 0x3fff ** 2

/** Of `n` images [n, height, width, ...] side by side, in pixels. Throws `invalid-argument` for more than a picture can have. */
export function gridSize([n, h, w]: readonly number[], options: GridOptions = {}) {
  const columns = Math.min(n, options.columns ?? Math.ceil(Math.sqrt(n)))
  const { gap = n === 1 ? 0 : 2, scale = 1 } = options
  const rows = Math.ceil(n / columns)
  const width = (columns * (w + gap) + gap) * scale
  const height = (rows * (h + gap) + gap) * scale
  if (width * height <= maxPixels) return { columns, gap, scale, width, height }
  const argument = scale > 1 ? 'scale' : gap > 2 ? 'gap' : 'samples'
  throw invalidArgument(argument, `a picture of at most ${maxPixels} pixels`, `${height}x${width}`)
}

/** All images side by side, row by row, on white. */
export function imageGrid(images: ImageBytes, options: GridOptions = {}): Pixels {
  const [n, h, w, channels] = images.shape
  const { columns, gap, scale, width, height } = gridSize(images.shape, options)
  const data = new Uint8Array(width * height * channels).fill(255)
  for (let i = 0; i < n; i++) {
    const image = imageAt(images, i)
    const left = ((i % columns) * (w + gap) + gap) * scale
    const top = (Math.floor(i / columns) * (h + gap) + gap) * scale
    for (let y = 0; y < h * scale; y++) {
      for (let x = 0; x < w * scale; x++) {
        const from = (Math.floor(y / scale) * w + Math.floor(x / scale)) * channels
        const to = ((top + y) * width + left + x) * channels
        for (let c = 0; c < channels; c++) data[to + c] = image.data[from + c]
      }
    }
  }
  return { data, width, height, channels: channels === 1 ? 1 : 3 }
}
