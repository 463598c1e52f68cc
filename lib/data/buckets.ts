/**
 * Aspect buckets: images of many shapes are trained in a few, each image in the one that is most like its own, and each batch in one
 * shape (NovelAI 2022, "aspect ratio bucketing").
 */
import type { Seed } from '../options'
import { groupPermutation, permutation } from './order'

export type Shape2 = readonly [height: number, width: number]

/** For each image the bucket whose aspect ratio is nearest, by the ratio of the ratios; of equals the first. */
export function bucketsOf(
  sizes: readonly { height: number; width: number }[],
  buckets: readonly Shape2[],
): Uint32Array {
  return Uint32Array.from(sizes, ({ height, width }) => {
    const away = buckets.map(([h, w]) => Math.abs(Math.log((width / height / w) * h)))
    return away.indexOf(Math.min(...away))
  })
}

/**
 * The batches of an epoch, [images of each], in their order: images in the epoch's order, those of a bucket together; the last batch
 * of a bucket is filled up with the bucket's first images.
 */
export function groups(seed: Seed, epoch: number, bucketOf: Uint32Array, count: number): Uint32Array[] {
  const members = new Map<number, number[]>()
  for (const image of permutation(seed, epoch, bucketOf.length)) {
    const bucket = bucketOf[image]
    const list = members.get(bucket)
    if (list) list.push(image)
    else members.set(bucket, [image])
  }
  const all: Uint32Array[] = []
  // In the buckets' own order, which does not depend on the epoch's.
  for (const [, list] of [...members].sort(([a], [b]) => a - b)) {
    for (let from = 0; from < list.length; from += count) {
      all.push(Uint32Array.from({ length: count }, (_, i) => list[(from + i) % list.length]))
    }
  }
  return Array.from(groupPermutation(seed, epoch, all.length), (g) => all[g])
}

/** How many batches an epoch has. */
export function groupCount(bucketOf: Uint32Array, count: number): number {
  const sizes = new Map<number, number>()
  for (const bucket of bucketOf) sizes.set(bucket, (sizes.get(bucket) ?? 0) + 1)
  return [...sizes.values()].reduce((sum, size) => sum + Math.ceil(size / count), 0)
}
