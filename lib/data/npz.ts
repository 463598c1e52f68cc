/**
 * NumPy's .npz files: a zip archive of .npy arrays (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; PKWARE's
 * APPNOTE.TXT, sections 4.3 and 4.4). Stored, not compressed, as numpy.savez does.
 */
import { crc32 } from 'node:zlib'
import { atomicWrite } from '../checkpoint/atomic-write'
import { DiffusionError } from '../errors'

/** Bytes that are not in memory. They are gone through twice: once for their sum, once to be written. */
export interface Pieces {
  readonly byteLength: number
  pieces(): AsyncIterable<Uint8Array>
}

export interface NpyArray {
  /** Pieces are of 8-bit numbers. */
  readonly data: Uint8Array | BigInt64Array | Float32Array | Float64Array | Pieces
  readonly shape: readonly number[]
}

/** Without the extension zip64. */
const maxBytes = 2 ** 32 - 1
/** Of headers and directory. */
const overhead = 2048

/** Throws `unsupported` where arrays of so many bytes are more than 4 GiB. */
export function checkNpzSize(file: string, bytes: number): void {
  if (bytes + overhead <= maxBytes) return
  throw new DiffusionError('unsupported', `${file}: an .npz file of more than 4 GiB`, { argument: 'npz' })
}

/** Writes the arrays as `name`.npy, atomically. Throws `io`, and `unsupported` for more than 4 GiB. */
export async function writeNpz(file: string, arrays: Readonly<Record<string, NpyArray>>): Promise<void> {
  const all = Object.entries(arrays)
  checkNpzSize(
    file,
    all.reduce((sum, [, { data }]) => sum + data.byteLength, 0),
  )
  await atomicWrite(file, async (handle) => {
    const directory: Buffer[] = []
    let offset = 0
    for (const [name, { data, shape }] of all) {
      const header = npyHeader(typeOf(data), shape)
      let crc = crc32(header)
      for await (const piece of piecesOf(data)) crc = crc32(piece, crc)
      const entry = { name: Buffer.from(`${name}.npy`), size: header.length + data.byteLength, crc, offset }
      const local = localHeader(entry)
      await handle.writeFile(local)
      await handle.writeFile(header)
      for await (const piece of piecesOf(data)) await handle.writeFile(piece)
      directory.push(centralHeader(entry))
      offset += local.length + entry.size
    }
    const central = Buffer.concat(directory)
    await handle.writeFile(central)
    await handle.writeFile(endOfDirectory(directory.length, central.length, offset))
  })
}

function typeOf(data: NpyArray['data']): string {
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
}

const version = 20 // 2.0: the format's first with folders, which everything reads
const date = 0x21 // 1980-01-01: the same arrays give the same bytes

/** The fields that both headers of a file have, from the version needed on. */
function common({ name, size, crc }: Entry): Buffer {
  const fields = Buffer.alloc(26)
  fields.writeUInt16LE(version, 0)
  fields.writeUInt16LE(date, 8)
  fields.writeUInt32LE(crc, 10)
  fields.writeUInt32LE(size, 14) // compressed
  fields.writeUInt32LE(size, 18)
  fields.writeUInt16LE(name.length, 22)
  return fields
}

function localHeader(entry: Entry): Buffer {
  return Buffer.concat([Buffer.from('PK\x03\x04'), common(entry), entry.name])
}

function centralHeader(entry: Entry): Buffer {
  const madeBy = Buffer.alloc(2)
  madeBy.writeUInt16LE(version)
  const rest = Buffer.alloc(14) // comment, disk, attributes: all 0
  rest.writeUInt32LE(entry.offset, 10)
  return Buffer.concat([Buffer.from('PK\x01\x02'), madeBy, common(entry), rest, entry.name])
}

function endOfDirectory(entries: number, size: number, offset: number): Buffer {
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06')
  end.writeUInt16LE(entries, 8)
  end.writeUInt16LE(entries, 10)
  end.writeUInt32LE(size, 12)
  end.writeUInt32LE(offset, 16)
  return end
}
