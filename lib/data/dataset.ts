/** A source of images as an endless, reproducible sequence of training samples. */
import { createHash } from 'node:crypto'
import { DiffusionError, invalidArgument } from '../errors'
import type { Seed } from '../options'
import { type Augmentation, augmentationAt, augmentationDim, warped } from './augment'
import { bucketsOf, groupCount, groups, type Shape2 } from './buckets'
import { type ClassLabelling, type ClassSource, classLabels } from './class-labels'
import { mapConcurrently } from './concurrently'
import { captionAt, cropAt, flipped, flippedVertically, permutation } from './order'
import { centre, type Look, type Picture, toSigned, type View } from './picture'
import { Prefetcher } from './prefetch'
import { openSource } from './sources/open'
import type { ImageSource, Range, SourceOptions, UnreadableFile } from './sources/source'
import type { UserItems } from './sources/user'
import type { ImageBatch, TrainingData } from './training-data'

/** What is cut off of images of another shape: see DatasetOptions. */
export const crops = ['centre', 'random', 'none'] as const
export type Crop = (typeof crops)[number]

export interface DatasetOptions {
  /** Height and width in pixels: one number for both, or two. */
  readonly size: number | readonly [height: number, width: number]
  /** Default 3. Of image files: 1 for grey, 3 for RGB, 2 and 4 with alpha. Arrays may have any number. */
  readonly channels?: number
  /** What shows through transparent pixels: a CSS colour (default 'white'). */
  readonly background?: string
  /** Mirror half of the samples left to right, at random (default false). */
  readonly flip?: boolean
  /** Turn half of the samples upside down, at random (default false). */
  readonly flipVertical?: boolean
  /**
   * Of images of another shape, which are scaled to cover the size: cut out the middle ('centre', default) or a random part each time
   * ('random'); or scale each side by itself and cut nothing off ('none').
   */
  readonly crop?: Crop
  /** With crop 'random', how much larger than the size images are scaled before they are cut, at least 1 (default 1). */
  readonly cropScale?: number
  /**
   * Non-leaking augmentation (Karras et al. 2022, F.2; 0.12 there): the probability with which an image is scaled, turned, stretched,
   * moved or turned upside down, each by itself. A batch says what was done, mirroring included (default: none).
   */
  readonly augment?: number
  /** Aspect buckets, [height, width] of each: an image gets the size that is most like its own, a batch has one (default: none). */
  readonly buckets?: readonly Shape2[]
  /** Black and white of images and arrays of floats, such as [0, 1] (default: floats are refused). */
  readonly range?: Range
  /**
   * Where the images' classes come from: 'folders', 'labels' for those that the file itself has, or a JSON file (default: there are
   * none; those of an object are always used).
   */
  readonly classes?: ClassSource
  /** Of the order and of what is random in a sample (default 0). */
  readonly seed?: Seed
  /** Decoded images are kept in memory up to this many bytes (default 512 MiB); what does not fit is decoded again. */
  readonly cacheBytes?: number
  /** SVGs are read too; what they do is not bounded (default false: they are unreadable). */
  readonly svg?: boolean
  /** Texts of a folder's images are read: metadata.jsonl, or a .txt beside each; other sources always have theirs (default false). */
  readonly captions?: boolean
  /** Called once for each item that turns out to be unreadable. Default: none. */
  readonly onUnreadable?: (file: UnreadableFile) => void
}

/**
 * Sample g of the sequence is item `permutation(epoch)[g mod n]` of epoch floor(g / n). Order, flips and crops follow from (seed, g)
 * alone, so a position is all the state there is. With aspect buckets, batches take the place of items (buckets.ts).
 */
export class Dataset implements TrainingData {
  readonly source: ImageSource
  readonly channels: number
  readonly height: number
  readonly width: number
  /** Found so far: what could not be opened, and damaged images when they are first decoded. */
  readonly unreadable: UnreadableFile[] = []
  /** Identifies what is trained on: the names, and how they are decoded. */
  readonly fingerprint: string
  /** Names of the classes; undefined without `classes`. */
  readonly classNames: readonly string[] | undefined

  readonly #labels: Int32Array | undefined
  readonly #look: Look
  readonly #o: DatasetOptions
  readonly #seed: Seed
  /** Of each item. */
  readonly #buckets: Uint32Array | undefined
  readonly #cache = new Map<number, Picture>()
  #cacheRoom: number // bytes left
  readonly #damaged = new Set<number>()
  #order: { epoch: number; count: number; items: readonly Uint32Array[] }[] = []

