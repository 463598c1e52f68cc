/** Features of a set of images, batch after batch: of an extractor, or computed before. */
import { DiffusionError, invalidArgument } from '../errors'
import type { Tensor } from '../tensor'
import { aborted } from './calculations'
import type { FeatureExtractor } from './feature-extractor'
import { asSaved, type ImageSet } from './images'

/** Of a batch of images. */
export interface FeatureRows {
  readonly count: number
  /** [count, features], row by row. */
  readonly features: Float32Array
  /** [count, classes], what softmax makes probabilities of, for the Inception score. Default: none. */
  readonly logits?: Float32Array
}

/** What was computed of images: in place of them, wherever they are compared. */
export interface FeatureSet {
  /** Images. */
  readonly count: number
  /** Numbers of each. */
  readonly features: number
  /** Of the extractor that computed them. Default: not known. */
  readonly identity?: string
  /** The same ones whenever they are asked for. */
  rows(): AsyncIterable<FeatureRows>
}

/** Throws `invalid-argument` for features of another extractor, or of another number, and for a set of another length than it says. */
export async function* featureRows(
  set: ImageSet | FeatureSet,
  extractor: FeatureExtractor,
  signal?: AbortSignal,
): AsyncGenerator<FeatureRows> {
  const { count } = set
  let done = 0
  try {
    for await (const rows of 'rows' in set ? ownRows(set, extractor) : extracted(set, extractor, signal)) {
      if (signal?.aborted) throw aborted(signal)
      done += rows.count
      if (done > count) throw invalidArgument('samples', `${count} images, as they say`, 'more')
      yield rows
    }
  } catch (error) {
    // What ended the sampling is the signal, whatever it threw.
    if (signal?.aborted && !(error instanceof DiffusionError && error.code === 'aborted')) throw aborted(signal)
    throw error
  }
  if (done !== count) throw invalidArgument('samples', `${count} images, as they say`, done)
}

function ownRows(set: FeatureSet, { features, identity }: FeatureExtractor): AsyncIterable<FeatureRows> {
  if (set.features !== features)
    throw invalidArgument('samples', `features of the extractor's number, ${features}`, set.features)
  if (set.identity !== undefined && identity !== undefined && set.identity !== identity)
    throw invalidArgument('samples', `features of this extractor, ${identity}`, set.identity)
  return set.rows()
}

async function* extracted(
  set: ImageSet,
  extractor: FeatureExtractor,
  signal?: AbortSignal,
): AsyncGenerator<FeatureRows> {
  for await (const images of set.batches()) {
    if (signal?.aborted) throw aborted(signal)
    yield await featuresOf(images, extractor)
  }
}

/** Of images [n, 1 or 3, height, width] in [-1, 1], as saved ones are read. Throws `invalid-argument` and `not-finite`. */
export async function featuresOf(images: Tensor, extractor: FeatureExtractor): Promise<FeatureRows> {
  using batch = await asSaved(images)
  const { features, logits } = await extractor.extract(batch)
  const count = batch.shape[0]
  const rows = await checked(features, count, extractor.features)
  return { count, features: rows, ...(logits && { logits: (await logits.data()) as Float32Array }) }
}

async function checked(features: Tensor, n: number, d: number): Promise<Float32Array> {
  const [rows, columns, ...more] = features?.shape ?? []
  if (rows !== n || columns !== d || more.length > 0)
    throw invalidArgument('extractor', `features of shape [${n}, ${d}]`, features)
  const values = (await features.data()) as Float32Array
  if (values.every(Number.isFinite)) return values
  throw new DiffusionError('not-finite', 'the features of an image are not finite', { argument: 'extractor' })
}
