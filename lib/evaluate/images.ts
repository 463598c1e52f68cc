/** Sets of images that are compared: of data, of a model, or a caller's own. */
import { type ImageBytes, toBytes } from '../data/image-grid'
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { type PathOptions, pathSchema } from '../diffusion/options/sampling-options'
import type { ClassLabels } from '../diffusion/process/condition'
import { invalidArgument } from '../errors'
import { integer, parseOptions, type SchemaOf, type Seed, seed } from '../options'
import { Tensor } from '../tensor'

/** Images, batch after batch. */
export interface ImageSet {
  /** How many there are. */
  readonly count: number
  /** [n, 1 or 3, height, width] in [-1, 1]: the same ones whenever they are asked for. */
  batches(): AsyncIterable<Tensor>
}

/** Of imagesOf. */
export interface ImagesOfOptions {
  /** The first of them in the data's order. Default 0. */
  first?: number
  /** How many, from there on. Default: all. */
  count?: number
  /** Images in a batch. Default 16. */
  batchSize?: number
}

const imagesSchema = {
  first: integer(0, { min: 0 }),
  count: integer(undefined, { min: 1 }),
  batchSize: integer(16, { min: 1 }),
} satisfies SchemaOf<ImagesOfOptions>

/** The images of data: `imagesOf(await Dataset.open('photos', { size: 64 }))`. Throws `invalid-argument` where the data have no length and there is no count. */
export function imagesOf(data: TrainingData, options: ImagesOfOptions = {}): ImageSet {
  const parsed = parseOptions('imagesOf', options, imagesSchema)
  const { first: begin, count: wanted = Number.POSITIVE_INFINITY, batchSize } = parsed
  const length = data.length || Number.POSITIVE_INFINITY
  if (begin >= length) throw invalidArgument('first', `one of ${length} images`, begin)
  const count = Math.min(length - begin, wanted)
  if (count === Number.POSITIVE_INFINITY)
    throw invalidArgument('count', 'a number, where the data have none', undefined)
  return {
    count,
    async *batches() {
      const batches = data.batches(begin, batchSize, 2)
      try {
        for (let first = 0; first < count; first += batchSize) {
          const { images, shape } = await batches.next()
          const n = Math.min(batchSize, count - first)
          const size = images.length / shape[0]
          yield Tensor.wrap(images.subarray(0, n * size), [n, ...shape.slice(1)])
        }
      } finally {
        await batches.stop()
      }
    },
  }
}

/** Of samplesOf; where labels or a context are of each image, they are of all from image 0 on. */
export interface SamplesOfOptions extends PathOptions {
  /** Number of the first image. Default 0. */
  first?: number
  /** How many images. Default 10,000. */
  count?: number
  /** Images drawn at once; image i is the same in any batch. Default 16. */
  batchSize?: number
  /** Of the noise: image i of a seed is always the same. Default 0. */
  seed?: Seed
}

const samplesSchema = {
  ...pathSchema,
  first: integer(0, { min: 0 }),
  count: integer(10_000, { min: 1 }),
  batchSize: integer(16, { min: 1 }),
  seed: seed(0),
} satisfies SchemaOf<SamplesOfOptions>

/**
 * Samples of a model, which are drawn when they are asked for, as sample() draws them. Those of the averaged weights are
 * `ddpm.emaScope(() => evaluateSamples(samplesOf(ddpm), ...))`.
 */
export function samplesOf(ddpm: DDPM, options: SamplesOfOptions = {}): ImageSet {
  const parsed = parseOptions('samplesOf', options, samplesSchema)
  const { first: begin, count, batchSize, seed, classLabels, context, ...given } = parsed
  return {
    count,
    async *batches() {
      for (let first = begin; first < begin + count; first += batchSize) {
        const n = Math.min(batchSize, begin + count - first)
        const condition = {
          classLabels: await labelsAt(classLabels, first, n),
          context: context && (await rowsAt(context, first, n)),
        }
        yield await ddpm.sample({ ...given, ...condition, batchSize: n, seed, sampleOffset: first })
      }
    },
  }
}

async function rowsAt(all: Tensor, first: number, n: number): Promise<Tensor> {
  const [, ...row] = all.shape
  const size = row.reduce((a, b) => a * b, 1)
  return Tensor.wrap((await all.data()).slice(first * size, (first + n) * size), [n, ...row])
}

async function labelsAt(labels: ClassLabels | undefined, first: number, n: number): Promise<ClassLabels | undefined> {
  if (labels instanceof Tensor) return Int32Array.from((await labels.data()).subarray(first, first + n))
  if (labels instanceof Int32Array || Array.isArray(labels)) return labels.slice(first, first + n)
  return labels
}

/** [n, 3, height, width] of 8-bit images [n, height, width, 1 or 3]. Throws `invalid-argument` for other channels. */
export function fromBytes({ data, shape: [n, height, width, channels] }: ImageBytes): Tensor {
  if (channels !== 1 && channels !== 3) throw invalidArgument('images', 'images of 1 or 3 channels', channels)
  const plane = height * width
  const out = new Float32Array(n * 3 * plane)
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) {
      const from = i * plane * channels + Math.min(c, channels - 1)
      const to = (3 * i + c) * plane
      for (let p = 0; p < plane; p++) out[to + p] = data[from + p * channels] / 127.5 - 1
    }
  }
  return Tensor.wrap(out, [n, 3, height, width])
}

/** As a PNG of them has them: rounded to 8 bits, grey as three channels. */
export async function asSaved(images: Tensor): Promise<Tensor> {
  const fits = images instanceof Tensor && images.dtype === 'float32' && images.shape.length === 4
  if (!fits) throw invalidArgument('images', 'a float32 Tensor of shape [n, 1 or 3, height, width]', images)
  return fromBytes(toBytes(await images.data(), images.shape))
}