  protected constructor(
    source: ImageSource,
    o: DatasetOptions,
    classes: ClassLabelling | undefined,
    buckets: Uint32Array | undefined,
  ) {
    const { size, channels = 3, background = 'white', crop = 'centre' } = o
    const [height, width] = typeof size === 'number' ? [size, size] : size
    this.source = source
    this.channels = channels
    this.height = height
    this.width = width
    this.classNames = classes?.names
    this.#labels = classes?.labels
    const fit = crop === 'none' ? 'fill' : crop === 'random' ? 'cover' : 'crop'
    this.#look = { height, width, channels, background, fit }
    this.#o = o
    this.#seed = o.seed ?? 0
    this.#buckets = buckets
    this.#cacheRoom = o.cacheBytes ?? 512 * 2 ** 20
    const decoding = {
      size: height === width ? height : [height, width],
      ...{ channels, background, buckets: o.buckets, range: o.range },
      ...(crop !== 'centre' && { crop, cropScale: o.cropScale }),
    }
    this.fingerprint = createHash('sha256')
      .update(JSON.stringify([source.identity, decoding, ...(classes ? [classes.names, [...classes.labels]] : [])]))
      .digest('hex')
      .slice(0, 16)
    for (const file of source.leftOut) this.#report(file)
  }

  /**
   * Opens what `data` is: a folder of images, a file of many (sources/open.ts says which), or an object of the caller's. Throws
   * `not-found` and `io` for what cannot be read, `bad-file` for a damaged file, `invalid-argument` for one without an image that can
   * be read, for options that don't fit it and, with `classes`, where an image has no class.
   */
  static async open(data: string | UserItems, options: DatasetOptions): Promise<Dataset> {
    return Dataset.of(await openSource(data, sourceOptions(options)), options)
  }

  /** Of a source that is open. */
  static async of(source: ImageSource, options: DatasetOptions): Promise<Dataset> {
    return new Dataset(source, options, ...(await prepared(source, options)))
  }

  get name(): string {
    return this.source.name
  }

  /** Images that can be drawn. */
  get length(): number {
    return this.source.length
  }

