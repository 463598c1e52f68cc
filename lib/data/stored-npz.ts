/** .npz files that this package has written, whose arrays are stored as they are: gone through a piece at a time, with their sums checked. */
import { crc32 } from 'node:zlib'
import { openRegularFile, readFully } from '../checkpoint/regular-file'
import type { Source } from '../checkpoint/source'
import { dataBegin, readZipDirectory } from '../checkpoint/torch/zip'
import { DiffusionError, quote } from '../errors'
import { ioError } from '../file-errors'
import { readHeader } from './npy'

/** An array as it lies in its file. */
export interface StoredArray {
  readonly name: string
  readonly shape: readonly number[]
  readonly type: string
  /** Where its header and its numbers begin, and where they end. */
  readonly header: number
  readonly begin: number
  readonly end: number
  /** Of all from its header on. */
  readonly crc: number
}

/** The arrays by their names. Throws `bad-file`, also for one that is packed. */
export async function storedArrays(source: Source): Promise<Map<string, StoredArray>> {
  const arrays = new Map<string, StoredArray>()
  for (const entry of (await readZipDirectory(source)).values()) {
    if (!entry.name.endsWith('.npy')) continue
    if (entry.method !== 'stored') throw source.bad(`${quote(entry.name)} is packed`)
    const header = await dataBegin(source, entry)
    const { shape, type, begin } = await readHeader(source, header, entry.size, entry.name)
    const name = entry.name.slice(0, -4)
    arrays.set(name, { name, shape, type, header, begin, end: header + entry.size, crc: entry.crc })
  }
  return arrays
}

const maxText = 2 ** 20

/** The bytes of a short array. Throws `bad-file`. */
export async function storedText(source: Source, { name, header, begin, end, crc }: StoredArray): Promise<Uint8Array> {
  if (end - header > maxText) throw source.bad(`its array ${quote(name)} is too long`)
  source.budget.memory(end - header)
  const bytes = new Uint8Array(end - header)
  await source.read(bytes, header)
  if (crc32(bytes) !== crc) throw source.bad(`its array ${quote(name)} is damaged`)
  return bytes.subarray(begin - header)
}

/** The numbers of an array in pieces of so many bytes, and at their end `bad-file` where the sum is another. `argument` is the file's. */
export async function* storedPieces(
  file: string,
  { name, header, begin, end, crc: expected }: StoredArray,
  { bytes, argument }: { readonly bytes: number; readonly argument: string },
): AsyncGenerator<Uint8Array> {
  const bad = (problem: string) => new DiffusionError('bad-file', `${file}: ${problem}`, { argument, received: file })
  const { handle } = await openRegularFile(file, argument)
  try {
    const read = async (from: number, to: number) => {
      const piece = new Uint8Array(to - from)
      try {
        if (await readFully(handle, piece, from)) return piece
      } catch (error) {
        throw ioError(`cannot read ${file}`, error, { path: file, argument })
      }
      throw bad('it has become shorter')
    }
    let crc = crc32(await read(header, begin))
    for (let at = begin; at < end; at += bytes) {
      const piece = await read(at, Math.min(end, at + bytes))
      crc = crc32(piece, crc)
      yield piece
    }
    if (crc !== expected) throw bad(`${quote(name)} is damaged: its bytes are not those that were written`)
  } finally {
    await handle.close()
  }
}
