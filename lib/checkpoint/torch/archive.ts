/** The two containers of torch.save: a zip archive (PyTorch 1.6 and later), and pickles followed by raw storages. */
import { promisify } from 'node:util'
import { inflateRaw } from 'node:zlib'
import { quote } from '../../errors'
import { elementBytes, type ReadBytes } from '../dtypes'
import { describeKind, headLength } from '../file-kind'
import type { Source } from '../source'
import { torchHost } from './globals'
import { type PickleHost, PickleTruncated, unpickle } from './pickle'
import { TorchStorage } from './tensor'
import { dataBegin, readZipDirectory, type ZipEntry } from './zip'

/** The root object of a checkpoint, and a way to its storages' bytes. */
export interface Archive {
  readonly value: unknown
  open(storage: TorchStorage): Promise<StorageBytes>
}

export interface StorageBytes {
  readonly read: ReadBytes
  /** Where in the file they lie as they are; of packed ones undefined. */
  readonly position?: number
}

const pickleStart = 0x80
const zipStart = 0x50 // 'P' of 'PK'

/** Throws `bad-file`. */
export async function readArchive(source: Source): Promise<Archive> {
  if (source.size === 0) throw source.bad('it is empty')
  const first = new Uint8Array(1)
  await source.read(first, 0)
  if (first[0] === zipStart) return readZip(source)
  if (first[0] === pickleStart) return readLegacy(source)
  const head = new Uint8Array(Math.min(source.size, headLength))
  await source.read(head, 0)
  const what = describeKind(head)
  throw source.bad(what ? `it is ${what}` : 'it begins neither like a zip archive nor like a pickle')
}

// ---- zip -------------------------------------------------------------------------------------------------------------

async function readZip(source: Source): Promise<Archive> {
  const { bad, budget } = source
  const entries = await readZipDirectory(source)
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  if (pickles.length !== 1) throw bad(`it has ${pickles.length} entries data.pkl instead of one`)
  const folder = pickles[0].slice(0, -'data.pkl'.length)
  const order = entries.get(`${folder}byteorder`)
  if (order && Buffer.from(await readEntry(source, order)).toString('latin1') !== 'little') {
    throw bad('it was written by a big-endian machine, which is not supported')
  }
  const entryOf = (key: string) => {
    const entry = entries.get(`${folder}data/${key}`)
    if (!entry) throw bad(`the storage ${quote(key)} is missing`)
    return entry
  }
  const host = torchHost(budget, (key, dtype, size) => {
    const { size: bytes } = entryOf(key)
    if (bytes < size * elementBytes[dtype]) {
      throw bad(`the storage ${quote(key)} has ${bytes} bytes, but its ${size} elements of ${dtype} need more`)
    }
    return new TorchStorage(key, dtype, size)
  })
  const pickle = await readEntry(source, entries.get(pickles[0])!)
  const value = complete(() => unpickle(pickle, host, budget).value, bad)
  budget.release(pickle.length)
  const storages = new ZipStorages(source)
  return { value, open: ({ key }) => storages.open(entryOf(key)) }
}

/** Keeps what was opened last: tensors that share a storage come one after the other, and unpacking it for each would have no end. */
class ZipStorages {
  #last?: { readonly entry: ZipEntry; readonly held: number } & StorageBytes

  constructor(private readonly source: Source) {}

  async open(entry: ZipEntry): Promise<StorageBytes> {
    if (this.#last?.entry === entry) return this.#last
    this.source.budget.release(this.#last?.held ?? 0)
    this.#last = undefined
    this.#last = entry.method === 'stored' ? await this.#stored(entry) : await this.#unpacked(entry)
    return this.#last
  }

  async #stored(entry: ZipEntry) {
    const position = await dataBegin(this.source, entry)
    const read: ReadBytes = (target, offset) => this.source.read(target, position + offset)
    return { entry, read, position, held: 0 }
  }

  async #unpacked(entry: ZipEntry) {
    const bytes = await readEntry(this.source, entry)
    const read: ReadBytes = async (target, offset) => {
      this.source.budget.work(target.length)
      target.set(bytes.subarray(offset, offset + target.length))
    }
    return { entry, read, held: bytes.length }
  }
}

const unpack = promisify<Uint8Array, { maxOutputLength: number; chunkSize: number }, Buffer>(inflateRaw)
const minChunk = 64

