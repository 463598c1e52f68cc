/** Parts as one file, a piece in memory at a time. */
import { crc32 } from 'node:zlib'
import { openRegularFile, readFully } from '../../checkpoint/regular-file'
import { DiffusionError, quote } from '../../errors'
import { ioError } from '../../file-errors'
import { type NpyArray, writeNpz } from '../npz'
import { type Part, type PartArray, readPart } from './part-file'
import { partsInOrder } from './part-set'

export interface MergeOptions {
  /** Bytes that were gone through, and that there are: each is read twice, once to be checked, once to be written. */
  readonly onProgress?: (event: { done: number; total: number }) => unknown
  readonly signal?: AbortSignal
}

const pieceBytes = 2 ** 24

/** Reads what parts say of themselves, and puts them in order. Throws what readPart and partsInOrder throw. */
export async function openParts(files: readonly string[]): Promise<Part[]> {
  const parts: Part[] = []
  for (const file of files) parts.push(await readPart(file))
  return partsInOrder(parts)
}

/**
 * Writes parts in order as one .npz file, atomically. Throws `bad-file` for a damaged part, `aborted` and `io`; then nothing is written.
 */
export async function mergeParts(parts: readonly Part[], out: string, o: MergeOptions = {}): Promise<void> {
  const names = [...parts[0].arrays.keys()]
  const all = names.map((name) => parts.map((part) => ({ part, name, array: part.arrays.get(name)! })))
  const total = 2 * all.flat().reduce((sum, { array }) => sum + array.end - array.begin, 0)
  let done = 0
  const tell = async (bytes: number) => {
    if (o.signal?.aborted) throw new DiffusionError('aborted', 'merging was aborted', { cause: o.signal.reason })
    done += bytes
    await o.onProgress?.({ done, total })
  }
  const arrays = all.map((places): [string, NpyArray] => {
    const [{ name, array }] = places
    const rows = places.reduce((sum, { part }) => sum + part.count, 0)
    const byteLength = places.reduce((sum, { array: { begin, end } }) => sum + end - begin, 0)
    const pieces = async function* () {
      for (const place of places) yield* checkedPieces(place, tell)
    }
    // Of bytes, NumPy's descr has a bar that the reader leaves out.
    const type = array.type === 'u1' ? '|u1' : array.type
    return [name, { shape: [rows, ...array.shape.slice(1)], data: { byteLength, type, pieces } }]
  })
  await writeNpz(out, Object.fromEntries(arrays))
}

interface Place {
  readonly part: Part
  readonly name: string
  readonly array: PartArray
}

/** The numbers of an array, in pieces; its sum is compared at their end. */
async function* checkedPieces(
  { part: { file }, name, array }: Place,
  tell: (bytes: number) => Promise<void>,
): AsyncGenerator<Uint8Array> {
  const bad = (problem: string) => new DiffusionError('bad-file', `${file}: ${problem}`, { argument: 'parts' })
  const { handle } = await openRegularFile(file, 'parts')
  try {
    const read = async (from: number, to: number) => {
      const piece = new Uint8Array(to - from)
      try {
        if (await readFully(handle, piece, from)) return piece
      } catch (error) {
        throw ioError(`cannot read ${file}`, error, { path: file })
      }
      throw bad('it has become shorter')
    }
    let crc = crc32(await read(array.header, array.begin))
    for (let at = array.begin; at < array.end; at += pieceBytes) {
      const piece = await read(at, Math.min(array.end, at + pieceBytes))
      crc = crc32(piece, crc)
      await tell(piece.length)
      yield piece
    }
    if (crc !== array.crc) throw bad(`${quote(name)} is damaged: its bytes are not those that were written`)
  } finally {
    await handle.close()
  }
}
