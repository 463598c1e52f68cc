/** A folder of images as an endless, reproducible sequence of training samples. */
import { createHash } from 'node:crypto'
import path from 'node:path'
import { DiffusionError } from '../errors'
import type { Seed } from '../options'
import { type ClassLabelling, type ClassSource, classLabels } from './class-labels'
import { isFailureToRead } from './image-bytes'
import { checkImageHeader, type DecodeOptions, decodeImage, toSigned } from './image-file'
import { imageExtensions, listImages } from './list-images'
import { flipped, permutation } from './order'
import { Prefetcher } from './prefetch'

export interface ImageFolderOptions {
  /** Height and width in pixels. */
  readonly size: number
  /** 1 for grey, 3 for RGB (default). */
  readonly channels?: 1 | 3
  /** What shows through transparent pixels: a CSS colour (default 'white'). */
  readonly background?: string
  /** Mirror half of the samples left to right, at random (default false). */
  readonly flip?: boolean
  /** Where the images' classes come from: 'folders', or a JSON file (default: there are none). */
  readonly classes?: ClassSource
  /** Of the order and of the flips (default 0). */
  readonly seed?: Seed
  /** Decoded images are kept in memory up to this many bytes (default 512 MiB); what does not fit is decoded again. */
  readonly cacheBytes?: number
  /** SVGs are read too; what they do is not bounded (default false: they are unreadable). */
  readonly svg?: boolean
  /** Called once for each file that turns out to be unreadable. Default: none. */
  readonly onUnreadable?: (file: UnreadableFile) => void
}

export interface UnreadableFile {
  /** Relative to the folder. */
  readonly file: string
  readonly reason: string
}

export interface ImageBatch {
  /** [count, channels, size, size] in [-1, 1]. */
  readonly images: Float32Array
  /** [count], where there are classes. */
  readonly labels?: Int32Array
}

/**
 * Sample g of the sequence is image `permutation(epoch)[g mod n]` of epoch floor(g / n). Order and flips follow from (seed, g)
 * alone, so a position is all the state there is.
 */
export class ImageFolder {
  readonly folder: string
  /** Relative paths with '/', in the order of their code units. */
  readonly files: readonly string[]
  /** Found so far: bad headers when the folder is opened, damaged bodies when they are first decoded. */
  readonly unreadable: UnreadableFile[] = []
  /** Identifies what is trained on: the names, and how they are decoded. */
  readonly fingerprint: string
  /** Names of the classes; undefined without `classes`. */
  readonly classNames: readonly string[] | undefined

  readonly #labels: Int32Array | undefined
  readonly #decode: DecodeOptions
  readonly #svg: boolean
  readonly #flip: boolean
  readonly #seed: Seed
  readonly #onUnreadable: (file: UnreadableFile) => void
  readonly #cache = new Map<number, Uint8Array>()
  #cacheRoom: number // bytes left
  readonly #damaged = new Set<number>()
  #order: { epoch: number; permutation: Uint32Array }[] = []

