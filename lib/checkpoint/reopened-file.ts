/** A file whose numbers are read later than its header, if they are. In between it is not kept open, but has to stay the same. */
import type { BigIntStats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../errors'
import type { FileDType, FileNumbers, NumbersFile } from '../file-numbers'
import type { Budget } from './budget'
import { fill } from './dtypes'
import { openRegularFile, readError, readFully } from './regular-file'

export class ReopenedFile implements NumbersFile {
  readonly #path: string
  /** One for all that read at the same time. */
  #opened?: Promise<FileHandle>
  #users = 0

  private constructor(
    readonly name: string,
    private readonly first: BigIntStats,
    private readonly o: { readonly argument: string; readonly bad: Budget['bad'] },
  ) {
    this.#path = path.resolve(name)
  }

  /** As it is now. */
  static async of(
    name: string,
    handle: FileHandle,
    o: { readonly argument: string; readonly bad: Budget['bad'] },
  ): Promise<ReopenedFile> {
    return new ReopenedFile(name, await handle.stat({ bigint: true }), o)
  }

  use<T>(fn: (descriptor: number) => Promise<T>): Promise<T> {
    return this.#open((handle) => fn(handle.fd))
  }

  /** Charges what reading them takes. They lie within the file. */
  numbers(
    dtype: FileDType,
    count: number,
    o: { readonly position: number; readonly bytes: number; readonly budget: Budget },
  ): FileNumbers {
    o.budget.memory(count * Float32Array.BYTES_PER_ELEMENT)
    o.budget.work(o.bytes)
    const read = () => {
      return this.#open(async (handle) => {
        const data = new Float32Array(count)
        await fill(dtype, data, (target, offset) => this.#read(handle, target, o.position + offset))
        return data
      })
    }
    return { file: this, dtype, position: o.position, read }
  }

  async #read(handle: FileHandle, target: Uint8Array, position: number): Promise<void> {
    if (!(await readFully(handle, target, position))) throw this.o.bad(shorter)
  }

  async #open<T>(fn: (handle: FileHandle) => Promise<T>): Promise<T> {
    this.#users++
    this.#opened ??= this.#openAgain()
    try {
      const handle = await this.#opened
      const result = await fn(handle)
      await this.#check(handle)
      return result
    } catch (error) {
      throw this.#ofReading(error)
    } finally {
      if (--this.#users === 0) {
        const opened = this.#opened
        this.#opened = undefined
        await (await opened?.catch(() => undefined))?.close()
      }
    }
  }

  async #openAgain(): Promise<FileHandle> {
    const { handle } = await openRegularFile(this.#path, this.o.argument)
    try {
      await this.#check(handle)
      return handle
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  async #check(handle: FileHandle): Promise<void> {
    const { dev, ino, size, mtimeNs } = await handle.stat({ bigint: true })
    const isSame = dev === this.first.dev && ino === this.first.ino && size === this.first.size
    if (isSame && mtimeNs === this.first.mtimeNs) return
    throw this.o.bad(size < this.first.size ? shorter : 'it was changed while it was read')
  }

  /** What the addon's reading threw has no path. */
  #ofReading(error: unknown): unknown {
    if (error instanceof DiffusionError || !(error instanceof Error)) return error
    const { code } = error as { code?: unknown }
    const { argument, bad } = this.o
    if (code === 'bad-file') return bad(error.message)
    const details = { argument, received: this.name, cause: error }
    if (code === 'io') return new DiffusionError('io', `cannot read ${this.name}: ${error.message}`, details)
    return readError(this.name, DiffusionError.ofAddon(error), argument)
  }
}

const shorter = 'it became shorter while it was read'
