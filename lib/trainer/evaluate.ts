/** How well a model describes images: bits per dimension and reconstruction errors over a folder. */
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { boolean, func, integer, parseOptions, type SchemaOf, type Seed, seed, value } from '../options'
import { Tensor } from '../tensor'
import { labelsFor } from './labels'

/** Means over the images; arrays are by timestep, t ascending. */
export interface Evaluation {
  readonly images: number
  /** The variational bound of the negative log-likelihood, in bits per dimension: priorBpd and the sum of vb. */
  readonly bitsPerDim: number
  /** KL(q(x_T | x_0) || N(0, 1)). */
  readonly priorBpd: number
  /** The bound's terms: Ho et al. 2020, eq. 5. */
  readonly vb: readonly number[]
  /** Mean squared error of the predicted x_0. */
  readonly xstartMse: readonly number[]
  /** Mean squared error of the predicted noise. */
  readonly mse: readonly number[]
}

/** Of evaluate. */
export interface EvaluateOptions {
  /** Images to evaluate: the first of the data's order. Default: all. */
  limit?: number
  /** Images in a batch; no figure depends on it. Default 16. */
  batchSize?: number
  /** Of the noise. Default 0. */
  seed?: Seed
  /** Clip the predicted x_0 to [-1, 1]. Default: the model's. */
  clipDenoised?: boolean
  /** Called after each evaluation of the network: how many of all are done, and of images in all. Default: none. */
  onProgress?: (event: { done: number; total: number; images: number }) => unknown
  /** Ends it within one evaluation of the network, with `aborted`. Default: none. */
  signal?: AbortSignal
}

const schema = {
  limit: integer(undefined, { min: 1 }),
  batchSize: integer(16, { min: 1 }),
  seed: seed(0),
  clipDenoised: boolean(),
  onProgress: func<(event: { done: number; total: number; images: number }) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<EvaluateOptions>

/**
 * Every timestep of every image is evaluated once. Images must have the size of the model's. A class-conditional model is told their
 * classes, which are matched by name, or the null class where the data have none. Throws `aborted`, and `invalid-argument` for classes
 * that the model does not have.
 */
export async function evaluate(ddpm: DDPM, data: TrainingData, options: EvaluateOptions = {}): Promise<Evaluation> {
  const o = parseOptions('evaluate', options, schema)
  const labelOf = labelsFor(ddpm, data)
  const images = Math.min(data.length, o.limit ?? data.length)
  const { numTimesteps: T } = ddpm
  const batches = Math.ceil(images / o.batchSize)
  const sums = { bitsPerDim: 0, priorBpd: 0 }
  const terms = { vb: new Float64Array(T), xstartMse: new Float64Array(T), mse: new Float64Array(T) }
  for (let b = 0; b < batches; b++) {
    const first = b * o.batchSize
    const n = Math.min(o.batchSize, images - first)
    const batch = await data.batch(first, n)
    const result = await ddpm.calcBpd(Tensor.wrap(batch.images, batch.shape), {
      y: labelOf?.(n, batch.labels),
      clipDenoised: o.clipDenoised,
      seed: o.seed,
      sampleOffset: first,
      signal: o.signal,
      onStep: ({ step }) => o.onProgress?.({ done: b * T + step, total: batches * T, images: first }),
    })
    sums.bitsPerDim += sum(await result.totalBpd.data())
    sums.priorBpd += sum(await result.priorBpd.data())
    for (const [name, total] of Object.entries(terms)) {
      const values = await result[name as keyof typeof terms].data()
      for (let i = 0; i < n; i++) for (let t = 0; t < T; t++) total[t] += values[i * T + t]
    }
  }
  const mean = (total: Float64Array) => Array.from(total, (v) => v / images)
  return {
    images,
    bitsPerDim: sums.bitsPerDim / images,
    priorBpd: sums.priorBpd / images,
    vb: mean(terms.vb),
    xstartMse: mean(terms.xstartMse),
    mse: mean(terms.mse),
  }
}

function sum(values: Iterable<number>): number {
  let total = 0
  for (const v of values) total += v
  return total
}
