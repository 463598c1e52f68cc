/** The folder of a run, locked, and found again where it is renamed meanwhile. */
import { closeSync, fstatSync, openSync, readlinkSync, statSync } from 'node:fs'
import { rmdir } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../errors'
import { ioError, systemCode } from '../file-errors'
import { makeFolder } from '../make-folder'
import { RunLock } from './run-lock'

export class RunFolder {
  #path: string
  /** Open, so that the folder is known by more than its name; undefined on Windows, where one with open files can't be renamed. */
  readonly #fd: number | undefined
  readonly #lock: RunLock
  /** The outermost folder that had to be made. */
  readonly #made: string | undefined

  private constructor(folder: string, lock: RunLock, made: string | undefined) {
    this.#path = folder
    this.#lock = lock
    this.#made = made
    this.#fd = process.platform === 'win32' ? undefined : openSync(folder, 'r')
  }

  /** Makes and locks it. Throws `busy` and `io`. */
  static async open(folder: string): Promise<RunFolder> {
    const made = await makeFolder(folder, 'out')
    let lock: RunLock | undefined
    try {
      lock = RunLock.acquire(folder)
      return new RunFolder(folder, lock, made)
    } catch (error) {
      lock?.release()
      await removeEmpty(folder, made)
      throw ioError(`cannot open ${folder}`, error, { path: folder, argument: 'out' })
    }
  }

  /** Where it was when it was last looked for. */
  get path(): string {
    return this.#path
  }

  /**
   * Where it is now. Throws `io` where it is not found: for one that was removed, and for one that was renamed on a system that does
   * not tell where to.
   */
  locate(): string {
    if (this.#fd === undefined || this.#isAt(this.#path)) return this.#path
    const now = this.#nameOfOpen()
    if (now === undefined || !this.#isAt(now)) {
      const message = `${this.#path} is not the folder any more that this training began in: it was removed, or moved away with all that was saved`
      throw new DiffusionError('io', message, { argument: 'out', received: this.#path })
    }
    this.#path = now
    return now
  }

  /** Gives the lock back. A folder that it made and in which nothing was written is removed. */
  async close(): Promise<void> {
    try {
      this.locate()
    } catch {
      // then its lock is not there, either
    }
    this.#lock.release(this.#path)
    if (this.#fd !== undefined) closeSync(this.#fd)
    await removeEmpty(this.#path, this.#made)
  }

  #isAt(folder: string): boolean {
    try {
      const open = fstatSync(this.#fd!, { bigint: true })
      const { dev, ino } = statSync(folder, { bigint: true })
      return dev === open.dev && ino === open.ino
    } catch (error) {
      return !['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '') // what else is wrong shows when it is written to
    }
  }

  #nameOfOpen(): string | undefined {
    try {
      return readlinkSync(`/proc/self/fd/${this.#fd}`)
    } catch {
      return undefined
    }
  }
}

/** The folder, and those above it up to the outermost that was made for it. */
async function removeEmpty(folder: string, outermost: string | undefined): Promise<void> {
  if (outermost === undefined) return
  try {
    for (let at = folder; at.startsWith(outermost); at = path.dirname(at)) await rmdir(at)
  } catch {
    // something is in it
  }
}
