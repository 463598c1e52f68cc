/** Pictures of any number of channels and of any type in another size. Encoded images are scaled as they are decoded, by sharp. */
import { bad } from './image-limits'
import type { Fit, Picture } from './picture'

/** Lobes of the kernel. */
const lobes = 3

/** Duchon 1979; Turkowski 1990, "Filters for common resampling tasks". */
function lanczos(x: number): number {
  if (x === 0) return 1
  if (Math.abs(x) >= lobes) return 0
  const p = Math.PI * x
  return (lobes * Math.sin(p) * Math.sin(p / lobes)) / (p * p)
}

interface Taps {
  /** The first pixel that counts. */
  readonly first: number
  /** Their sum is 1. */
  readonly weights: Float64Array
}

/** For each of `to` pixels those of `from` that it is made of; wider where there are fewer, so that nothing aliases. */
function tapsOf(from: number, to: number): Taps[] {
  const scale = from / to
  const stretch = Math.max(1, scale)
  return Array.from({ length: to }, (_, i) => {
    const middle = (i + 0.5) * scale - 0.5
    const first = Math.max(0, Math.ceil(middle - lobes * stretch))
    const last = Math.min(from - 1, Math.floor(middle + lobes * stretch))
    const weights = Float64Array.from({ length: last - first + 1 }, (_, k) => lanczos((first + k - middle) / stretch))
    const sum = weights.reduce((a, b) => a + b, 0)
    return { first, weights: weights.map((w) => w / sum) }
  })
}

/** [outer, from, inner] to [outer, to, inner]. */
function alongAxis(data: ArrayLike<number>, outer: number, from: number, to: number, inner: number): Float64Array {
  const out = new Float64Array(outer * to * inner)
  const taps = tapsOf(from, to)
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < to; i++) {
      const { first, weights } = taps[i]
      const target = (o * to + i) * inner
      for (let k = 0; k < weights.length; k++) {
        const source = (o * from + first + k) * inner
        for (let c = 0; c < inner; c++) out[target + c] += weights[k] * data[source + c]
      }
    }
  }
  return out
}

/** In [height, width], by Lanczos' kernel of three lobes; what overshoots the range is cut off. */
export function resample(picture: Picture, height: number, width: number): Picture {
  const { data, channels } = picture
  if (height === picture.height && width === picture.width) return picture
  const rows = alongAxis(data, picture.height, picture.width, width, channels)
  const values = alongAxis(rows, 1, picture.height, height, width * channels)
  return { data: sameType(data, values), height, width, channels }
}

function sameType(like: Picture['data'], values: Float64Array): Picture['data'] {
  if (like instanceof Float32Array) return Float32Array.from(values, (v) => Math.max(-1, Math.min(1, v)))
  const max = like instanceof Uint8Array ? 255 : 65535
  const whole = values.map((v) => Math.max(0, Math.min(max, Math.round(v))))
  return like instanceof Uint8Array ? Uint8Array.from(whole) : Uint16Array.from(whole)
}

/** Height and width of a picture scaled to cover a size. */
export function covering(
  { height, width }: { readonly height: number; readonly width: number },
  size: { readonly height: number; readonly width: number },
): { readonly height: number; readonly width: number } {
  const scale = Math.max(size.height / height, size.width / width)
  return {
    height: Math.max(size.height, Math.round(height * scale)),
    width: Math.max(size.width, Math.round(width * scale)),
  }
}

/** How many times the size's area may be covered: a line of pixels would cover any size by being endless. */
const maxCover = 64

/** Throws `bad-file` where one side is so much longer than the other that scaling it to cover the size makes no sense. */
export function checkSides(
  picture: { height: number; width: number },
  look: { height: number; width: number; fit: Fit },
  file: string,
): void {
  const { height, width } = covering(picture, look)
  if (look.fit === 'fill' || height * width <= maxCover * look.height * look.width) return
  throw bad(
    file,
    `its sides of ${picture.width} and ${picture.height} pixels are too different to cover ${look.width} x ${look.height}`,
  )
}

/** A picture as it is wanted. Throws as checkSides does; `file` is its name. */
export function fitted(picture: Picture, look: { height: number; width: number; fit: Fit }, file: string): Picture {
  checkSides(picture, look, file)
  if (look.fit === 'fill') return resample(picture, look.height, look.width)
  const { height, width } = covering(picture, look)
  const scaled = resample(picture, height, width)
  return look.fit === 'cover' ? scaled : cropped(scaled, look)
}

/** The middle. */
function cropped(picture: Picture, { height, width }: { height: number; width: number }): Picture {
  if (picture.height === height && picture.width === width) return picture
  const { channels, data } = picture
  const top = Math.floor((picture.height - height) / 2)
  const left = Math.floor((picture.width - width) / 2)
  const out = data.slice(0, height * width * channels)
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * picture.width + left) * channels
    out.set(data.subarray(from, from + width * channels), y * width * channels)
  }
  return { data: out, height, width, channels }
}
