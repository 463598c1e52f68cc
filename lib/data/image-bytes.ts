/** The bytes of image files, with the system's own word on what went wrong: a file that can't be read just now is not a damaged one. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { DiffusionError } from '../errors'
import { ioError, systemCode } from '../file-errors'

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
      const code = error instanceof DiffusionError ? undefined : systemCode(error)
      if (code === undefined) throw error
      if (tries < pauses.length) {
        await sleep(pauses[tries])
        continue
      }
      const failure = ioError(`cannot read the image ${file}`, error, { path: file, argument: 'file' })
      if (code !== 'ENOENT') throw failure
      throw new DiffusionError('not-found', failure.message, { argument: 'file', received: file, cause: error })
    }
  }
}

/** Throws `not-found` and `io`, after some tries, and `bad-file` for a pipe, a device or a folder. */
export function readImageBytes(file: string): Promise<Buffer> {
  return withRetries(file, async () => {
    const handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)) // a pipe would wait for its writer
    try {
      if ((await handle.stat()).isFile()) return await handle.readFile()
    } finally {
      await handle.close()
    }
    const message = `cannot read the image ${file}: it is not a regular file`
    throw new DiffusionError('bad-file', message, { argument: 'file', received: file })
  })
}

/** Whether an error says something of the machine, not of the image. */
export function isFailureToRead(error: unknown): boolean {
  return error instanceof DiffusionError && ['io', 'not-found', 'out-of-memory'].includes(error.code)
}
