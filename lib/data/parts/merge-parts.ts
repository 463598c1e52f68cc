/** Parts as one file, a piece in memory at a time. */
import { DiffusionError } from '../../errors'
import { type NpyArray, writeNpz } from '../npz'
import { storedPieces } from '../stored-npz'
import { common, type Part, readPart } from './part-file'
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
  const all = names.map((name) => {
    const places = parts.map(({ file, arrays }) => ({ file, array: arrays.get(name)! }))
    return name === common ? places.slice(0, 1) : places
  })
  const total = 2 * all.flat().reduce((sum, { array }) => sum + array.end - array.begin, 0)
  let done = 0
  const tell = async (bytes: number) => {
    if (o.signal?.aborted) throw new DiffusionError('aborted', 'merging was aborted', { cause: o.signal.reason })
    done += bytes
    await o.onProgress?.({ done, total })
  }
  const arrays = all.map((places): [string, NpyArray] => {
    const [{ array }] = places
    const rows = places.reduce((sum, place) => sum + place.array.shape[0], 0)
    const byteLength = places.reduce((sum, { array: { begin, end } }) => sum + end - begin, 0)
    const pieces = async function* () {
      for (const { file, array } of places) {
        for await (const piece of storedPieces(file, array, { bytes: pieceBytes, argument: 'parts' })) {
          await tell(piece.length)
          yield piece
        }
      }
    }
    // Of bytes, NumPy's descr has a bar that the reader leaves out.
    const type = array.type === 'u1' ? '|u1' : array.type
    return [array.name, { shape: [rows, ...array.shape.slice(1)], data: { byteLength, type, pieces } }]
  })
  await writeNpz(out, Object.fromEntries(arrays))
}
