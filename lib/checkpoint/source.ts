/** Files and bytes to read from at any position. */
import { DiffusionError, invalidArgument, quote } from '../errors'
import { printable } from '../printable'
import { Budget } from './budget'
import { openRegularFile, readError, readFully } from './regular-file'
import { ReopenedFile } from './reopened-file'

/** Bytes at a position, wherever they come from. */
export interface Source {
  readonly name: string
  readonly size: number
  /** What reading it may cost. */
  readonly budget: Budget
  /** Fills the target, which must lie within `size`, or throws. Charges the work, not the target's memory. */
  read(target: Uint8Array, position: number): Promise<void>
  /** For what is read later; bytes have none. */
  readonly file?: ReopenedFile
  /** The `bad-file` error for a problem. */
  bad(problem: string): DiffusionError
}

export interface SourceOptions {
  /** What the caller calls the path. */
  readonly argument?: string
}

/**
 * Opens a file (or takes its bytes) for the duration of `use`. `format` completes "... is not a". Throws `not-found`, `io`,
 * `out-of-memory`, and `bad-file` for what has no size to check against: a pipe, a device, a folder.
 */
export async function withSource<T>(
  pathOrBytes: string | Uint8Array,
  format: string,
  use: (source: Source) => Promise<T>,
  { argument = 'path' }: SourceOptions = {},
): Promise<T> {
  const isBytes = pathOrBytes instanceof Uint8Array
  if (!isBytes && typeof pathOrBytes !== 'string') {
    throw invalidArgument('pathOrBytes', 'a path or a Uint8Array', pathOrBytes)
  }
  const name = isBytes ? 'the bytes' : pathOrBytes
  const bad = (problem: string) =>
    new DiffusionError('bad-file', `${name} is not a ${format}: ${printable(problem, maxProblem)}`, {
      argument,
      received: quote(name),
    })
  const file = isBytes ? undefined : await openRegularFile(pathOrBytes, argument)
  const size = file?.size ?? pathOrBytes.length
  const budget = new Budget(size, bad)
  try {
    return await use({
      name,
      size,
      budget,
      bad,
      file: file && (await ReopenedFile.of(name, file.handle, { argument, bad })),
      async read(target, position) {
        budget.work(target.length + readCost)
        if (isBytes) target.set(pathOrBytes.subarray(position, position + target.length))
        else if (!(await readFully(file!.handle, target, position))) throw bad('it became shorter while it was read')
      },
    })
  } catch (error) {
    if (error instanceof RangeError) throw rangeError(error, name, bad, argument)
    throw readError(name, error, argument)
  } finally {
    await file?.handle.close()
  }
}

/** Characters of what is said to be wrong. */
const maxProblem = 500
/** Of a read, however short, in bytes of work. */
const readCost = 256

/** What V8 has for a stack that is too deep, and for an array that is too large. */
function rangeError(error: RangeError, name: string, bad: Source['bad'], argument: string): DiffusionError {
  if (/call stack/.test(error.message)) return bad('it is nested too deeply')
  const details = { argument, received: name, cause: error }
  return new DiffusionError('out-of-memory', `no memory for what ${name} holds: ${error.message}`, details)
}
