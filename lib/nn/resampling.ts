/**
 * torch.nn.functional.interpolate with a scale factor, without antialiasing and with align_corners false: each axis of a map is
 * multiplied by a matrix, which this is.
 */
import { invalidArgument } from '../errors'

export const resamplingMethods = ['nearest', 'bilinear', 'bicubic', 'area'] as const
export type ResamplingMethod = (typeof resamplingMethods)[number]

/** floor(size * multiplier). Throws `invalid-argument` where nothing is left, or more than memory has. */
export function resampledSize(size: number, multiplier: number): number {
  const resampled = Math.floor(size * multiplier)
  if (resampled >= 1 && resampled <= 2 ** 16) return resampled
  throw invalidArgument('multiplier', `${size} pixels times it from 1 to ${2 ** 16}`, multiplier)
}

/**
 * [resampledSize, size], row by row. Where an output pixel lies follows from the multiplier, not from the ratio of the sizes; but
 * 'area' is adaptive_avg_pool, which knows the sizes only.
 */
export function resamplingMatrix(method: ResamplingMethod, size: number, multiplier: number): Float32Array {
  const rows = resampledSize(size, multiplier)
  const matrix = new Float32Array(rows * size)
  for (let i = 0; i < rows; i++) {
    for (const [pixel, weight] of weightsOf[method](i, { size, rows, scale: 1 / multiplier })) {
      matrix[i * size + Math.min(Math.max(pixel, 0), size - 1)] += weight
    }
  }
  return matrix
}

interface Axis {
  readonly size: number
  readonly rows: number
  /** Input pixels to an output pixel. */
  readonly scale: number
}

type Weights = (i: number, axis: Axis) => readonly (readonly [pixel: number, weight: number])[]

/** Pixels beyond the edge are those at it. */
const weightsOf: Readonly<Record<ResamplingMethod, Weights>> = {
  // In float32, as there: it decides which pixel it is.
  nearest: (i, { scale }) => [[Math.floor(Math.fround(i * Math.fround(scale))), 1]],
  bilinear(i, { scale }) {
    const at = Math.max((i + 0.5) * scale - 0.5, 0)
    const pixel = Math.floor(at)
    return [
      [pixel, 1 - (at - pixel)],
      [pixel + 1, at - pixel],
    ]
  },
  bicubic(i, { scale }) {
    const at = (i + 0.5) * scale - 0.5
    const pixel = Math.floor(at)
    return [-1, 0, 1, 2].map((k) => [pixel + k, cubic(Math.abs(at - pixel - k))] as const)
  },
  area(i, { size, rows }) {
    const start = Math.floor((i * size) / rows)
    const end = Math.ceil(((i + 1) * size) / rows)
    return Array.from({ length: end - start }, (_, k) => [start + k, 1 / (end - start)] as const)
  },
}

/** Keys 1981, with a = -0.75. */
function cubic(distance: number): number {
  const a = -0.75
  if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance ** 2 + 1
  return distance < 2 ? (((distance - 5) * distance + 8) * distance - 4) * a : 0
}