  private constructor(
    folder: string,
    files: readonly string[],
    classes: ClassLabelling | undefined,
    options: ImageFolderOptions,
  ) {
    this.folder = folder
    this.files = files
    this.classNames = classes?.names
    this.#labels = classes?.labels
    this.#decode = {
      size: options.size,
      channels: options.channels ?? 3,
      background: options.background ?? 'white',
    }
    this.#svg = options.svg ?? false
    this.#flip = options.flip ?? false
    this.#seed = options.seed ?? 0
    this.#cacheRoom = options.cacheBytes ?? 512 * 2 ** 20
    this.#onUnreadable = options.onUnreadable ?? (() => {})
    this.fingerprint = createHash('sha256')
      .update(JSON.stringify([files, this.#decode, ...(classes ? [classes.names, [...classes.labels]] : [])]))
      .digest('hex')
      .slice(0, 16)
  }

  /**
   * Lists the images below `folder` (recursively, by file extension, without hidden ones, through symbolic links) and checks their
   * headers. Links that lead nowhere or in a circle are unreadable.
   * Throws `not-found` and `io` for a folder or a file that cannot be read, `invalid-argument` for one without a readable image or, with
   * `classes`, with one that has no class.
   */
  static async open(folder: string, options: ImageFolderOptions): Promise<ImageFolder> {
    const { files: candidates, leftOut } = await listImages(folder)
    const unreadable: UnreadableFile[] = [...leftOut]
    const readable: string[] = []
    const problems = await mapConcurrently(candidates, 8, async (file) => {
      try {
        await checkImageHeader(path.join(folder, file), { svg: options.svg })
        return undefined
      } catch (error) {
        if (isFailureToRead(error)) throw error
        return reasonOf(error)
      }
    })
    candidates.forEach((file, i) => {
      const reason = problems[i]
      if (reason === undefined) readable.push(file)
      else unreadable.push({ file, reason })
    })
    if (readable.length === 0) throw emptyDataset(folder, unreadable)
    const classes = options.classes === undefined ? undefined : await classLabels(readable, options.classes)
    const dataset = new ImageFolder(folder, readable, classes, options)
    for (const file of unreadable) dataset.#report(file)
    return dataset
  }

  /** Images that can be drawn. */
  get length(): number {
    return this.files.length
  }

  /** Height and width. */
  get size(): number {
    return this.#decode.size
  }

  get channels(): number {
    return this.#decode.channels
  }

  /** The file that sample `g` of the sequence is read from. */
  fileOf(g: number): string {
    return this.files[this.#indexOf(g)]
  }

  /**
   * Samples [first, first + count). Throws `io`, `not-found` and `out-of-memory` for an image that can't be read now, after some
   * tries: it is not left out, so that a position always means the same image.
   */
  async batch(first: number, count: number): Promise<ImageBatch> {
    const { size, channels } = this.#decode
    const length = channels * size * size
    const images = new Float32Array(count * length)
    const labels = this.#labels && new Int32Array(count)
    const samples = Array.from({ length: count }, (_, i) => i)
    await mapConcurrently(samples, 8, async (i) => {
      const g = first + i
      const { pixels, index } = await this.#pixels(this.#indexOf(g))
      const flip = this.#flip && flipped(this.#seed, g)
      toSigned(pixels, { size, channels, flip }, images.subarray(i * length, (i + 1) * length))
      if (labels) labels[i] = this.#labels![index]
    })
    return { images, labels }
  }

  /** Batches of `count` from sample `first` on, decoded up to `ahead` of them (default 4) before they are asked for. */
  batches(first: number, count: number, ahead = 4): Prefetcher<ImageBatch> {
    return new Prefetcher((k) => this.batch(first + k * count, count), 0, ahead)
  }

  #indexOf(g: number): number {
    const n = this.files.length
    const epoch = Math.floor(g / n)
    let order = this.#order.find((o) => o.epoch === epoch)
    if (!order) {
      order = { epoch, permutation: permutation(this.#seed, epoch, n) }
      this.#order = [order, ...this.#order.slice(0, 1)] // prefetching works on two epochs at once at most
    }
    return order.permutation[g - epoch * n]
  }

  /** An image that cannot be decoded is replaced by the next one that can: the same one at every run. */
  async #pixels(index: number): Promise<{ pixels: Uint8Array; index: number }> {
    const n = this.files.length
    for (let k = 0; k < n; k++) {
      const i = (index + k) % n
      const cached = this.#cache.get(i)
      if (cached) return { pixels: cached, index: i }
      if (this.#damaged.has(i)) continue
      const file = this.files[i]
      try {
        const pixels = await decodeImage(path.join(this.folder, file), this.#decode, { svg: this.#svg })
        if (pixels.length <= this.#cacheRoom && !this.#cache.has(i)) {
          this.#cacheRoom -= pixels.length
          this.#cache.set(i, pixels)
        }
        return { pixels, index: i }
      } catch (error) {
        if (isFailureToRead(error)) throw error
        if (!this.#damaged.has(i)) {
          this.#damaged.add(i)
          this.#report({ file, reason: reasonOf(error) })
        }
      }
    }
    throw emptyDataset(this.folder, this.unreadable)
  }

  #report(file: UnreadableFile): void {
    this.unreadable.push(file)
    this.#onUnreadable(file)
  }
}

function emptyDataset(folder: string, unreadable: readonly UnreadableFile[]): DiffusionError {
  const found = unreadable[0]
    ? `all ${unreadable.length} are unreadable, first ${unreadable[0].file}: ${unreadable[0].reason}`
    : `no file ends in ${[...imageExtensions].join(' ')}`
  return new DiffusionError('invalid-argument', `no readable image in ${folder} (${found})`, {
    argument: 'folder',
    expected: 'at least one readable image',
    received: folder,
  })
}

function reasonOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]
}

async function mapConcurrently<T, R>(items: readonly T[], limit: number, fn: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length)
  let next = 0
  const work = async () => {
    while (next < items.length) {
      const i = next++
      try {
        results[i] = await fn(items[i])
      } catch (error) {
        next = items.length // nothing is begun any more
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, work))
  return results
}
