/** The zip container of torch.save: where its entries lie (PKWARE APPNOTE 6.3, with zip64). Nothing is unpacked here. */
import { quote } from '../../errors'
import type { Source } from '../source'

export interface ZipEntry {
  readonly name: string
  readonly method: 'stored' | 'deflated'
  /** Where its own header is in the file; see dataBegin. */
  readonly header: number
  /** Bytes in the file. */
  readonly packedSize: number
  /** Once unpacked, by its own account. */
  readonly size: number
  /** CRC-32 of what is unpacked, by its own account. */
  readonly crc: number
}

/** Bytes that an entry takes in our map, beside its name. */
const entryCost = 320
const endLength = 22
const end64LocatorLength = 20
const end64Length = 56
const entryLength = 46
const localLength = 30
const maxCommentLength = 0xffff

/** Every entry by its name. Throws `bad-file` unless the directory lies within the file. */
export async function readZipDirectory(source: Source): Promise<Map<string, ZipEntry>> {
  const { count, begin, length } = await findDirectory(source)
  const { bad, budget } = source
  if (length < count * entryLength || length > count * (entryLength + 3 * 0xffff)) {
    throw bad(`its directory of ${count} entries can't have ${length} bytes`)
  }
  budget.memory(length + count * entryCost)
  budget.items(count)
  const bytes = await readAt(source, begin, length, 'directory')
  const entries = new Map<string, ZipEntry>()
  let position = 0
  for (let i = 0; i < count; i++) {
    const { entry, next } = parseEntry(bytes, position, source)
    position = next
    if (entries.has(entry.name)) throw bad(`its directory has ${quote(entry.name)} twice`)
    entries.set(entry.name, entry)
  }
  return entries
}

interface Directory {
  readonly count: number
  readonly begin: number
  readonly length: number
}

async function findDirectory(source: Source): Promise<Directory> {
  const { size, bad } = source
  const tail = await readAt(source, Math.max(0, size - endLength - maxCommentLength), undefined, 'end')
  const tailBegin = size - tail.byteLength
  for (let at = tail.byteLength - endLength; at >= 0; at--) {
    if (tail.getUint32(at, true) !== 0x06054b50 || at + endLength + tail.getUint16(at + 20, true) !== tail.byteLength) {
      continue
    }
    const count = tail.getUint16(at + 10, true)
    const length = tail.getUint32(at + 12, true)
    const begin = tail.getUint32(at + 16, true)
    // A field that doesn't fit has all bits set and its value in the zip64 record.
    if (count !== 0xffff && length !== 0xffffffff && begin !== 0xffffffff) {
      return checkDirectory({ count, begin, length }, tailBegin + at, source)
    }
    return findDirectory64(source, tailBegin + at)
  }
  throw bad('it has no zip directory: it is truncated or of another kind')
}

async function findDirectory64(source: Source, end: number): Promise<Directory> {
  const { bad } = source
  const locator = await readAt(source, end - end64LocatorLength, end64LocatorLength, 'zip64 locator')
  if (locator.getUint32(0, true) !== 0x07064b50) throw bad('it has no zip64 locator')
  const at = uint64(locator, 8, source)
  const record = await readAt(source, at, end64Length, 'zip64 record')
  if (record.getUint32(0, true) !== 0x06064b50) throw bad('it has no zip64 record')
  const [count, length, begin] = [32, 40, 48].map((offset) => uint64(record, offset, source))
  return checkDirectory({ count, begin, length }, at, source)
}

function checkDirectory(directory: Directory, end: number, { bad }: Source): Directory {
  if (directory.begin + directory.length <= end) return directory
  throw bad('its zip directory lies outside of it')
}

function parseEntry(bytes: DataView, at: number, source: Source): { entry: ZipEntry; next: number } {
  const { bad } = source
  if (at + entryLength > bytes.byteLength) throw bad('its directory is truncated')
  if (bytes.getUint32(at, true) !== 0x02014b50) throw bad('its directory is damaged')
  const flags = bytes.getUint16(at + 8, true)
  const method = bytes.getUint16(at + 10, true)
  const [nameLength, extraLength, commentLength] = [28, 30, 32].map((offset) => bytes.getUint16(at + offset, true))
  const extra = at + entryLength + nameLength
  const next = extra + extraLength + commentLength
  if (next > bytes.byteLength) throw bad('its directory is truncated')
  const name = utf8(new Uint8Array(bytes.buffer, bytes.byteOffset + at + entryLength, nameLength), source)
  if (flags & 1) throw bad(`${quote(name)} is encrypted`)
  if (method !== 0 && method !== 8) throw bad(`${quote(name)} is packed by method ${method}, which is not supported`)
  const fields = [bytes.getUint32(at + 24, true), bytes.getUint32(at + 20, true), bytes.getUint32(at + 42, true)]
  const [size, packedSize, header] = widen(fields, bytes, extra, extraLength, source)
  if (method === 0 && size !== packedSize)
    throw bad(`${quote(name)} is stored, but in ${packedSize} bytes and not ${size}`)
  const crc = bytes.getUint32(at + 16, true)
  return { entry: { name, size, packedSize, header, crc, method: method === 0 ? 'stored' : 'deflated' }, next }
}

/** Fields with all bits set come, in this order, from the zip64 extra field. */
function widen(fields: number[], bytes: DataView, extra: number, extraLength: number, source: Source): number[] {
  if (!fields.includes(0xffffffff)) return fields
  for (let at = extra; at + 4 <= extra + extraLength; ) {
    const length = bytes.getUint16(at + 2, true)
    if (bytes.getUint16(at, true) === 1) {
      let value = at + 4
      const end = Math.min(value + length, extra + extraLength)
      return fields.map((field) => {
        if (field !== 0xffffffff) return field
        if (value + 8 > end) throw source.bad('a zip64 field is truncated')
        value += 8
        return uint64(bytes, value - 8, source)
      })
    }
    at += 4 + length
  }
  throw source.bad('a zip64 field is missing')
}

/**
 * Where an entry's bytes begin: behind its own header, whose name and extra field may be longer or shorter than the directory's.
 * Throws `bad-file` unless they lie within the file.
 */
export async function dataBegin(source: Source, { name, header, packedSize }: ZipEntry): Promise<number> {
  const local = await readAt(source, header, localLength, `header of ${quote(name)}`)
  if (local.getUint32(0, true) !== 0x04034b50) throw source.bad(`${quote(name)} is not where its directory says`)
  const begin = header + localLength + local.getUint16(26, true) + local.getUint16(28, true)
  if (begin + packedSize > source.size) throw source.bad(`${quote(name)} does not lie within it`)
  return begin
}

/** `length` bytes, or all from there. */
async function readAt(source: Source, position: number, length: number | undefined, what: string): Promise<DataView> {
  const bytes = length ?? source.size - position
  if (position < 0 || position + bytes > source.size) throw source.bad(`its ${what} lies outside of it`)
  const target = new Uint8Array(bytes)
  await source.read(target, position)
  return new DataView(target.buffer)
}

function uint64(view: DataView, at: number, source: Source): number {
  const value = view.getBigUint64(at, true)
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw source.bad('a size in it is beyond any file')
  return Number(value)
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function utf8(bytes: Uint8Array, source: Source): string {
  try {
    return decoder.decode(bytes)
  } catch {
    throw source.bad('the name of an entry is not UTF-8')
  }
}
