/**
 * Opening what a user names: regular files only. Reading a pipe waits for a writer, a terminal for a key; opening a device may
 * already do something.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { DiffusionError } from '../errors'
import { ioError } from '../file-errors'

export interface RegularFile {
  readonly handle: FileHandle
  /** In bytes. */
  readonly size: number
}

// Between the check and the opening another file may have come: neither flag lets that wait. Windows has none of them.
const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOCTTY ?? 0)

/**
 * Opens a file for reading. Throws `not-found`, `io`, and `bad-file` for a pipe, a socket, a device or a folder. `argument` is
 * what the caller calls the path.
 */
export async function openRegularFile(path: string, argument = 'path'): Promise<RegularFile> {
  let handle: FileHandle | undefined
  try {
    const isFile = (await stat(path)).isFile()
    if (isFile) {
      handle = await open(path, flags)
      const stats = await handle.stat()
      if (stats.isFile()) return { handle, size: stats.size }
    }
  } catch (error) {
    await handle?.close()
    throw readError(path, error, argument)
  }
  await handle?.close()
  const message = `${path} can't be read: it is not a regular file`
  throw new DiffusionError('bad-file', message, { argument, expected: 'a regular file', received: path })
}

/** `not-found` or `io` for what the file system said; other errors as they are. */
export function readError(path: string, error: unknown, argument = 'path'): unknown {
  if (error instanceof DiffusionError) return error
  const { code } = error as NodeJS.ErrnoException
  const details = { argument, received: path, cause: error }
  if (code === 'ENOENT' || code === 'ENOTDIR') return new DiffusionError('not-found', `${path} does not exist`, details)
  // A name with a zero byte.
  if (code === 'ERR_INVALID_ARG_VALUE') return new DiffusionError('not-found', `${path} is no file's name`, details)
  return code ? ioError(`cannot read ${path}`, error, { path, argument }) : error
}

/** Node reads at most 2 GiB at once. */
const maxReadBytes = 2 ** 30

/** Fills the target from `position` on. False where the file has become shorter. */
export async function readFully(handle: FileHandle, target: Uint8Array, position: number): Promise<boolean> {
  for (let done = 0; done < target.length; ) {
    const length = Math.min(target.length - done, maxReadBytes)
    const { bytesRead } = await handle.read(target, done, length, position + done)
    if (bytesRead === 0) return false
    done += bytesRead
  }
  return true
}
