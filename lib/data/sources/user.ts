/** Data that a caller's own object gives: from a database, a simulation, or what else there is. */
import { type DiffusionError, invalidArgument } from '../../errors'
import { Tensor } from '../../tensor'
import type { Picture } from '../picture'
import { Prefetcher } from '../prefetch'
import { fitted } from '../resample'
import type { ImageBatch, TrainingData } from '../training-data'
import type { ImageSource, SourceOptions } from './source'

/** Pixels as sharp and canvases have them, of any height and width: scaled and cropped as images of files are. */
export interface UserPicture {
  /** Of [height, width, channels]; 0 to 255, 0 to 65535, or floats in [-1, 1]. */
  readonly data: Uint8Array | Uint8ClampedArray | Uint16Array | Float32Array
  readonly height: number
  readonly width: number
}

/** An image, [channels, height, width] in [-1, 1] of the model's size, or a picture. */
export type UserImage = Float32Array | Tensor | UserPicture

/** Items, of which the training makes the order: it shuffles, mirrors and crops them as it does files. */
export interface UserItems {
  /** How many there are. */
  readonly length: number
  /** Item i, 0 <= i < length; several are asked for at once. */
  get(i: number): UserImage | Promise<UserImage>
  /** Of a class-conditional training: the classes that labels are numbers of. Default: none. */
  readonly classNames?: readonly string[]
  /** The class of each item. Needed where there are classNames. */
  readonly labels?: ArrayLike<number>
  /** Names the data, so that a resumed training is refused on others. Default: by the length. */
  readonly fingerprint?: string
}

/** Batches, whose order is the object's own: nothing is shuffled, mirrored or cropped. */
export interface UserBatches {
  /**
   * Samples [first, first + count) of an endless sequence: the same ones whenever they are asked for, or a resumed training is not
   * the same. Images are [count, channels, height, width] in [-1, 1], of the model's size. Several are asked for at once.
   */
  batch(first: number, count: number): UserBatch | Promise<UserBatch>
  /** Samples of an epoch, for what is reported. Default 0: not known. */
  readonly length?: number
  /** As in UserItems. */
  readonly classNames?: readonly string[]
  /** As in UserItems. */
  readonly fingerprint?: string
}

export interface UserBatch {
  readonly images: Float32Array | Tensor
  /** [count], of numbers of `classNames`. Needed where there are any. */
  readonly labels?: ArrayLike<number>
}

export type UserData = UserItems | UserBatches

/** In messages. */
const name = 'data'

const hasMethod = (value: object, method: string) => typeof (value as Record<string, unknown>)[method] === 'function'

/** Whether a value is an object with batch(), or with get() and a length. */
export function isUserData(value: unknown): value is UserData {
  return typeof value === 'object' && value !== null && (hasMethod(value, 'batch') || hasMethod(value, 'get'))
}

export function givesBatches(data: unknown): data is UserBatches {
  return isUserData(data) && hasMethod(data, 'batch')
}

function wrong(what: string, expected: string, value: unknown): DiffusionError {
  return invalidArgument(`${name}.${what}`, expected, value)
}

/** Throws `invalid-argument` for a length or classes that are none, and on reading for what is no image. */
export function userSource(data: UserItems, o: SourceOptions): ImageSource {
  const { length, classNames, fingerprint } = data
  if (!Number.isSafeInteger(length) || length < 1) throw wrong('length', 'an integer of at least 1', length)
  checkNames(classNames, fingerprint)
  const labels = classNames && checkedLabels(data.labels, length, classNames, 'labels')
  const picture = async (i: number) => pictureOf(await data.get(i), o, `get(${i})`)
  return {
    name,
    length,
    nameOf: (i) => String(i),
    ...(labels && { ownClasses: { names: classNames, labels } }),
    identity: ['object', length, fingerprint ?? null],
    leftOut: [],
    read: async (i, look) => fitted(await picture(i), look, `${name}.get(${i})`),
    sizeOf: picture,
  }
}

function checkNames(classNames: unknown, fingerprint: unknown): void {
  const isName = (v: unknown) => typeof v === 'string'
  if (classNames !== undefined && !(Array.isArray(classNames) && classNames.length > 0 && classNames.every(isName))) {
    throw wrong('classNames', 'an array of names', classNames)
  }
  if (fingerprint !== undefined && !isName(fingerprint)) throw wrong('fingerprint', 'a string', fingerprint)
}

