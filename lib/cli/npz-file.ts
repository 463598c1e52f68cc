/** An .npz file: the images lie one after another in a partial file beside it, until all are there. */
import { type FileHandle, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readFully } from '../checkpoint/regular-file'
import { writeNpz } from '../data/npz'
import { partArray, partName, readPart } from '../data/parts/part-file'
import { DiffusionError } from '../errors'
import { ioError } from '../file-errors'
import type { Drawn, LabelOf } from './draw'
import { checkWritable } from './free-name'
import { type Keeper, type KeepOptions, numbersOf, sizeOf } from './keeper'
import { checkRecord } from './sample-record'

/** Room for the record at the beginning of a partial file. */
const recordBytes = 16_384
const pieceBytes = 2 ** 24

export class NpzFile implements Keeper {
  private constructor(
    readonly wanted: string,
    readonly name: string,
    readonly o: KeepOptions,
    /** Undefined where all is there already. */
    readonly partial: { readonly file: string; readonly handle: FileHandle; readonly temporary?: string } | undefined,
    private done: number,
  ) {}

  static async open(wanted: string, o: KeepOptions): Promise<NpzFile> {
    const special = await isSpecial(wanted)
    if (o.resume && !special) {
      if (!(await exists(partialOf(wanted)))) {
        if (await exists(wanted)) {
          if (o.part) checkRecord((await readPart(wanted)).whole, o.part.whole, wanted)
          return new NpzFile(wanted, wanted, o, undefined, o.span.count)
        }
        if (!o.part) await checkOtherParts(wanted, 1)
      } else {
        const handle = await open(partialOf(wanted), 'r+')
        try {
          return new NpzFile(wanted, wanted, o, { file: partialOf(wanted), handle }, await resumable(handle, wanted, o))
        } catch (error) {
          await handle.close()
          throw error
        }
      }
    }
    const taken = async (name: string) => (await exists(name)) || (await exists(partialOf(name)))
    const name = special ? wanted : await o.nameFor(wanted, taken)
    await checkWritable(name)
    // What is written into a device can't be kept beside it.
    const temporary = special ? await mkdtemp(path.join(os.tmpdir(), 'ddpm-')) : undefined
    const file = temporary ? path.join(temporary, 'partial') : partialOf(name)
    try {
      const handle = await open(file, o.overwrite ? 'w+' : 'wx+') // one of two commands that begin at the same moment fails
      return new NpzFile(wanted, name, o, { file, handle, temporary }, await begun(handle, o))
    } catch (error) {
      throw ioError(`cannot write ${file}`, error, { path: file })
    }
  }

  has(image: number): boolean {
    return image - this.o.span.first < this.done
  }

