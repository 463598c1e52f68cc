/** What of a set of images others are compared with. */
import { boolean, func, parseOptions, required, type SchemaOf, value } from '../options'
import { Calculations } from './calculations'
import { collectFeatures } from './collect-features'
import type { FeatureExtractor } from './feature-extractor'
import type { ImageSet } from './images'
import type { Moments } from './moments'

/** Moments of the features of a set of images: what FID needs of it. */
export interface ImageStatistics extends Moments {
  /** Images. Default: not known, as in files of other tools. */
  readonly count?: number
  /** [count, d], row by row: what KID, precision and recall need. Default: not kept. */
  readonly features?: Float32Array
}

/** Of imageStatistics. */
export interface ImageStatisticsOptions {
  /** What makes features of images. Required. */
  extractor: FeatureExtractor
  /** Keep all features, for KID, precision and recall. Default false. */
  keepFeatures?: boolean
  /** Called after each batch: images done, and in all. Default: none. */
  onProgress?: (event: { done: number; total: number }) => unknown
  /** Ends it within a batch, with `aborted`. Default: none. */
  signal?: AbortSignal
}

/** Whether a value is an object with extract(). */
export const isExtractor = (v: unknown): v is FeatureExtractor =>
  typeof v === 'object' && v !== null && typeof (v as FeatureExtractor).extract === 'function'

export const extractorField = value<FeatureExtractor>('an object with features and extract()', isExtractor)

export const statisticsSchema = {
  extractor: required(extractorField),
  keepFeatures: boolean(false),
  onProgress: func<(event: { done: number; total: number }) => unknown>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<ImageStatisticsOptions>

/**
 * Goes through the images once; sums are float64's, on a thread of their own. Images are rounded to 8 bits, as saved ones are. Throws
 * `aborted`, `not-finite`, and `invalid-argument` for images that the extractor does not take.
 */
export async function imageStatistics(images: ImageSet, options: ImageStatisticsOptions): Promise<ImageStatistics> {
  const { extractor, keepFeatures, onProgress, signal } = parseOptions('imageStatistics', options, statisticsSchema)
  const calculations = new Calculations(signal)
  try {
    const collect = { extractor, moments: calculations, keep: keepFeatures, onProgress, signal }
    const features = await collectFeatures(images, collect)
    return { ...(await calculations.call('moments')), count: images.count, ...(keepFeatures && { features }) }
  } finally {
    await calculations.close()
  }
}
