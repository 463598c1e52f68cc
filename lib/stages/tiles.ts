/**
 * A large map computed in tiles that overlap, and are blended where they do. All have one size, so that one program computes them:
 * diffusers' tiled_encode and tiled_decode end in smaller ones, each size of which would pack the weights for itself.
 */
import { type Shape, sizeOf } from '../tensor'

/** A map on the host, [n, c, h, w]. */
export interface HostMap {
  readonly shape: Shape
  readonly data: Float32Array
}

/** Tiles along one axis. */
export interface Places {
  readonly size: number
  readonly starts: readonly number[]
}

/** As few as share at least `overlap` of their size with each neighbour, spread evenly. */
export function placesOf(extent: number, size: number, overlap: number): Places {
  if (extent <= size) return { size: extent, starts: [0] }
  const most = Math.max(1, Math.floor(size * (1 - overlap)))
  const gaps = Math.ceil((extent - size) / most)
  const starts = Array.from({ length: gaps + 1 }, (_, i) => Math.round((i * (extent - size)) / gaps))
  return { size, starts }
}

/** What each tile counts at each of its places, where it is `scale` times as large: lines that fall towards its neighbours, of sum 1. */
export function weightsOf({ size, starts }: Places, scale: number): Float64Array[] {
  const begins = starts.map((start) => start * scale)
  const length = size * scale
  const ramps = begins.map((begin, i) => {
    const rise = i === 0 ? 0 : begins[i - 1] + length - begin
    const fall = i === begins.length - 1 ? 0 : begin + length - begins[i + 1]
    return Float64Array.from({ length }, (_, at) => {
      const up = rise > 0 ? (at + 0.5) / rise : 1
      const down = fall > 0 ? (length - at - 0.5) / fall : 1
      return Math.min(up, down, 1)
    })
  })
  // Where more than two meet, the lines alone do not sum up to 1.
  const sums = new Float64Array(begins[begins.length - 1] + length)
  for (const [i, ramp] of ramps.entries()) for (const [at, weight] of ramp.entries()) sums[begins[i] + at] += weight
  return ramps.map((ramp, i) => ramp.map((weight, at) => weight / sums[begins[i] + at]))
}

export function cut(
  { shape: [n, c, h, w], data }: HostMap,
  o: { readonly top: number; readonly left: number; readonly height: number; readonly width: number },
): HostMap {
  const { top, left, height, width } = o
  const part = new Float32Array(sizeOf([n, c, height, width]))
  for (let map = 0; map < n * c; map++) {
    for (let y = 0; y < height; y++) {
      const from = (map * h + top + y) * w + left
      part.set(data.subarray(from, from + width), (map * height + y) * width)
    }
  }
  return { shape: [n, c, height, width], data: part }
}

/** Adds a tile, weighted by row and column, to the whole at (top, left). */
export function add(
  whole: HostMap,
  { shape: [n, c, h, w], data }: HostMap,
  o: { readonly top: number; readonly left: number; readonly rows: Float64Array; readonly columns: Float64Array },
): void {
  const [, , height, width] = whole.shape
  for (let map = 0; map < n * c; map++) {
    for (let y = 0; y < h; y++) {
      const [from, to] = [(map * h + y) * w, (map * height + o.top + y) * width + o.left]
      for (let x = 0; x < w; x++) whole.data[to + x] += o.rows[y] * o.columns[x] * data[from + x]
    }
  }
}
