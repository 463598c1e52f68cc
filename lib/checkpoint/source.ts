/** Files and bytes to read from at any position. */
import { type FileHandle, open } from 'node:fs/promises'
import { DiffusionError, describe, invalidArgument } from '../errors'

/** Bytes at a position, wherever they come from. */
export interface Source {
  readonly name: string
  readonly size: number
  /** Fills the target, which must lie within `size`, or throws. */
  read(target: Uint8Array, position: number): Promise<void>
  /** The `bad-file` error for a problem. */
  bad(problem: string): DiffusionError
}

/**
 * Opens a file (or takes its bytes) for the duration of `use`. `format` completes "... is not a". Throws `not-found`, `io`,
 * `out-of-memory`, and `bad-file` for what has no size to check against: a pipe, a device, a folder.
 */
export async function withSource<T>(
  pathOrBytes: string | Uint8Array,
  format: string,
  use: (source: Source) => Promise<T>,
): Promise<T> {
  if (pathOrBytes instanceof Uint8Array) return use(fromBytes(pathOrBytes, format))
  if (typeof pathOrBytes !== 'string') throw invalidArgument('pathOrBytes', 'a path or a Uint8Array', pathOrBytes)
  let file: FileHandle | undefined
  try {
    file = await open(pathOrBytes, 'r')
    const stat = await file.stat()
    if (!stat.isFile()) throw badFile(pathOrBytes, format, 'it is not a regular file')
    return await use(fromFile(pathOrBytes, format, file, stat.size))
  } catch (error) {
    if (error instanceof DiffusionError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    const details = { argument: 'path', received: pathOrBytes, cause: error }
    if (code === 'ENOENT') throw new DiffusionError('not-found', `${pathOrBytes} does not exist`, details)
    if (error instanceof RangeError) {
      throw new DiffusionError('out-of-memory', `no memory for the tensors of ${pathOrBytes}: ${message}`, details)
    }
    if (code) throw new DiffusionError('io', `cannot read ${pathOrBytes}: ${message}`, details)
    throw error
  } finally {
    await file?.close()
  }
}

/** Node reads at most 2 GiB at once. */
const maxReadBytes = 2 ** 30

function fromFile(name: string, format: string, file: FileHandle, size: number): Source {
  return {
    name,
    size,
    async read(target, position) {
      let done = 0
      while (done < target.length) {
        const length = Math.min(target.length - done, maxReadBytes)
        const { bytesRead } = await file.read(target, done, length, position + done)
        if (bytesRead === 0) throw badFile(name, format, 'it became shorter while it was read')
        done += bytesRead
      }
    },
    bad: (problem) => badFile(name, format, problem),
  }
}

function fromBytes(bytes: Uint8Array, format: string): Source {
  const name = 'the bytes'
  return {
    name,
    size: bytes.length,
    async read(target, position) {
      target.set(bytes.subarray(position, position + target.length))
    },
    bad: (problem) => badFile(name, format, problem),
  }
}

function badFile(name: string, format: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${name} is not a ${format}: ${problem}`, {
    argument: 'path',
    received: describe(name),
  })
}