  async add({ first, images }: Drawn): Promise<void> {
    if (!this.partial) return // these are drawn for another keeper
    const { handle, file } = this.partial
    const skipped = this.o.span.first + this.done - first
    const data = images.data.subarray(Math.max(0, skipped) * this.#size)
    try {
      let at = recordBytes + this.done * this.#size
      for (let from = 0; from < data.length; ) {
        const { bytesWritten } = await handle.write(data, from, data.length - from, at)
        from += bytesWritten
        at += bytesWritten
      }
      await handle.datasync()
    } catch (error) {
      throw ioError(`cannot write ${file}`, error, { path: file })
    }
    this.done += data.length / this.#size
  }

  async read(image: number): Promise<Uint8Array | undefined> {
    const data = new Uint8Array(this.#size)
    const at = recordBytes + (image - this.o.span.first) * this.#size
    return this.partial && (await readFully(this.partial.handle, data, at)) ? data : undefined
  }

  async finish(labelOf: LabelOf): Promise<string[]> {
    if (!this.partial) return [this.name]
    const { first, count } = this.o.span
    const labels = numbersOf(this.o.span).map(labelOf)
    const { handle } = this.partial
    const arr_0 = {
      shape: [count, ...this.o.shape],
      data: { byteLength: count * this.#size, pieces: () => piecesOf(handle, recordBytes, count * this.#size) },
    }
    const arr_1 = labelOf(first) !== undefined && {
      data: BigInt64Array.from(labels as number[], BigInt),
      shape: [count],
    }
    await writeNpz(this.name, {
      arr_0,
      ...(arr_1 && { arr_1 }),
      ...(this.o.part && { part: partArray(this.o.part) }),
    })
    await rm(this.partial.file, { force: true })
    return [this.name]
  }

  async close(): Promise<void> {
    await this.partial?.handle.close()
    if (this.partial?.temporary) await rm(this.partial.temporary, { recursive: true, force: true })
  }

  get #size(): number {
    return sizeOf(this.o)
  }
}

export function partialOf(name: string): string {
  return `${name}.partial`
}

export async function exists(name: string): Promise<boolean> {
  return (await stat(name).catch(() => undefined)) !== undefined
}

/** Parts of it, whole or partial, and of how many each is one. */
export async function partsBeside(name: string): Promise<{ file: string; total: number }[]> {
  const { dir, base } = path.parse(path.resolve(name))
  const found: { file: string; total: number }[] = []
  for (const file of await readdir(dir).catch(() => [])) {
    const [, index, total] = /-(\d+)-of-(\d+)(?:\.\w+)?(?:\.partial)?$/.exec(file) ?? []
    if (index === undefined) continue
    const part = partName(base, { index: Number(index), total: Number(total) })
    if (file === part || file === partialOf(part))
      found.push({ file: path.join(path.dirname(name), file), total: Number(total) })
  }
  return found
}

/** Throws `invalid-argument` where others have begun it, with whose images this number of processes does not go on. */
export async function checkOtherParts(name: string, processes: number, isBegunByOne = false): Promise<void> {
  const [part] = isBegunByOne ? [{ file: partialOf(name), total: 1 }] : await partsBeside(name)
  if (!part) return
  const [whose, advice] =
    part.total === 1
      ? ['one process', '']
      : [`${part.total} processes or shards`, '; ddpm merge makes a file of parts that are all there']
  const message = `${part.file} is of ${whose}: --resume goes on with as many, and not with ${processes}${advice}`
  throw new DiffusionError('invalid-argument', message, { argument: 'resume', received: name })
}

/** A device or a pipe. */
export async function isSpecial(name: string): Promise<boolean> {
  const there = await stat(name).catch(() => undefined)
  return there !== undefined && !there.isFile() && !there.isDirectory()
}

/** A partial file without images. */
async function begun(handle: FileHandle, { record }: KeepOptions): Promise<number> {
  const text = JSON.stringify(record)
  if (text.length > recordBytes) throw new Error('its options are too long')
  await handle.write(text.padEnd(recordBytes), 0)
  await handle.datasync()
  return 0
}

/** How many images of the partial file are whole. Throws `bad-file`, and `invalid-argument` where they were drawn otherwise. */
async function resumable(handle: FileHandle, name: string, o: KeepOptions): Promise<number> {
  const stats = await handle.stat()
  const bad = () => new DiffusionError('bad-file', `${partialOf(name)} is not of a sampling`, { argument: 'resume' })
  const text = Buffer.alloc(recordBytes)
  if (stats.isFile() && stats.size === 0) return begun(handle, o) // killed before it had anything
  if (!stats.isFile() || !(await readFully(handle, text, 0))) throw bad()
  let record: unknown
  try {
    record = JSON.parse(text.toString())
  } catch {
    throw bad()
  }
  if (typeof record !== 'object' || record === null) throw bad()
  checkRecord(record as Record<string, unknown>, o.record, partialOf(name))
  return Math.min(o.span.count, Math.floor((stats.size - recordBytes) / sizeOf(o)))
}

async function* piecesOf(handle: FileHandle, start: number, length: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < length; at += pieceBytes) {
    const piece = new Uint8Array(Math.min(pieceBytes, length - at))
    if (!(await readFully(handle, piece, start + at))) throw new Error('the partial file became shorter')
    yield piece
  }
}
