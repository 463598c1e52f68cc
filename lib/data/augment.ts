/**
 * Non-leaking augmentation: Karras et al. 2022, appendix F.2, as k-diffusion has it. Images are mirrored, scaled, turned, stretched and
 * moved at random, and a network is told how, by nine numbers. Samples are drawn with zeros, which is: not at all.
 */
import type { Seed } from '../options'
import { normal, Purpose, words } from '../rng'
import { augmentNormalStep, augmentStep, flipped, flippedVertically } from './order'

/** How many numbers the network is told. */
export const augmentationDim = 9

/** What an image is multiplied with in the plane, and moved by: (x, y) to (a x + b y + e, c x + d y + f), from the image's middle. */
type Affine = readonly [a: number, b: number, c: number, d: number, e: number, f: number]

export interface Augmentation {
  /** The nine numbers, 0 for what was not done. */
  readonly told: Float32Array
  /** Left to right, before all else. */
  readonly flip: boolean
  /** Upside down. */
  readonly flipVertical: boolean
  /** Where a pixel of the augmented image comes from in the mirrored one; undefined: from its own place. */
  readonly from?: Affine
}

/** Standard deviations: of log2 of scale and stretch, and of a move in parts of the image's size. */
const [scaleStd, stretchStd, moveStd] = [0.2, 0.2, 1 / 8]

export interface AugmentOptions {
  /** Of each of what is done besides mirroring left to right. */
  readonly probability: number
  readonly height: number
  readonly width: number
  /** Half of the images are mirrored left to right. */
  readonly flip: boolean
  /** Half of them are upside down: with `false`, half of those that `probability` chooses. */
  readonly flipVertical: boolean
}

/** Of sample `g` of the sequence. */
export function augmentationAt(seed: Seed, g: number, o: AugmentOptions): Augmentation {
  const uniform = Array.from(words(seed, Purpose.data, g, augmentStep, 7), (word) => word / 2 ** 32)
  const normals = normal(seed, Purpose.data, g, augmentNormalStep, 4)
  const [scales, turns, stretches, moves, upsideDown] = uniform.slice(0, 5).map((u) => u < o.probability)
  const angle = (u: number) => (2 * u - 1) * Math.PI
  // The names are those of table 6 there.
  const a0 = o.flip && flipped(seed, g)
  const a1 = (o.flipVertical || upsideDown) && flippedVertically(seed, g)
  const a2 = scales ? normals[0] : 0
  const a3 = turns ? angle(uniform[5]) : 0
  const [a4, a5] = stretches ? [angle(uniform[6]), normals[1]] : [0, 0]
  const [a6, a7] = moves ? [normals[2], normals[3]] : [0, 0]
  const told = [
    Number(a0),
    Number(a1),
    a2,
    Math.cos(a3) - 1,
    Math.sin(a3),
    a5 * Math.cos(a4),
    a5 * Math.sin(a4),
    a6,
    a7,
  ]
  const base = { told: Float32Array.from(told), flip: a0, flipVertical: a1 }
  if (!scales && !turns && !stretches && !moves) return base
  const [scale, stretch] = [2 ** (scaleStd * a2), 2 ** (stretchStd * a5)]
  // The image is scaled, turned, stretched along an axis (both counter-clockwise) and moved; a pixel goes the way back.
  const back = [
    diagonal(1 / scale, 1 / scale),
    rotation(a3),
    rotation(-a4),
    diagonal(1 / stretch, stretch),
    rotation(a4),
  ]
  const [a, b, c, d] = back.reduce(product)
  const [x, y] = [moveStd * o.width * a6, moveStd * o.height * a7]
  return { ...base, from: [a, b, c, d, -(a * x + b * y), -(c * x + d * y)] }
}

type Matrix = readonly [a: number, b: number, c: number, d: number]

const diagonal = (a: number, d: number): Matrix => [a, 0, 0, d]
const rotation = (t: number): Matrix => [Math.cos(t), -Math.sin(t), Math.sin(t), Math.cos(t)]
const product = ([a, b, c, d]: Matrix, [e, f, g, h]: Matrix): Matrix => [
  a * e + b * g,
  a * f + b * h,
  c * e + d * g,
  c * f + d * h,
]

/**
 * [channels, height, width] with each pixel from elsewhere, by bicubic interpolation (Keys 1981, a = -1/2) kept in [-1, 1]; beyond its
 * edges the image is mirrored.
 */
export function warped(
  image: Float32Array,
  { channels, height, width }: { channels: number; height: number; width: number },
  [a, b, c, d, e, f]: Affine,
): Float32Array {
  const out = new Float32Array(image.length)
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2]
  const [columns, rows] = [new Int32Array(4), new Int32Array(4)]
  const [wx, wy] = [new Float64Array(4), new Float64Array(4)]
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      taps(a * (x - cx) + b * (y - cy) + e + cx, width, columns, wx)
      taps(c * (x - cx) + d * (y - cy) + f + cy, height, rows, wy)
      for (let k = 0; k < channels; k++) {
        let sum = 0
        for (let j = 0; j < 4; j++) {
          const row = (k * height + rows[j]) * width
          let part = 0
          for (let i = 0; i < 4; i++) part += wx[i] * image[row + columns[i]]
          sum += wy[j] * part
        }
        out[(k * height + y) * width + x] = Math.min(Math.max(sum, -1), 1)
      }
    }
  }
  return out
}

/** The four pixels around `at` of a line of n, and their weights. */
function taps(at: number, n: number, indices: Int32Array, weights: Float64Array): void {
  const first = Math.floor(at) - 1
  const t = at - first - 1
  for (let i = 0; i < 4; i++) indices[i] = mirrored(first + i, n)
  weights[0] = ((-0.5 * t + 1) * t - 0.5) * t
  weights[1] = (1.5 * t - 2.5) * t * t + 1
  weights[2] = ((-1.5 * t + 2) * t + 0.5) * t
  weights[3] = (0.5 * t - 0.5) * t * t
}

/** ... 2 1 | 0 1 2 ... n-1 | n-2 n-3 ...: the edge is not repeated. */
function mirrored(i: number, n: number): number {
  if (n === 1) return 0
  const period = 2 * (n - 1)
  const k = ((i % period) + period) % period
  return k < n ? k : period - k
}
