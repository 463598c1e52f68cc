/** How good samples are, by the features of a network: FID and its kin. */
import { Device, type DeviceName } from '../device'
import { invalidArgument } from '../errors'
import { array, func, integer, oneOf, parseOptions, required, type SchemaOf, type Seed, seed, value } from '../options'
import { aborted, Calculations } from './calculations'
import { collectFeatures } from './collect-features'
import type { FeatureExtractor } from './feature-extractor'
import type { FeatureSet } from './feature-rows'
import type { ImageSet } from './images'
import { InceptionScore } from './inception-score'
import { kernelDistance, type Spread } from './kid'
import type { Moments } from './moments'
import { type PrecisionRecall, precisionRecall } from './precision-recall'
import { Products } from './products'
import { extractorField, type ImageStatistics } from './statistics'

/** 'pr': precision and recall; 'is': Inception score, which needs no reference. */
export const sampleMetrics = ['fid', 'kid', 'pr', 'is'] as const
export type SampleMetric = (typeof sampleMetrics)[number]

/** Of evaluateSamples: those that were asked for. */
export interface SampleQuality extends Partial<PrecisionRecall> {
  /** That were evaluated. */
  readonly images: number
  /** Frechet distance (Heusel et al. 2017): the lower the better. It falls with the number of images, so only equal numbers compare. */
  readonly fid?: number
  /** Kernel distance (Binkowski et al. 2018): the lower the better, 0 on average for images of the reference's kind. */
  readonly kid?: Spread
  /** Inception score (Salimans et al. 2016): the higher the better. */
  readonly inceptionScore?: Spread
}

/** What is under way. */
export interface SampleProgress {
  /** 'samples': their features; 'kid': subsets; 'fid', 'pr': no count. */
  readonly phase: 'samples' | 'fid' | 'kid' | 'pr'
  readonly done: number
  readonly total: number
}

/** Of evaluateSamples. */
export interface EvaluateSamplesOptions {
  /** What makes features of images: InceptionV3, for numbers that others have. Required. */
  extractor: FeatureExtractor
  /** What samples are compared with, with features for 'kid' and 'pr'. Default: nothing, which 'is' needs not. */
  reference?: ImageStatistics
  /** Which. Default: ['fid']. */
  metrics?: readonly SampleMetric[]
  /** Random subsets that KID is the mean of. Default 100. */
  kidSubsets?: number
  /** Images of a subset; where there are fewer, all. Default 1000. */
  kidSubsetSize?: number
  /** Whose distance is a ball's radius, for precision and recall. Default 3. */
  neighbours?: number
  /** Parts of the samples, in their order, that the Inception score is the mean of. Default 10. */
  splits?: number
  /** Of KID's subsets. Default 0. */
  seed?: Seed
  /** Where KID, precision and recall are computed. Default 'auto'. */
  device?: DeviceName | Device
  /** Called after each batch of images and each subset. Default: none. */
  onProgress?: (event: SampleProgress) => unknown
  /** Ends it within a batch, with `aborted`. Default: none. */
  signal?: AbortSignal
}

