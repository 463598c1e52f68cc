/** What a training draws its batches from. */
import type { Prefetcher } from './prefetch'
import type { UnreadableFile } from './sources/source'

export interface ImageBatch {
  /** [count, channels, height, width] in [-1, 1]. */
  readonly images: Float32Array
  /** Of the images. */
  readonly shape: readonly [count: number, channels: number, height: number, width: number]
  /** `images` are latents, scaled (default: pixels). */
  readonly latents?: boolean
  /** [count], where there are classes. */
  readonly labels?: Int32Array
  /** What was done to each image, [count, 9], where they are augmented (augment.ts). */
  readonly augmentation?: Float32Array
  /** One for each image, where there are texts. */
  readonly captions?: readonly string[]
}

/** An endless sequence of samples of which a position is all the state. */
export interface TrainingData {
  /** In messages: the path. */
  readonly name: string
  /** Samples of an epoch. */
  readonly length: number
  /** Of the images. */
  readonly channels: number
  /** Of the images, but for those of aspect buckets. */
  readonly height: number
  /** The same. */
  readonly width: number
  /** Names of the classes; undefined without any. */
  readonly classNames: readonly string[] | undefined
  /** Found so far. */
  readonly unreadable: readonly UnreadableFile[]
  /** Identifies what is trained on, so that a resumed training goes on with the same. */
  readonly fingerprint: string
  /** Samples [first, first + count): the same ones whenever they are asked for. */
  batch(first: number, count: number): Promise<ImageBatch>
  /** Batches of `count` from sample `first` on, made up to `ahead` of them (default 4) before they are asked for. */
  batches(first: number, count: number, ahead?: number): Prefetcher<ImageBatch>
}
