/** Files of pixels that are not encoded: records of one length, one after another. */
import { createHash } from 'node:crypto'
import { halfToFloat } from '../../checkpoint/dtypes'
import { DiffusionError } from '../../errors'
import type { ClassLabelling } from '../class-labels'
import { readRange } from '../image-bytes'
import { signedFloats } from '../image-file'
import type { Picture } from '../picture'
import { fitted } from '../resample'
import type { ImageSource, SourceOptions } from './source'

/** Numbers as NumPy names them. */
export const rawTypes = ['u1', '<u2', '>u2', '<f2', '>f2', '<f4', '>f4', '<f8', '>f8'] as const
export type RawType = (typeof rawTypes)[number]

export function bytesOfType(type: RawType): number {
  return Number(type.at(-1))
}

export interface RawImages {
  readonly file: string
  /** All of it, where it was packed in the file. */
  readonly unpacked?: Uint8Array
  /** Where the first image begins, and the distance to the next. */
  readonly begin: number
  readonly stride: number
  readonly count: number
  readonly height: number
  readonly width: number
  readonly channels: number
  readonly type: RawType
  /** [channels, height, width] rather than [height, width, channels]. */
  readonly planar: boolean
  readonly classes?: ClassLabelling
}

/** Where whole files are told apart by a part: so many images are looked at. */
const samples = 32

/** Throws `invalid-argument` where the channels are others, and for floats without a range. */
export async function rawSource(raw: RawImages, o: SourceOptions): Promise<ImageSource> {
  const { file, count, height, width, channels, type, classes } = raw
  if (count === 0) throw new DiffusionError('invalid-argument', `${file} has no images`, { argument: 'data' })
  if (channels !== o.channels) {
    const problem = `${file} has images of ${channels} channels, ${height}x${width}, not of ${o.channels}`
    throw new DiffusionError('invalid-argument', problem, { argument: 'channels', expected: String(channels) })
  }
  if (type.includes('f') && !o.range) throw floatsWithoutRange(file)
  const size = height * width * channels
  const length = size * bytesOfType(type)
  const bytesOf = (i: number) => {
    const at = raw.begin + i * raw.stride
    return raw.unpacked ? raw.unpacked.slice(at, at + length) : readRange(file, at, length)
  }
  const picture = async (i: number): Promise<Picture> => {
    const data = numbers(await bytesOf(i), type, o)
    if (!data) throw outOfRange(file, i, o)
    return { data: raw.planar ? interleaved(data, channels) : data, height, width, channels }
  }
  const hash = createHash('sha256')
  for (let k = 0; k < Math.min(samples, count); k++)
    hash.update(await bytesOf(Math.floor((k * count) / samples) % count))
  return {
    name: file,
    length: count,
    nameOf: (i) => String(i),
    classes,
    identity: ['raw', count, height, width, channels, type, hash.digest('hex')],
    leftOut: [],
    read: async (i, look) => fitted(await picture(i), look, file),
    sizeOf: async () => ({ height, width }),
  }
}

function floatsWithoutRange(file: string): DiffusionError {
  const problem = `${file} has floats, whose black and white no file says: range must be [0, 1] or [-1, 1] (--range 0,1)`
  return new DiffusionError('invalid-argument', problem, { argument: 'range' })
}

function outOfRange(file: string, item: number, { range }: SourceOptions): DiffusionError {
  const problem = `${file}: image ${item} has numbers outside of the range, ${range!.join(' to ')}`
  return new DiffusionError('invalid-argument', problem, { argument: 'range', received: String(range) })
}

/** Undefined where floats lie outside of the range. */
function numbers(bytes: Uint8Array, type: RawType, { range }: SourceOptions): Picture['data'] | undefined {
  if (type === 'u1') return bytes
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const little = type.startsWith('<')
  const n = bytes.length / bytesOfType(type)
  if (type.endsWith('u2')) return Uint16Array.from({ length: n }, (_, i) => view.getUint16(2 * i, little))
  if (type.endsWith('f2')) {
    const halves = Float32Array.from({ length: n }, (_, i) => halfToFloat(view.getUint16(2 * i, little)))
    return signedFloats(halves, range!)
  }
  if (type.endsWith('f4'))
    return signedFloats(
      Float32Array.from({ length: n }, (_, i) => view.getFloat32(4 * i, little)),
      range!,
    )
  return signedFloats(
    Float64Array.from({ length: n }, (_, i) => view.getFloat64(8 * i, little)),
    range!,
  )
}

/** [channels, pixels] to [pixels, channels]. */
function interleaved<T extends Picture['data']>(data: T, channels: number): T {
  if (channels === 1) return data
  const out = data.slice() as T
  const plane = data.length / channels
  for (let c = 0; c < channels; c++) for (let p = 0; p < plane; p++) out[p * channels + c] = data[c * plane + p]
  return out
}

/** How an array of images lies, by its shape: see layoutOf. */
export interface Layout {
  readonly count: number
  readonly height: number
  readonly width: number
  readonly channels: number
  readonly planar: boolean
}

/**
 * [n, height, width] is grey; of [n, a, b, c], channels are the last axis where that has as many as are wanted, else the second.
 * Throws `bad(problem)` for another rank, and where neither fits.
 */
export function layoutOf(shape: readonly number[], channels: number, bad: (problem: string) => DiffusionError): Layout {
  const [count, a, b, c] = shape
  const said = `its shape is [${shape.join(', ')}]`
  if (shape.length === 3) return { count, height: a, width: b, channels: 1, planar: false }
  if (shape.length !== 4)
    throw bad(`${said}: images are [n, height, width], [n, height, width, channels] or [n, channels, height, width]`)
  if (c === channels) return { count, height: a, width: b, channels, planar: false }
  if (a === channels) return { count, height: b, width: c, channels, planar: true }
  throw bad(`${said}: neither its last axis nor its second is of ${channels} channels`)
}

/** Numbers of one image, which is scaled in floats. */
const maxNumbers = 2 ** 24

export function checkExtent(layout: Layout, bad: (problem: string) => DiffusionError): void {
  const { height, width, channels } = layout
  if (height > 0 && width > 0 && channels > 0 && height * width * channels <= maxNumbers) return
  throw bad(
    `its images of ${height}x${width} with ${channels} channels are none, or of more than maxNumbers (${maxNumbers})`,
  )
}

/** The classes of numbers in a file, by names where there are any. Throws `bad(problem)` for a number that has none. */
export function numberedClasses(
  labels: ArrayLike<number>,
  names: readonly string[],
  bad: (problem: string) => DiffusionError,
): ClassLabelling {
  for (let i = 0; i < labels.length; i++) {
    if (!(labels[i] >= 0 && labels[i] < names.length)) {
      throw bad(`the label of image ${i} is ${labels[i]}, beyond its ${names.length} classes`)
    }
  }
  return { names, labels: Int32Array.from(labels) }
}
