/** The features of a set of images, gone through once. */
import { DiffusionError, invalidArgument } from '../errors'
import type { Tensor } from '../tensor'
import { aborted, type Calculations } from './calculations'
import type { FeatureExtractor } from './feature-extractor'
import { asSaved, type ImageSet } from './images'
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
export async function collectFeatures(set: ImageSet, o: CollectOptions): Promise<Float32Array> {
  const { extractor, moments, score, signal } = o
  const { count } = set
  const kept = new Float32Array(o.keep ? count * extractor.features : 0)
  await moments?.call('begin', extractor.features)
  let adding: Promise<void> | undefined
  let done = 0
  try {
    for await (const images of set.batches()) {
      if (signal?.aborted) throw aborted(signal)
      using batch = await asSaved(images)
      const { features, logits } = await extractor.extract(batch)
      const rows = await checked(features, batch.shape[0], extractor.features)
      if (score) score.add(await logitsOf(logits), logits!.shape[1])
      if (done + batch.shape[0] > count) throw invalidArgument('samples', `${count} images, as they say`, 'more')
      if (o.keep) kept.set(rows, done * extractor.features)
      await adding
      adding = moments?.call('add', rows)
      adding?.catch(() => {}) // it is waited for with the next batch
      done += batch.shape[0]
      await o.onProgress?.({ done, total: count })
    }
    await adding
  } catch (error) {
    // What ended the sampling is the signal, whatever it threw.
    if (signal?.aborted && !(error instanceof DiffusionError && error.code === 'aborted')) throw aborted(signal)
    throw error
  }
  if (done !== count) throw invalidArgument('samples', `${count} images, as they say`, done)
  return kept
}

async function checked(features: Tensor, n: number, d: number): Promise<Float32Array> {
  const [rows, columns, ...more] = features?.shape ?? []
  if (rows !== n || columns !== d || more.length > 0)
    throw invalidArgument('extractor', `features of shape [${n}, ${d}]`, features)
  const values = (await features.data()) as Float32Array
  if (values.every(Number.isFinite)) return values
  throw new DiffusionError('not-finite', 'the features of an image are not finite', { argument: 'extractor' })
}

async function logitsOf(logits: Tensor | undefined): Promise<Float32Array> {
  if (logits) return (await logits.data()) as Float32Array
  throw invalidArgument('extractor', 'one with logits, for the Inception score', 'none')
}