const schema = {
  extractor: required(extractorField),
  reference: value<ImageStatistics>('statistics', (v) => (v as ImageStatistics)?.mean instanceof Float64Array),
  metrics: array(required(oneOf(sampleMetrics)), ['fid']),
  kidSubsets: integer(100, { min: 1 }),
  kidSubsetSize: integer(1000, { min: 2 }),
  neighbours: integer(3, { min: 1 }),
  splits: integer(10, { min: 1 }),
  seed: seed(0),
  device: value<DeviceName | Device>('a device', (v) => typeof v === 'string' || v instanceof Device),
  onProgress: func<(event: SampleProgress) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<EvaluateSamplesOptions>

/**
 * Goes through the samples once: `await evaluateSamples(samplesOf(ddpm), { extractor, reference: await referenceStatistics('photos',
 * { extractor, size: 32 }) })`. Samples are rounded to 8 bits, as saved ones are; in place of images they may be what the extractor
 * made of them before (openFeatures). Throws `aborted`, `not-finite`, and
 * `invalid-argument` for too few images and where the reference or its features are missing.
 */
export async function evaluateSamples(
  samples: ImageSet | FeatureSet,
  options: EvaluateSamplesOptions,
): Promise<SampleQuality> {
  const o = parseOptions('evaluateSamples', options, schema)
  const { extractor, reference, signal, onProgress } = o
  const wants = (metric: SampleMetric) => o.metrics.includes(metric)
  checkReference(reference, o.metrics, extractor)
  const keep = wants('kid') || wants('pr')
  const score = wants('is') ? new InceptionScore(samples.count, o.splits) : undefined
  if (wants('fid') && samples.count < 2) throw invalidArgument('samples', 'at least two images for FID', samples.count)
  const calculations = wants('fid') ? new Calculations(signal) : undefined
  const products = keep ? new Products(Device.open(o.device), extractor.features) : undefined
  const tell = async (phase: SampleProgress['phase'], done: number, total: number) => {
    if (signal?.aborted) throw aborted(signal)
    await onProgress?.({ phase, done, total })
  }
  try {
    const values = await collectFeatures(samples, {
      ...{ extractor, moments: calculations, keep, score, signal },
      onProgress: ({ done, total }) => tell('samples', done, total),
    })
    const own = { values, count: samples.count }
    const other = { values: reference?.features ?? new Float32Array(), count: featureCount(reference) }
    const quality: { -readonly [K in keyof SampleQuality]: SampleQuality[K] } = { images: samples.count }
    if (wants('fid')) {
      await tell('fid', 0, 1)
      quality.fid = await calculations!.call('frechet', await calculations!.call('moments'), momentsOf(reference!))
    }
    if (wants('kid')) {
      const kid = { subsets: o.kidSubsets, subsetSize: o.kidSubsetSize, seed: o.seed }
      quality.kid = await kernelDistance(products!, own, other, kid, (done) => tell('kid', done, o.kidSubsets))
    }
    if (wants('pr')) {
      await tell('pr', 0, 1)
      Object.assign(quality, await precisionRecall(products!, own, other, { neighbours: o.neighbours, signal }))
    }
    if (score) quality.inceptionScore = score.result()
    return quality
  } finally {
    products?.release()
    await calculations?.close()
  }
}

/** Of frechetDistance. */
export interface FrechetDistanceOptions {
  /** Ends it at once, with `aborted`. Default: none. */
  signal?: AbortSignal
}

const frechetSchema = { signal: schema.signal } satisfies SchemaOf<FrechetDistanceOptions>

/**
 * |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6), in float64,
 * for covariances of any rank. On a thread of its own. Throws `aborted`, and `invalid-argument` for other lengths and for a covariance
 * that is none.
 */
export async function frechetDistance(a: Moments, b: Moments, options: FrechetDistanceOptions = {}): Promise<number> {
  const { signal } = parseOptions('frechetDistance', options, frechetSchema)
  const d = a.mean.length
  for (const { mean, covariance } of [a, b]) {
    if (mean.length !== d || covariance.length !== d * d)
      throw invalidArgument('covariance', `means of ${d} and covariances of ${d * d} numbers`, covariance)
  }
  const calculations = new Calculations(signal)
  try {
    return await calculations.call('frechet', momentsOf(a), momentsOf(b))
  } finally {
    await calculations.close()
  }
}

/** Without features, which another thread needs no copy of. */
function momentsOf({ mean, covariance }: Moments): Moments {
  return { mean, covariance }
}

function featureCount(reference: ImageStatistics | undefined): number {
  return (reference?.features?.length ?? 0) / (reference?.mean.length ?? 1)
}

function checkReference(
  reference: ImageStatistics | undefined,
  metrics: readonly SampleMetric[],
  { features }: FeatureExtractor,
): void {
  const compared = metrics.filter((metric) => metric !== 'is')
  if (compared.length > 0 && !reference)
    throw invalidArgument('reference', `statistics to compare with, for ${compared.join(', ')}`, reference)
  if (reference && reference.mean.length !== features)
    throw invalidArgument('reference', `statistics of ${features} features`, reference.mean)
  const whole = compared.filter((metric) => metric !== 'fid')
  if (whole.length > 0 && !reference?.features)
    throw invalidArgument('reference', `statistics with features (keepFeatures), for ${whole.join(', ')}`, undefined)
}
