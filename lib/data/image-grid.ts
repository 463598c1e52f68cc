/** Samples to PNG files. */
import sharp from 'sharp'

/** 8-bit pixels, [height, width, channels]. */
export interface Pixels {
  readonly data: Uint8Array
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
}

/** Image `index` of [n, c, h, w] in [-1, 1] (clamped); c is 1 or 3. */
export function toPixels(samples: Float32Array, shape: readonly number[], index: number): Pixels {
  const [, channels, height, width] = shape
  const data = new Uint8Array(height * width * channels)
  const plane = height * width
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < plane; i++) {
      // Uint8Array would wrap, so the clamp comes first; NaN becomes 0.
      const v = Math.round((samples[(index * channels + c) * plane + i] + 1) * 127.5)
      data[i * channels + c] = Math.min(255, Math.max(0, v))
    }
  }
  return { data, width, height, channels: channels === 1 ? 1 : 3 }
}

export interface GridOptions {
  /** Default: the square root of the number of images, rounded up. */
  readonly columns?: number
  /** Between images and around them, in pixels of the images (default 2). */
  readonly gap?: number
  /** Pixels of the grid for each pixel of an image (default 1). */
  readonly scale?: number
}

/** All images of [n, c, h, w] side by side, row by row, on white. */
export function imageGrid(samples: Float32Array, shape: readonly number[], options: GridOptions = {}): Pixels {
  const [n, channels, h, w] = shape
  const columns = Math.min(n, options.columns ?? Math.ceil(Math.sqrt(n)))
  const gap = options.gap ?? 2
  const scale = options.scale ?? 1
  const rows = Math.ceil(n / columns)
  const width = (columns * (w + gap) + gap) * scale
  const height = (rows * (h + gap) + gap) * scale
  const data = new Uint8Array(width * height * channels).fill(255)
  for (let i = 0; i < n; i++) {
    const image = toPixels(samples, shape, i)
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

export async function encodePng(image: Pixels): Promise<Buffer> {
  const { width, height, channels } = image
  return sharp(image.data, { raw: { width, height, channels } }).png().toBuffer()
}
