/** Matrices and features for the tests of evaluation. */
import type { FeatureExtractor } from '../../lib/evaluate/feature-extractor'
import { type Moments, RunningMoments } from '../../lib/evaluate/moments'
import { Tensor } from '../../lib/tensor'
import { Random } from '../support/random'

/** [n, n] by [n, n]. */
export function times(A: Float64Array, B: Float64Array, n: number): Float64Array {
  const out = new Float64Array(n * n)
  for (let i = 0; i < n; i++)
    for (let k = 0; k < n; k++) for (let j = 0; j < n; j++) out[i * n + j] += A[i * n + k] * B[k * n + j]
  return out
}

export function trace(A: Float64Array, n: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += A[i * n + i]
  return sum
}

/** A covariance of the given rank. */
export function covariance(random: Random, n: number, rank = n): Float64Array {
  const factor = random.normals(rank * n)
  const out = new Float64Array(n * n)
  for (let r = 0; r < rank; r++)
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) out[i * n + j] += factor[r * n + i] * factor[r * n + j]
  return out
}

export function momentsOf(rows: ArrayLike<number>, features: number): Moments {
  const running = new RunningMoments(features)
  running.add(rows)
  return running.result()
}

export const features = 6

/** Some linear features of the average colours of an image's quarters, and of them logits of 4 classes. */
export class LinearFeatures implements FeatureExtractor {
  readonly features = features
  calls = 0
  readonly #weights = new Random(5).normals(12 * features)

  constructor(readonly identity: string | undefined = 'test: linear features') {}

  async extract(images: Tensor): Promise<{ features: Tensor; logits: Tensor }> {
    this.calls++
    const [n, channels, height, width] = images.shape
    const pixels = await images.data()
    const out = new Float32Array(n * features)
    for (let i = 0; i < n; i++) {
      const means = new Float64Array(12)
      for (let c = 0; c < channels; c++) {
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            const quarter = (2 * y >= height ? 2 : 0) + (2 * x >= width ? 1 : 0)
            means[4 * c + quarter] += (4 * pixels[((i * channels + c) * height + y) * width + x]) / (height * width)
          }
        }
      }
      for (let f = 0; f < features; f++)
        for (let k = 0; k < 12; k++) out[i * features + f] += means[k] * this.#weights[k * features + f]
    }
    const logits = Float32Array.from({ length: n * 4 }, (_, k) => out[Math.floor(k / 4) * features + (k % 4)])
    return { features: Tensor.wrap(out, [n, features]), logits: Tensor.wrap(logits, [n, 4]) }
  }

  release(): void {}
}
