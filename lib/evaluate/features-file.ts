/**
 * What sets of images are compared by, in an .npz file: `features` [n, d] and, where the extractor has them, `logits` [n, classes],
 * float32; and `about`, a JSON object that says what they are of.
 */
import { parseJsonObject } from '../checkpoint/json'
import { type Source, withSource } from '../checkpoint/source'
import { readZipDirectory } from '../checkpoint/torch/zip'
import { type NpyArray, writeNpz } from '../data/npz'
import { common, type PartHeader, partArray } from '../data/parts/part-file'
import { type StoredArray, storedArrays, storedPieces, storedText } from '../data/stored-npz'
import { DiffusionError, describe } from '../errors'
import type { FeatureExtractor } from './feature-extractor'
import { type FeatureRows, type FeatureSet, featureRows } from './feature-rows'
import type { ImageSet } from './images'

/** What the images were, to which others have to be made alike. */
export interface FeaturesLooks {
  readonly size: readonly [height: number, width: number]
  readonly channels: number
}

export interface WriteFeaturesOptions {
  readonly extractor: FeatureExtractor
  readonly looks: FeaturesLooks
  /** The part of a whole that the images are. */
  readonly part?: PartHeader
  readonly onProgress?: (event: { done: number; total: number }) => unknown
  readonly signal?: AbortSignal
}

const format = 'ddpm-native features 1'
const kind = 'file of features (.npz)'
const rowsAtOnce = 256

/** Goes through the images and writes the file, atomically. Throws what imageStatistics throws, and `io`. */
export async function writeFeatures(file: string, images: ImageSet, o: WriteFeaturesOptions): Promise<void> {
  const { extractor, looks, part, signal } = o
  const { count } = images
  const features = new Float32Array(count * extractor.features)
  let logits: Float32Array | undefined
  let done = 0
  for await (const rows of featureRows(images, extractor, signal)) {
    features.set(rows.features, done * extractor.features)
    if (rows.logits) {
      logits ??= new Float32Array((count * rows.logits.length) / rows.count)
      logits.set(rows.logits, (done * rows.logits.length) / rows.count)
    }
    done += rows.count
    await o.onProgress?.({ done, total: count })
  }
  const about = Buffer.from(JSON.stringify({ format, ...looks, identity: extractor.identity }))
  const rowsOf = (data: Float32Array): NpyArray => ({ data, shape: [count, data.length / count] })
  await writeNpz(file, {
    features: rowsOf(features),
    ...(logits && { logits: rowsOf(logits) }),
    [common]: { data: new Uint8Array(about), shape: [about.length] },
    ...(part && { part: partArray(part) }),
  })
}

/** Whether the .npz file has features rather than images. Throws `not-found`, `io`, and `bad-file` where it is none. */
export function hasFeatures(file: string): Promise<boolean> {
  const isOurs = async (source: Source) => {
    const entries = await readZipDirectory(source)
    return ['features.npy', `${common}.npy`].every((name) => entries.has(name))
  }
  return withSource(file, kind, isOurs, { argument: 'samples' })
}

/**
 * Features of a file, which are read when they are asked for, some rows at a time. Throws `not-found`, `io`, and `bad-file` for a damaged
 * file and for a part of a whole.
 */
export function openFeatures(file: string): Promise<FeatureSet & FeaturesLooks> {
  return withSource(file, kind, (source) => read(file, source), { argument: 'samples' })
}

async function read(file: string, source: Source): Promise<FeatureSet & FeaturesLooks> {
  const arrays = await storedArrays(source)
  const [features, logits, about] = ['features', 'logits', common].map((name) => arrays.get(name))
  if (!features || !about) throw source.bad(`it has no 'features' and '${common}'`)
  if (arrays.has('part')) throw source.bad('it is a part of a whole, which ddpm merge makes of all of them')
  const { size, channels, identity, ...rest } = parseJsonObject(await storedText(source, about), source.budget, 'it')
  const isSize = Array.isArray(size) && size.length === 2 && size.every((side) => Number.isInteger(side) && side > 0)
  const known = identity === undefined || typeof identity === 'string'
  if (rest.format !== format || !isSize || !(channels === 1 || channels === 3) || !known)
    throw source.bad(`its '${common}' does not say what they are of`)
  const [count, d] = features.shape
  for (const { name, shape, type } of logits ? [features, logits] : [features]) {
    if (type !== '<f4' || shape.length !== 2 || shape[0] !== count || !(count > 0 && shape[1] > 0))
      throw source.bad(`'${name}' is of shape ${describe(shape)} and type ${type}`)
  }
  return {
    ...{ count, features: d, identity, size: size as [number, number], channels },
    rows: () => rowsOf(file, features, logits),
  }
}

async function* rowsOf(file: string, features: StoredArray, logits?: StoredArray): AsyncGenerator<FeatureRows> {
  const piecesOf = (array: StoredArray) =>
    storedPieces(file, array, { bytes: 4 * rowsAtOnce * array.shape[1], argument: 'samples' })
  const others = logits && piecesOf(logits)
  try {
    for await (const piece of piecesOf(features)) {
      const numbers = new Float32Array(piece.buffer)
      if (!numbers.every(Number.isFinite))
        throw new DiffusionError('bad-file', `${file}: its features are not finite`, { argument: 'samples' })
      const other = await others?.next()
      const count = numbers.length / features.shape[1]
      yield { count, features: numbers, ...(other && { logits: new Float32Array(other.value!.buffer) }) }
    }
    await others?.next() // their sum is compared at the end
  } finally {
    await others?.return(undefined)
  }
}
