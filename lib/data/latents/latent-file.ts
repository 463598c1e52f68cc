/**
 * A file of images' latents: a line of JSON that says what they are of, padded to a whole number of blocks; for each image, and each way it
 * is seen (as it is, mirrored), the means, then the deviations of its posterior, or without a posterior the latents; which image each is;
 * the mean and the deviation of all; and the SHA-256 of everything before. Numbers are little-endian float32, items int32.
 */
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { atomicWrite } from '../../checkpoint/atomic-write'
import { openRegularFile } from '../../checkpoint/regular-file'
import { DiffusionError } from '../../errors'
import { ioError } from '../../file-errors'

export interface LatentHeader {
  /** Names everything that the latents follow from. */
  readonly key: string
  readonly images: number
  /** 2 where each is there mirrored, too. */
  readonly views: 1 | 2
  /** Of a latent: channels, height, width. */
  readonly shape: readonly [channels: number, height: number, width: number]
  /** They are those of distributions. */
  readonly deviations: boolean
}

/** Of one image, seen one way. */
export interface Moments {
  readonly mean: Float32Array
  readonly std?: Float32Array
}

const format = 'ddpm-native latents 1'
const block = 4096
const hashBytes = 32
const statisticsBytes = 2 * 8

/** Numbers of a row. */
function rowLength({ shape: [c, h, w], deviations }: LatentHeader): number {
  return (deviations ? 2 : 1) * c * h * w
}

function headerOf(header: LatentHeader): Buffer {
  const text = Buffer.from(JSON.stringify({ format, ...header }))
  const whole = Buffer.alloc(Math.ceil((text.length + 1) / block) * block, ' ')
  text.copy(whole)
  whole[whole.length - 1] = 0x0a
  return whole
}

/**
 * Writes the file atomically; `make` is given what takes a row, those of an image one after the other, and which image it is. Throws
 * `io`, and what `make` throws: then nothing is written.
 */
export async function writeLatents(
  file: string,
  header: LatentHeader,
  make: (add: (views: readonly Moments[], item: number) => Promise<void>) => Promise<void>,
): Promise<void> {
  const items: number[] = []
  const size = header.shape.reduce((a, b) => a * b)
  let [sum, squares] = [0, 0]
  await atomicWrite(file, async (handle) => {
    const hash = createHash('sha256')
    const write = async (bytes: Uint8Array) => {
      hash.update(bytes)
      await handle.writeFile(bytes)
    }
    await write(headerOf(header))
    await make(async (views, item) => {
      items.push(item)
      for (const { mean, std } of views) {
        await write(bytesOf(mean))
        if (std) await write(bytesOf(std))
      }
      const [{ mean, std }] = views
      for (let i = 0; i < size; i++) {
        sum += mean[i]
        squares += mean[i] ** 2 + (std ? std[i] ** 2 : 0)
      }
    })
    const count = items.length * size
    const mean = sum / count
    const deviation = Math.sqrt(Math.max(0, squares / count - mean ** 2) * (count / Math.max(1, count - 1)))
    await write(bytesOf(Int32Array.from(items)))
    await write(bytesOf(Float64Array.of(mean, deviation)))
    await handle.writeFile(hash.digest())
  })
}

function bytesOf(data: Float32Array | Float64Array | Int32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

export class LatentFile {
  private constructor(
    readonly file: string,
    readonly header: LatentHeader,
    /** Which image is in the place of each: another one where it could not be decoded. */
    readonly items: Int32Array,
    /** The deviation of all, as they are drawn. */
    readonly std: number,
    readonly handle: FileHandle,
    readonly dataStart: number,
    /** All of it, where it may be kept. */
    readonly rows: Float32Array | undefined,
  ) {}

  /**
   * The file, if it is there, whole, and of this header; else undefined. It is read once from end to end, and kept in memory where it has
   * at most `keepBytes`. To be closed. Throws `io` where it can't be read.
   */
  static async open(file: string, header: LatentHeader, keepBytes: number): Promise<LatentFile | undefined> {
    const opened = await openRegularFile(file).catch((error) => {
      if (error instanceof DiffusionError && error.code !== 'io') return undefined
      throw error
    })
    if (!opened) return undefined
    const { handle, size } = opened
    try {
      const found = await LatentFile.#read(file, { handle, size, header, keepBytes })
      if (!found) await handle.close()
      return found
    } catch (error) {
      await handle.close()
      throw ioError(`cannot read ${file}`, error, { path: file })
    }
  }

  static async #read(
    file: string,
    { handle, size, header, keepBytes }: { handle: FileHandle; size: number; header: LatentHeader; keepBytes: number },
  ): Promise<LatentFile | undefined> {
    const head = headerOf(header)
    const rowBytes = 4 * rowLength(header) * header.images * header.views
    const tail = 4 * header.images + statisticsBytes
    if (size !== head.length + rowBytes + tail + hashBytes) return undefined
    const hash = createHash('sha256')
    const next = async (length: number, at: number) => {
      const bytes = new Uint8Array(length)
      const { bytesRead } = await handle.read(bytes, 0, length, at)
      if (at < size - hashBytes) hash.update(bytes)
      return bytesRead === length ? bytes : new Uint8Array()
    }
    if (!head.equals(await next(head.length, 0))) return undefined
    const rows = rowBytes <= keepBytes ? new Float32Array(rowBytes / 4) : undefined
    const chunk = 2 ** 22
    for (let at = 0; at < rowBytes; at += chunk) {
      const bytes = await next(Math.min(chunk, rowBytes - at), head.length + at)
      if (rows) bytesOf(rows).set(bytes, at)
    }
    const end = await next(tail, head.length + rowBytes)
    const digest = await next(hashBytes, size - hashBytes)
    if (end.length < tail || !hash.digest().equals(digest)) return undefined
    const items = new Int32Array(end.buffer.slice(0, 4 * header.images))
    const [, std] = new Float64Array(end.buffer.slice(4 * header.images, 4 * header.images + statisticsBytes))
    return new LatentFile(file, header, items, std, handle, head.length, rows)
  }

  /** Image number `place`, seen one way. Throws `io`. */
  async read(place: number, view: number): Promise<Moments> {
    const length = rowLength(this.header)
    const row = place * this.header.views + view
    const numbers = this.rows?.subarray(row * length, (row + 1) * length) ?? (await this.#row(row, length))
    if (!this.header.deviations) return { mean: numbers }
    return { mean: numbers.subarray(0, length / 2), std: numbers.subarray(length / 2) }
  }

  async #row(row: number, length: number): Promise<Float32Array> {
    const numbers = new Float32Array(length)
    try {
      const { bytesRead } = await this.handle.read(bytesOf(numbers), 0, 4 * length, this.dataStart + 4 * row * length)
      if (bytesRead === 4 * length) return numbers
    } catch (error) {
      throw ioError(`cannot read ${this.file}`, error, { path: this.file })
    }
    throw ioError(`cannot read ${this.file}`, new Error('it has become shorter'), { path: this.file })
  }

  async close(): Promise<void> {
    await this.handle.close()
  }
}
