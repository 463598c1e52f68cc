/**
 * NumPy's .npz files: a zip archive of .npy arrays (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; PKWARE's
 * APPNOTE.TXT, sections 4.3 to 4.5). Stored, not compressed, as numpy.savez does.
 */
import { crc32 } from 'node:zlib'
import { atomicWrite } from '../checkpoint/atomic-write'

/** Bytes that are not in memory. They are gone through twice: once for their sum, once to be written. */
export interface Pieces {
  readonly byteLength: number
  /** As NumPy writes it, e.g. '<i8'. Default '|u1'. */
  readonly type?: string
  pieces(): AsyncIterable<Uint8Array>
}

export interface NpyArray {
  readonly data: Uint8Array | BigInt64Array | Float32Array | Float64Array | Pieces
  readonly shape: readonly number[]
}

/** Fields of zip headers with all bits set are in the extension zip64: sizes and places from 4 GiB on. */
const wide = 2 ** 32 - 1

/** Writes the arrays as `name`.npy, atomically. Throws `io`. `zip64`, for tests, asks for the extension where it is not needed. */
export async function writeNpz(
  file: string,
  arrays: Readonly<Record<string, NpyArray>>,
  { zip64 = false }: { readonly zip64?: boolean } = {},
): Promise<void> {
  await atomicWrite(file, async (handle) => {
    const directory: Buffer[] = []
    let offset = 0
    for (const [name, { data, shape }] of Object.entries(arrays)) {
      const header = npyHeader(typeOf(data), shape)
      let crc = crc32(header)
      for await (const piece of piecesOf(data)) crc = crc32(piece, crc)
      const size = header.length + data.byteLength
      const entry = {
        name: Buffer.from(`${name}.npy`),
        size,
        crc,
        offset,
        zip64: zip64 || size >= wide || offset >= wide,
      }
      const local = localHeader(entry)
      await handle.writeFile(local)
      await handle.writeFile(header)
      for await (const piece of piecesOf(data)) await handle.writeFile(piece)
      directory.push(centralHeader(entry))
      offset += local.length + entry.size
    }
    const central = Buffer.concat(directory)
    await handle.writeFile(central)
    await handle.writeFile(endOfDirectory({ entries: directory.length, size: central.length, offset }, zip64))
  })
}

function typeOf(data: NpyArray['data']): string {
  if ('pieces' in data) return data.type ?? '|u1'
  if (data instanceof BigInt64Array) return '<i8'
  if (data instanceof Float64Array) return '<f8'
  return data instanceof Float32Array ? '<f4' : '|u1'
}

async function* piecesOf(data: NpyArray['data']): AsyncIterable<Uint8Array> {
  if ('pieces' in data) yield* data.pieces()
  else yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

/** Magic number, version 1.0, length, a Python dictionary, and spaces so that the data are aligned to 64 bytes. */
function npyHeader(descr: string, shape: readonly number[]): Buffer {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(', ')
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`
  const length = Math.ceil((10 + text.length + 1) / 64) * 64
  const header = Buffer.alloc(length, ' ')
  header.write('\x93NUMPY\x01\x00', 'latin1')
  header.writeUInt16LE(length - 10, 8)
  header.write(text, 10)
  header.write('\n', length - 1)
  return header
}

interface Entry {
  readonly name: Buffer
  readonly size: number
  readonly crc: number
  /** Of the local header. */
  readonly offset: number
  readonly zip64: boolean
}

const version = 20 // 2.0: the format's first with folders, which everything reads
const version64 = 45
const date = 0x21 // 1980-01-01: the same arrays give the same bytes

/** The fields that both headers of a file have, from the version needed on, with the length of an extra field. */
function common({ name, size, crc, zip64 }: Entry, extra: Buffer): Buffer {
  const fields = Buffer.alloc(26)
  fields.writeUInt16LE(zip64 ? version64 : version, 0)
  fields.writeUInt16LE(date, 8)
  fields.writeUInt32LE(crc, 10)
  fields.writeUInt32LE(zip64 ? wide : size, 14) // compressed
  fields.writeUInt32LE(zip64 ? wide : size, 18)
  fields.writeUInt16LE(name.length, 22)
  fields.writeUInt16LE(extra.length, 24)
  return fields
}

function localHeader(entry: Entry): Buffer {
  const extra = entry.zip64 ? extra64([entry.size, entry.size]) : Buffer.alloc(0)
  return Buffer.concat([Buffer.from('PK\x03\x04'), common(entry, extra), entry.name, extra])
}

function centralHeader(entry: Entry): Buffer {
  const { name, size, offset, zip64 } = entry
  const extra = zip64 ? extra64([size, size, offset]) : Buffer.alloc(0)
  const madeBy = Buffer.alloc(2)
  madeBy.writeUInt16LE(zip64 ? version64 : version)
  const rest = Buffer.alloc(14) // comment, disk, attributes: all 0
  rest.writeUInt32LE(zip64 ? wide : offset, 10)
  return Buffer.concat([Buffer.from('PK\x01\x02'), madeBy, common(entry, extra), rest, name, extra])
}

/** What the fields of a header with all bits set are, in their order. */
function extra64(values: readonly number[]): Buffer {
  const extra = Buffer.alloc(4 + 8 * values.length)
  extra.writeUInt16LE(1, 0)
  extra.writeUInt16LE(8 * values.length, 2)
  for (const [i, value] of values.entries()) extra.writeBigUInt64LE(BigInt(value), 4 + 8 * i)
  return extra
}

function endOfDirectory(
  { entries, size, offset }: { entries: number; size: number; offset: number },
  zip64: boolean,
): Buffer {
  const beyond = zip64 || offset >= wide
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06')
  end.writeUInt16LE(entries, 8)
  end.writeUInt16LE(entries, 10)
  end.writeUInt32LE(size, 12)
  end.writeUInt32LE(beyond ? wide : offset, 16)
  if (!beyond) return end
  const record = Buffer.alloc(56)
  record.write('PK\x06\x06')
  record.writeBigUInt64LE(44n, 4) // bytes that follow
  record.writeUInt16LE(version64, 12)
  record.writeUInt16LE(version64, 14)
  for (const [i, value] of [entries, entries, size, offset].entries())
    record.writeBigUInt64LE(BigInt(value), 24 + 8 * i)
  const locator = Buffer.alloc(20)
  locator.write('PK\x06\x07')
  locator.writeBigUInt64LE(BigInt(offset + size), 8)
  locator.writeUInt32LE(1, 16) // disks
  return Buffer.concat([record, locator, end])
}