  /** The item that sample `g` of the sequence is. Not of one with aspect buckets, where it depends on the batch size. */
  fileOf(g: number): string {
    return this.source.nameOf(this.#items(g, 1)[0])
  }

  /**
   * Samples [first, first + count). With aspect buckets `first` is a multiple of `count`. Throws `io`, `not-found` and
   * `out-of-memory` for an image that can't be read now, after some tries: it is not left out, so that a position always means the
   * same image.
   */
  async batch(first: number, count: number): Promise<ImageBatch> {
    const { channels } = this
    const items = this.#items(first, count)
    const look = this.#lookOf(items[0])
    const length = channels * look.height * look.width
    const images = new Float32Array(count * length)
    const augmentation = this.#o.augment === undefined ? undefined : new Float32Array(count * augmentationDim)
    const drawn = new Array<number>(count)
    const samples = Array.from({ length: count }, (_, i) => i)
    await mapConcurrently(samples, 8, async (i) => {
      const { picture, item } = await this.#picture(items[i])
      const image = images.subarray(i * length, (i + 1) * length)
      const { view, told, from } = this.#view(picture, look, first + i)
      toSigned(picture, view, image)
      if (from) image.set(warped(image, look, from))
      if (told) augmentation?.set(told, i * augmentationDim)
      drawn[i] = item
    })
    const shape = [count, channels, look.height, look.width] as const
    return { images, shape, ...(augmentation && { augmentation }), ...this.told(drawn, first) }
  }

  /** What is told of items that are samples from `first` on. */
  told(items: readonly number[], first: number): Pick<ImageBatch, 'labels' | 'captions'> {
    const { source } = this
    const caption = (item: number, i: number) => {
      const texts = [source.captionOf!(item) ?? ''].flat()
      return texts[captionAt(this.#seed, first + i, texts.length)]
    }
    return {
      ...(this.#labels && { labels: Int32Array.from(items, (item) => this.#labels![item]) }),
      ...(source.captionOf && { captions: items.map(caption) }),
    }
  }

  /**
   * Items as they are, their middles, with nothing at random; with `mirrored` the same mirrored, too. `items` says which they are, where
   * one is damaged.
   */
  async pictures(items: readonly number[], mirrored = false): Promise<{ views: Float32Array[]; items: number[] }> {
    const look = this.#look
    const length = this.channels * look.height * look.width
    const flips = mirrored ? [false, true] : [false]
    const views = flips.map(() => new Float32Array(items.length * length))
    const found = await mapConcurrently([...items.entries()], 8, async ([i, wanted]) => {
      const { picture, item } = await this.#picture(wanted)
      for (const [k, flip] of flips.entries()) {
        toSigned(picture, { ...centre(picture, look), flip }, views[k].subarray(i * length, (i + 1) * length))
      }
      return item
    })
    return { views, items: found }
  }

  /** Batches of `count` from sample `first` on, decoded up to `ahead` of them (default 4) before they are asked for. */
  batches(first: number, count: number, ahead = 4): Prefetcher<ImageBatch> {
    return new Prefetcher((k) => this.batch(first + k * count, count), 0, ahead)
  }

  /** The part of the picture that sample `g` is, and what else is done to it. */
  #view(picture: Picture, look: Look, g: number): { view: View } & Partial<Augmentation> {
    const { flip = false, flipVertical = false, augment: probability } = this.#o
    const middle = centre(picture, look)
    const rows = picture.height - look.height + 1
    const columns = picture.width - look.width + 1
    const [top, left] = look.fit === 'cover' ? cropAt(this.#seed, g, rows, columns) : [middle.top, middle.left]
    const { height, width } = look
    const done: Pick<Augmentation, 'flip' | 'flipVertical'> & Partial<Augmentation> =
      probability === undefined
        ? { flip: flip && flipped(this.#seed, g), flipVertical: flipVertical && flippedVertically(this.#seed, g) }
        : augmentationAt(this.#seed, g, { probability, height, width, flip, flipVertical })
    return { ...done, view: { ...middle, top, left, flip: done.flip, flipVertical: done.flipVertical } }
  }

  /** How the samples of an item's batch look. */
  #lookOf(item: number): Look {
    const { buckets } = this.#o
    if (!this.#buckets || !buckets) return this.#look
    const [height, width] = buckets[this.#buckets[item]]
    return { ...this.#look, height, width }
  }

  #items(first: number, count: number): readonly number[] {
    if (!this.#buckets) return Array.from({ length: count }, (_, i) => this.#itemAt(first + i))
    if (first % count !== 0) throw invalidArgument('first', `a multiple of ${count} with aspect buckets`, first)
    const n = groupCount(this.#buckets, count)
    const epoch = Math.floor(first / count / n)
    const all = this.#ordered(epoch, count, () => groups(this.#seed, epoch, this.#buckets!, count))
    return [...all[first / count - epoch * n]]
  }

  #itemAt(g: number): number {
    const n = this.length
    const epoch = Math.floor(g / n)
    return this.#ordered(epoch, 0, () => [permutation(this.#seed, epoch, n)])[0][g - epoch * n]
  }

  #ordered(epoch: number, count: number, make: () => readonly Uint32Array[]): readonly Uint32Array[] {
    let order = this.#order.find((o) => o.epoch === epoch && o.count === count)
    if (!order) {
      order = { epoch, count, items: make() }
      this.#order = [order, ...this.#order.slice(0, 1)] // prefetching works on two epochs at once at most
    }
    return order.items
  }

  /** An image that cannot be decoded is replaced by the next one that can: the same one at every run. */
  async #picture(item: number): Promise<{ picture: Picture; item: number }> {
    const n = this.length
    const bucket = this.#buckets?.[item]
    const look = this.#lookOf(item)
    for (let k = 0; k < n; k++) {
      const i = (item + k) % n
      if (this.#buckets?.[i] !== bucket || this.#damaged.has(i)) continue
      const cached = this.#cache.get(i)
      if (cached) return { picture: cached, item: i }
      try {
        return { picture: this.#keep(i, await this.source.read(i, this.#room(look))), item: i }
      } catch (error) {
        if (!(error instanceof DiffusionError) || error.code !== 'bad-file') throw error
        if (!this.#damaged.has(i)) {
          this.#damaged.add(i)
          this.#report({ file: this.source.nameOf(i), reason: error.message.split('\n')[0] })
        }
      }
    }
    const { file, reason } = this.unreadable[0]
    throw new DiffusionError(
      'invalid-argument',
      `no readable image in ${this.name} (all ${this.unreadable.length} are unreadable, first ${file}: ${reason})`,
      { argument: 'folder', expected: 'at least one readable image', received: this.name },
    )
  }

  /** The look with what random crops need beyond it. */
  #room(look: Look): Look {
    const { cropScale = 1 } = this.#o
    if (look.fit !== 'cover' || cropScale === 1) return look
    return { ...look, height: Math.round(look.height * cropScale), width: Math.round(look.width * cropScale) }
  }

  #keep(item: number, picture: Picture): Picture {
    const bytes = picture.data.byteLength
    if (bytes <= this.#cacheRoom && !this.#cache.has(item)) {
      this.#cacheRoom -= bytes
      this.#cache.set(item, picture)
    }
    return picture
  }

  #report(file: UnreadableFile): void {
    this.unreadable.push(file)
    this.#o.onUnreadable?.(file)
  }
}

/** What of the options concerns the opening of a source. */
export function sourceOptions({ size, channels = 3, range, svg, captions }: DatasetOptions): SourceOptions {
  const [height, width] = typeof size === 'number' ? [size, size] : size
  return { channels, height, width, range, svg, captions }
}

/** What of a source is looked at before the first sample. */
export async function prepared(
  source: ImageSource,
  { classes, buckets }: DatasetOptions,
): Promise<[classes: ClassLabelling | undefined, buckets: Uint32Array | undefined]> {
  const labelling = classes === undefined ? source.ownClasses : await labellingOf(source, classes)
  if (!buckets) return [labelling, undefined]
  const items = Array.from({ length: source.length }, (_, i) => i)
  return [labelling, bucketsOf(await mapConcurrently(items, 8, (i) => source.sizeOf(i)), buckets)]
}

function labellingOf(source: ImageSource, classes: ClassSource): Promise<ClassLabelling> | ClassLabelling {
  if (classes !== 'labels') {
    return classLabels(
      Array.from({ length: source.length }, (_, i) => source.nameOf(i)),
      classes,
    )
  }
  if (source.classes) return source.classes
  throw invalidArgument('classes', `'folders' or a JSON file: ${source.name} has no labels itself`, classes)
}