/** All of an entry, charged as memory. */
async function readEntry(source: Source, entry: ZipEntry): Promise<Uint8Array> {
  const { method, packedSize, size } = entry
  const { budget } = source
  budget.memory(packedSize)
  const packed = new Uint8Array(packedSize)
  await source.read(packed, await dataBegin(source, entry))
  if (method === 'stored') return packed
  budget.memory(size)
  budget.work(size)
  try {
    // In one piece, with room for a byte that would be too many: zlib would put several together, in twice the memory.
    const bytes = await unpack(packed, { maxOutputLength: Math.max(size, 1), chunkSize: Math.max(size + 1, minChunk) })
    if (bytes.length === size) {
      budget.release(packedSize)
      return bytes
    }
  } catch {
    // refused below
  }
  throw source.bad(`${quote(entry.name)} can't be unpacked to its ${size} bytes`)
}

// ---- pickles and raw storages ----------------------------------------------------------------------------------------

const magic = 0x1950a86a20f9469cfc6cn
const protocol = 1001

/**
 * torch.save's form before 1.6: pickles of a magic number, a protocol, the system, the object and the storages' keys; then
 * for each key the number of elements and the elements.
 */
async function readLegacy(source: Source): Promise<Archive> {
  const { bad, budget } = source
  const used = new Map<string, TorchStorage>()
  const plain = torchHost(budget, () => {
    throw bad('its first pickles refer to storages')
  })
  const host = torchHost(budget, (key, dtype, size) => {
    const known = used.get(key)
    if (known && (known.dtype !== dtype || known.size !== size))
      throw bad(`the storage ${quote(key)} has two types or sizes`)
    const storage = known ?? new TorchStorage(key, dtype, size)
    used.set(key, storage)
    return storage
  })
  const pickles = new PickleSequence(source)
  if ((await pickles.next(plain)) !== magic) throw bad('it is a pickle, but not of torch.save')
  if ((await pickles.next(plain)) !== protocol) throw bad(`its protocol is not ${protocol}`)
  const system = await pickles.next(plain)
  if (!(system instanceof Map) || system.get('little_endian') !== true) {
    throw bad('it was written by a big-endian machine, which is not supported')
  }
  const value = await pickles.next(host)
  const keys = await pickles.next(plain)
  if (!Array.isArray(keys)) throw bad('it has no list of storages')
  const positions = await locateStorages(source, keys, used, pickles.position)
  return {
    value,
    async open({ key }) {
      const position = positions.get(key)
      if (position === undefined) throw bad(`the storage ${quote(key)} is missing`)
      return { read: (target, offset) => source.read(target, position + offset), position }
    },
  }
}

async function locateStorages(
  source: Source,
  keys: readonly unknown[],
  used: ReadonlyMap<string, TorchStorage>,
  begin: number,
): Promise<Map<string, number>> {
  const { bad } = source
  const positions = new Map<string, number>()
  let position = begin
  for (const key of keys) {
    const storage = typeof key === 'string' ? used.get(key) : undefined
    if (!storage || positions.has(storage.key)) throw bad('its list of storages is not that of its object')
    const count = new Uint8Array(8)
    if (position + count.length > source.size) throw bad('its storages are truncated')
    await source.read(count, position)
    const size = new DataView(count.buffer).getBigUint64(0, true)
    if (size !== BigInt(storage.size))
      throw bad(`the storage ${quote(storage.key)} has ${size} elements, not ${storage.size}`)
    positions.set(storage.key, position + count.length)
    position += count.length + storage.size * elementBytes[storage.dtype]
    if (position > source.size) throw bad('its storages are truncated')
  }
  for (const key of used.keys()) if (!positions.has(key)) throw bad(`the storage ${quote(key)} is missing`)
  return positions
}

/** Pickles one after the other. None says how long it is, so each is tried with more and more bytes. */
class PickleSequence {
  position = 0

  constructor(private readonly source: Source) {}

  async next(host: PickleHost): Promise<unknown> {
    const { source } = this
    for (let window = 1 << 16; ; window *= 4) {
      const rest = source.size - this.position
      source.budget.memory(Math.min(window, rest))
      const bytes = new Uint8Array(Math.min(window, rest))
      await source.read(bytes, this.position)
      try {
        const { value, length } = unpickle(bytes, host, source.budget)
        this.position += length
        return value
      } catch (error) {
        if (!(error instanceof PickleTruncated)) throw error
        if (bytes.length === rest) throw source.bad('its pickle ends too early')
      } finally {
        source.budget.release(bytes.length)
      }
    }
  }
}

function complete<T>(run: () => T, bad: Source['bad']): T {
  try {
    return run()
  } catch (error) {
    throw error instanceof PickleTruncated ? bad('its pickle ends too early') : error
  }
}
