/** Latents that were computed once, as training data: each sample is a new draw of its image's posterior. */
import { DiffusionError } from '../../errors'
import type { Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import type { Dataset } from '../dataset'
import { flipped, permutation } from '../order'
import { Prefetcher } from '../prefetch'
import type { ImageBatch, TrainingData } from '../training-data'
import type { LatentFile } from './latent-file'

export interface LatentDataOptions {
  /** Of the order, of the mirroring and of the draws. */
  readonly seed: Seed
  /** What latents are multiplied by. */
  readonly scaleFactor: number
  /** Half of the samples are mirrored. */
  readonly flip: boolean
}

/** The order, and what is mirrored, are those of the images' Dataset; a batch's `images` are latents. */
export class LatentData implements TrainingData {
  readonly channels: number
  readonly height: number
  readonly width: number
  #order: { readonly epoch: number; readonly items: Uint32Array }[] = []

  constructor(
    readonly file: LatentFile,
    readonly images: Dataset,
    readonly o: LatentDataOptions,
  ) {
    ;[this.channels, this.height, this.width] = file.header.shape
    if (o.flip && file.header.views < 2) throw new DiffusionError('internal', 'the latents were not mirrored')
  }

  get name(): string {
    return this.images.name
  }

  get length(): number {
    return this.images.length
  }

  get classNames(): readonly string[] | undefined {
    return this.images.classNames
  }

  get unreadable(): TrainingData['unreadable'] {
    return this.images.unreadable
  }

  /** Of the images. */
  get fingerprint(): string {
    return this.images.fingerprint
  }

  async batch(first: number, count: number): Promise<ImageBatch> {
    const { channels, height, width } = this
    const size = channels * height * width
    const latents = new Float32Array(count * size)
    const items = new Array<number>(count)
    for (let i = 0; i < count; i++) {
      const g = first + i
      const place = this.#itemAt(g)
      items[i] = this.file.items[place]
      const view = this.o.flip && flipped(this.o.seed, g) ? 1 : 0
      latents.set(await this.#drawn(place, view, g), i * size)
    }
    return {
      images: latents,
      latents: true,
      shape: [count, channels, height, width],
      ...this.images.told(items, first),
    }
  }

  /** Scaled. Sample g has the same noise whenever it is drawn. */
  async #drawn(place: number, view: number, g: number): Promise<Float32Array> {
    const { mean, std } = await this.file.read(place, view)
    const { seed, scaleFactor } = this.o
    if (!std) return mean.map((v) => scaleFactor * v)
    const noise = normal(seed, Purpose.latent, g % 2 ** 31, Math.floor(g / 2 ** 31), mean.length)
    return mean.map((v, i) => scaleFactor * (v + std[i] * noise[i]))
  }

  batches(first: number, count: number, ahead = 4): Prefetcher<ImageBatch> {
    return new Prefetcher((k) => this.batch(first + k * count, count), 0, ahead)
  }

  #itemAt(g: number): number {
    const n = this.length
    const epoch = Math.floor(g / n)
    let order = this.#order.find((known) => known.epoch === epoch)
    if (!order) {
      order = { epoch, items: permutation(this.o.seed, epoch, n) }
      this.#order = [order, ...this.#order.slice(0, 1)]
    }
    return order.items[g - epoch * n]
  }
}