function checkedLabels(
  labels: ArrayLike<number> | undefined,
  length: number,
  { length: classes }: readonly string[],
  what: string,
): Int32Array {
  if (labels?.length !== length) throw wrong(what, `${length} numbers of classes`, labels)
  return Int32Array.from(labels, (label, i) => {
    if (Number.isInteger(label) && label >= 0 && label < classes) return label
    throw wrong(`${what}[${i}]`, `a class from 0 to ${classes - 1}`, label)
  })
}

async function pictureOf(image: UserImage, { channels, height, width }: SourceOptions, what: string): Promise<Picture> {
  if (image instanceof Float32Array) {
    const shape = [channels, height, width]
    if (image.length === channels * height * width) return planar(image, shape, what)
    throw wrong(what, `${channels * height * width} floats, [${shape.join(', ')}]`, image)
  }
  if (image instanceof Tensor) {
    if (image.dtype === 'float32' && image.shape.length === 3 && image.shape[0] === channels) {
      return planar((await image.data()) as Float32Array, image.shape, what)
    }
    throw wrong(what, `a float32 Tensor [${channels}, height, width]`, image)
  }
  const { data, height: rows, width: columns } = image ?? {}
  const pixels = data instanceof Uint8ClampedArray ? new Uint8Array(data.buffer, data.byteOffset, data.length) : data
  const known = pixels instanceof Uint8Array || pixels instanceof Uint16Array || pixels instanceof Float32Array
  if (known && rows >= 1 && columns >= 1 && pixels.length === rows * columns * channels) {
    if (pixels instanceof Float32Array) checkRange(pixels, what)
    return { data: pixels, height: rows, width: columns, channels }
  }
  throw wrong(what, `a Float32Array, a Tensor, or { data, height, width } of ${channels} channels`, image)
}

/** [channels, height, width] to a picture. */
function planar(data: Float32Array, [channels, height, width]: readonly number[], what: string): Picture {
  checkRange(data, what)
  const out = new Float32Array(data.length)
  const plane = height * width
  for (let c = 0; c < channels; c++) for (let p = 0; p < plane; p++) out[p * channels + c] = data[c * plane + p]
  return { data: out, height, width, channels }
}

function checkRange(data: Float32Array, what: string): void {
  const at = data.findIndex((v) => !(Math.abs(v) <= 1))
  if (at >= 0) throw wrong(`${what}[${at}]`, 'a number in [-1, 1]', data[at])
}

/** Batches of an object's own. */
export class UserBatchData implements TrainingData {
  readonly name = name
  readonly length: number
  readonly channels: number
  readonly height: number
  readonly width: number
  readonly classNames: readonly string[] | undefined
  readonly unreadable = []
  readonly fingerprint: string

  /** Throws `invalid-argument`. */
  constructor(
    readonly data: UserBatches,
    { channels, height, width }: SourceOptions,
  ) {
    const { length = 0, classNames, fingerprint } = data
    if (!Number.isSafeInteger(length) || length < 0) throw wrong('length', 'an integer', length)
    checkNames(classNames, fingerprint)
    this.length = length
    this.channels = channels
    this.height = height
    this.width = width
    this.classNames = classNames
    this.fingerprint = JSON.stringify(['batches', length, fingerprint ?? null, classNames ?? null])
  }

  async batch(first: number, count: number): Promise<ImageBatch> {
    const { channels, height, width, classNames } = this
    const shape = [count, channels, height, width] as const
    const what = `batch(${first}, ${count})`
    const given = await this.data.batch(first, count)
    const images = given?.images instanceof Tensor ? ((await given.images.data()) as Float32Array) : given?.images
    if (!(images instanceof Float32Array) || images.length !== count * channels * height * width) {
      throw wrong(what, `{ images: [${shape.join(', ')}] in floats }`, given?.images ?? given)
    }
    checkRange(images, `${what}.images`)
    const labels = classNames && checkedLabels(given.labels, count, classNames, `${what}.labels`)
    return { images, shape, ...(labels && { labels }) }
  }

  batches(first: number, count: number, ahead = 4): Prefetcher<ImageBatch> {
    return new Prefetcher((k) => this.batch(first + k * count, count), 0, ahead)
  }
}
