/** How well a model describes images: bits per dimension and reconstruction errors over a folder. */
import { partsInOrder } from '../data/parts/part-set'
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { invalidArgument } from '../errors'
import { ExactSum } from '../evaluate/exact-sum'
import {
  boolean,
  func,
  integer,
  type Parsed,
  parseOptions,
  required,
  type SchemaOf,
  type Seed,
  seed,
  value,
} from '../options'
import { type ShardSpan, shardOf } from '../shard'
import { Tensor } from '../tensor'
import { type EvaluationPart, isEvaluationPart } from './evaluation-part'
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

/** Of evaluateShard. */
export interface EvaluateShardOptions extends EvaluateOptions {
  /**
   * Which part of the images, in whole batches: '3/16', the third of 16, counted from 1; or 'auto' or 'auto/16', by the environment of
   * Slurm or Kubernetes, as in shardOf. Required.
   */
  shard: string
}

const shardSchema = {
  ...schema,
  shard: required(value<string>('a string such as 3/16', (v) => typeof v === 'string')),
} satisfies SchemaOf<EvaluateShardOptions>

/**
 * Every timestep of every image is evaluated once. Images must have the size of the model's. A class-conditional model is told their
 * classes, which are matched by name, or the null class where the data have none. Throws `aborted`, and `invalid-argument` for classes
 * that the model does not have.
 */
export async function evaluate(ddpm: DDPM, data: TrainingData, options: EvaluateOptions = {}): Promise<Evaluation> {
  const o = parseOptions('evaluate', options, schema)
  return mergeEvaluations([
    await evaluateSpan(ddpm, data, o, { index: 1, total: 1, first: 0, count: imagesOf(data, o) }),
  ])
}

/**
 * A part of what `evaluate` does, for mergeEvaluations: `mergeEvaluations(await Promise.all([1, 2].map((i) => evaluateShard(ddpm, data,
 * { shard: `${i}/2` }))))` is `evaluate(ddpm, data)`, to the bit, where all of it computes alike. Throws what `evaluate` and shardOf throw.
 */
export async function evaluateShard(
  ddpm: DDPM,
  data: TrainingData,
  options: EvaluateShardOptions,
): Promise<EvaluationPart> {
  const { shard, ...o } = parseOptions('evaluateShard', options, shardSchema)
  return evaluateSpan(ddpm, data, o, shardOf({ shard, count: imagesOf(data, o), batchSize: o.batchSize }))
}

/**
 * The means over the images of all parts; as sums are exact, they do not depend on how the images were divided. Throws
 * `invalid-argument` where parts are missing, there twice, or of several divisions or models.
 */
export function mergeEvaluations(parts: readonly EvaluationPart[]): Evaluation {
  if (!Array.isArray(parts) || parts.length === 0 || !parts.every(isEvaluationPart))
    throw invalidArgument('parts', 'results of evaluateShard', parts)
  const ordered = partsInOrder(
    parts.map(({ shard, first, images: count, sums }, i) => {
      return { file: `part ${i + 1}`, shard, first, count, sums, whole: {}, layout: `${sums.vb.length} timesteps` }
    }),
  )
  const images = ordered.reduce((sum, { count }) => sum + count, 0)
  const mean = (sums: readonly (readonly number[])[]) => new ExactSum(sums.flat()).value / images
  const byTime = (name: 'vb' | 'xstartMse' | 'mse') =>
    ordered[0].sums[name].map((_: unknown, t: number) => mean(ordered.map(({ sums }) => sums[name][t])))
  return {
    images,
    bitsPerDim: mean(ordered.map(({ sums }) => sums.bitsPerDim)),
    priorBpd: mean(ordered.map(({ sums }) => sums.priorBpd)),
    vb: byTime('vb'),
    xstartMse: byTime('xstartMse'),
    mse: byTime('mse'),
  }
}

function imagesOf(data: TrainingData, { limit }: { limit?: number }): number {
  return Math.min(data.length, limit ?? data.length)
}

async function evaluateSpan(
  ddpm: DDPM,
  data: TrainingData,
  o: Parsed<typeof schema>,
  { index, total, first: begin, count: images }: ShardSpan,
): Promise<EvaluationPart> {
  const labelOf = labelsFor(ddpm, data)
  const { numTimesteps: T } = ddpm
  const batches = Math.ceil(images / o.batchSize)
  const byTime = () => Array.from({ length: T }, () => new ExactSum())
  const sums = { bitsPerDim: new ExactSum(), priorBpd: new ExactSum() }
  const terms = { vb: byTime(), xstartMse: byTime(), mse: byTime() }
  for (let b = 0; b < batches; b++) {
    const done = b * o.batchSize
    const n = Math.min(o.batchSize, images - done)
    const batch = await data.batch(begin + done, n)
    const result = await ddpm.calcBpd(Tensor.wrap(batch.images, batch.shape), {
      y: labelOf?.(n, batch.labels),
      clipDenoised: o.clipDenoised,
      seed: o.seed,
      sampleOffset: begin + done,
      signal: o.signal,
      onStep: ({ step }) => o.onProgress?.({ done: b * T + step, total: batches * T, images: done }),
    })
    for (const v of await result.totalBpd.data()) sums.bitsPerDim.add(v)
    for (const v of await result.priorBpd.data()) sums.priorBpd.add(v)
    for (const [name, total] of Object.entries(terms)) {
      const values = await result[name as keyof typeof terms].data()
      for (let i = 0; i < n; i++) for (let t = 0; t < T; t++) total[t].add(values[i * T + t])
    }
  }
  const parts = (total: readonly ExactSum[]) => total.map((sum) => sum.parts)
  return {
    shard: { index, total },
    first: begin,
    images,
    sums: {
      bitsPerDim: sums.bitsPerDim.parts,
      priorBpd: sums.priorBpd.parts,
      vb: parts(terms.vb),
      xstartMse: parts(terms.xstartMse),
      mse: parts(terms.mse),
    },
  }
}
