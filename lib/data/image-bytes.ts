/** The bytes of image files, with the system's own word on what went wrong: a file that can't be read just now is not a damaged one. */
import { setTimeout as sleep } from 'node:timers/promises'
import { openRegularFile, readFully } from '../checkpoint/regular-file'
import { DiffusionError } from '../errors'
import { ioError, systemCode } from '../file-errors'
import { bad } from './image-limits'

/** Before each further try, in milliseconds. */
const pauses = [20, 100, 500]

/**
 * Calls `read` again where the system refuses: too many open files, a hiccup of a network file system or of the memory pass.
 * Throws `not-found` and `io`, which name the file; other errors at once, as they are.
 */
export async function withRetries<T>(file: string, read: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await read()
    } catch (error) {
      const code = isFailureToRead(error) || !(error instanceof DiffusionError) ? systemCode(error) : undefined
      if (code === undefined) throw error
      if (tries < pauses.length) {
        await sleep(pauses[tries])
        continue
      }
      const cause = error instanceof DiffusionError ? error.cause : error
      const failure = ioError(`cannot read the image ${file}`, cause, { path: file, argument: 'file' })
      if (code !== 'ENOENT') throw failure
      throw new DiffusionError('not-found', failure.message, { argument: 'file', received: file, cause })
    }
  }
}

/**
 * All of a file, or with `part` its first bytes. Throws `not-found` and `io`, after some tries, and `bad-file` for a pipe, a device or
 * a folder, and where it has more than `most` bytes.
 */
export function readImageBytes(file: string, most: number, { part = false } = {}): Promise<Uint8Array> {
  return withRetries(file, async () => {
    const { handle, size } = await openRegularFile(file, 'file')
    try {
      if (size > most && !part) throw bad(file, `it has ${size} bytes, more than ${most}`)
      const bytes = new Uint8Array(Math.min(size, most))
      if (await readFully(handle, bytes, 0)) return bytes
    } finally {
      await handle.close()
    }
    throw bad(file, 'it became shorter while it was read')
  })
}

/** A part of a file that was looked at before. Throws as readImageBytes does, `bad-file` where the file has become shorter. */
export function readRange(file: string, position: number, length: number): Promise<Uint8Array> {
  return withRetries(file, async () => {
    const { handle } = await openRegularFile(file, 'file')
    try {
      const bytes = new Uint8Array(length)
      if (await readFully(handle, bytes, position)) return bytes
    } finally {
      await handle.close()
    }
    throw new DiffusionError('io', `${file} became shorter while it was used`, { argument: 'file', received: file })
  })
}

/** Whether an error says something of the machine, not of the image. */
export function isFailureToRead(error: unknown): boolean {
  return error instanceof DiffusionError && ['io', 'not-found', 'out-of-memory'].includes(error.code)
}
