/** The features of a set of images, gone through once. */
import { invalidArgument } from '../errors'
import type { Calculations } from './calculations'
import type { FeatureExtractor } from './feature-extractor'
import { type FeatureSet, featureRows } from './feature-rows'
import type { ImageSet } from './images'
import type { InceptionScore } from './inception-score'

/** What becomes of them. */
export interface CollectOptions {
  readonly extractor: FeatureExtractor
  /** Where their moments are summed; undefined: they are not. */
  readonly moments?: Calculations
  /** Whether all of them are kept. */
  readonly keep: boolean
  /** What is told the logits. */
  readonly score?: InceptionScore
  readonly signal?: AbortSignal
  readonly onProgress?: (event: { done: number; total: number }) => unknown
}

/**
 * [count, features] with `keep`, else empty. Moments lie with the calculations afterwards. Throws `aborted`, `not-finite`, and
 * `invalid-argument` for a set of another length than it says.
 */
export async function collectFeatures(set: ImageSet | FeatureSet, o: CollectOptions): Promise<Float32Array> {
  const { extractor, moments, score, signal } = o
  const { count } = set
  const kept = new Float32Array(o.keep ? count * extractor.features : 0)
  await moments?.call('begin', extractor.features)
  let adding: Promise<void> | undefined
  let done = 0
  for await (const { count: n, features, logits } of featureRows(set, extractor, signal)) {
    if (score) {
      if (!logits) throw invalidArgument('extractor', 'one with logits, for the Inception score', 'none')
      score.add(logits, logits.length / n)
    }
    if (o.keep) kept.set(features, done * extractor.features)
    await adding
    adding = moments?.call('add', features)
    adding?.catch(() => {}) // it is waited for with the next batch
    done += n
    await o.onProgress?.({ done, total: count })
  }
  await adding
  return kept
}
