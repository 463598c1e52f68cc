/** Decoded pixels, and how one wants them. */

/** [height, width, channels], row by row: 0 to 255, 0 to 65535, or floats in [-1, 1]. */
export interface Picture {
  readonly data: Uint8Array | Uint16Array | Float32Array
  readonly height: number
  readonly width: number
  readonly channels: number
}

/**
 * What becomes of another shape: 'crop', scaled to cover the size and cut at its centre; 'cover', scaled so and left whole; 'fill',
 * each side scaled to its length.
 */
export type Fit = 'crop' | 'cover' | 'fill'

/** How a picture is wanted. */
export interface Look {
  readonly height: number
  readonly width: number
  readonly channels: number
  readonly fit: Fit
  /** What shows through transparent pixels: a CSS colour. */
  readonly background: string
}

/** The part of a picture that a sample is, and how it is mirrored. */
export interface View {
  readonly top: number
  readonly left: number
  readonly height: number
  readonly width: number
  /** Left to right. */
  readonly flip: boolean
  /** Upside down. */
  readonly flipVertical: boolean
}

/** The part of [height, width] of a picture that lies in its middle, as it is. */
export function centre({ height, width }: Picture, size: { height: number; width: number }): View {
  const top = Math.floor((height - size.height) / 2)
  const left = Math.floor((width - size.width) / 2)
  return { top, left, height: size.height, width: size.width, flip: false, flipVertical: false }
}

/** Half of the range of an array's numbers; floats are signed already. */
function halfRange(data: Picture['data']): number | undefined {
  if (data instanceof Uint8Array) return 127.5
  return data instanceof Uint16Array ? 32767.5 : undefined
}

/** To [channels, height, width] floats in [-1, 1]. */
export function toSigned(picture: Picture, view: View, out: Float32Array): void {
  const { data, width: stride, channels } = picture
  const { top, left, height, width, flip, flipVertical } = view
  const half = halfRange(data)
  let to = 0
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const row = top + (flipVertical ? height - 1 - y : y)
      for (let x = 0; x < width; x++) {
        const v = data[(row * stride + left + (flip ? width - 1 - x : x)) * channels + c]
        out[to++] = half === undefined ? v : v / half - 1
      }
    }
  }
}
