/** Pickles and the files of PyTorch around them, byte by byte, to be as wrong as is wanted. */
import { deflateRawSync } from 'node:zlib'

export type Piece = string | Uint8Array

/** Strings are latin-1: opcodes. */
export const bytes = (...pieces: Piece[]): Buffer =>
  Buffer.concat(pieces.map((piece) => (typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece)))

export const repeated = (piece: Piece, n: number): Buffer => {
  const one = bytes(piece)
  return n === 0 ? Buffer.alloc(0) : Buffer.alloc(one.length * n, one)
}

/** BINUNICODE. */
export function text(value: string): Buffer {
  const utf8 = Buffer.from(value)
  const head = Buffer.alloc(5, 'X')
  head.writeUInt32LE(utf8.length, 1)
  return Buffer.concat([head, utf8])
}

/** BININT, or LONG1 of 8 bytes. */
export function int(value: number): Buffer {
  if (value !== (value | 0)) {
    const long = Buffer.alloc(10)
    long[0] = 0x8a
    long[1] = 8
    long.writeBigInt64LE(BigInt(value), 2)
    return long
  }
  const int = Buffer.alloc(5, 'J')
  int.writeInt32LE(value, 1)
  return int
}

export const tuple = (...pieces: Piece[]): Buffer => bytes('(', ...pieces, 't')
export const list = (...pieces: Piece[]): Buffer => bytes('(', ...pieces, 'l')
export const global = (module: string, name: string): Buffer => bytes(`c${module}\n${name}\n`)
export const put = (i: number): Buffer => bytes('r', uint32(i))
export const get = (i: number): Buffer => bytes('j', uint32(i))
export const pickle = (...pieces: Piece[]): Buffer => bytes('\x80\x02', ...pieces, '.')

export function uint32(value: number): Buffer {
  const number = Buffer.alloc(4)
  number.writeUInt32LE(value)
  return number
}

export interface StorageOf {
  readonly key?: string
  readonly type?: string
  readonly elements: number
}

export const storage = ({ key = '0', type = 'FloatStorage', elements }: StorageOf): Buffer =>
  bytes(tuple(text('storage'), global('torch', type), text(key), text('cpu'), int(elements)), 'Q')

export interface ViewOf {
  readonly offset?: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
}

/** However many: more than a call takes as arguments. */
const integers = (values: readonly number[]) => tuple(Buffer.concat(values.map(int)))

/** torch._utils._rebuild_tensor_v2 of a storage that is given, as bytes or from the memo. */
export const tensor = (storage: Piece, { offset = 0, shape, strides }: ViewOf): Buffer =>
  bytes(
    global('torch._utils', '_rebuild_tensor_v2'),
    tuple(storage, int(offset), integers(shape), integers(strides), '\x89', 'N'),
    'R',
  )

export interface ZipEntry {
  readonly name: string
  readonly bytes: Uint8Array
  readonly deflate?: boolean
  /** What the headers say, where that is not so. */
  readonly says?: { readonly size?: number; readonly compressed?: number; readonly method?: number; offset?: number }
}

/** A zip archive; `count`: what its end says of the number of entries. */
export function zip(entries: readonly ZipEntry[], count = entries.length): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let position = 0
  for (const { name, bytes: content, deflate = false, says = {} } of entries) {
    const data = deflate ? deflateRawSync(content, { level: 9 }) : Buffer.from(content)
    const fields = Buffer.alloc(26)
    fields.writeUInt16LE(20, 0)
    fields.writeUInt16LE(says.method ?? (deflate ? 8 : 0), 4)
    fields.writeUInt32LE(says.compressed ?? data.length, 14)
    fields.writeUInt32LE(says.size ?? content.length, 18)
    fields.writeUInt16LE(name.length, 22)
    const local = bytes('PK\x03\x04', fields, name)
    const central = bytes('PK\x01\x02\x14\x00', fields, Buffer.alloc(14), name)
    central.writeUInt32LE(says.offset ?? position, 42)
    directory.push(central)
    parts.push(local, data)
    position += local.length + data.length
  }
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(count % 65536, 8)
  end.writeUInt16LE(count % 65536, 10)
  end.writeUInt32LE(
    directory.reduce((sum, { length }) => sum + length, 0),
    12,
  )
  end.writeUInt32LE(position, 16)
  return Buffer.concat([...parts, ...directory, end])
}

/** torch.save's archive of a pickle. */
export const archive = (data: Uint8Array, storages: Readonly<Record<string, Uint8Array>> = {}, deflate = true) =>
  zip([
    { name: 'a/data.pkl', bytes: data, deflate },
    ...Object.entries(storages).map(([key, bytes]) => ({ name: `a/data/${key}`, bytes, deflate })),
  ])

/** torch.save's form before PyTorch 1.6: magic number, protocol, system, the pickle, keys, storages. */
export function legacy(data: Uint8Array, storages: Readonly<Record<string, Uint8Array>> = {}): Buffer {
  const magic = Buffer.from('6cfc9c46f9206aa85019', 'hex') // 0x1950a86a20f9469cfc6c
  const keys = Object.keys(storages)
  const counts = Object.values(storages).map(({ length }) => {
    const count = Buffer.alloc(8)
    count.writeBigInt64LE(BigInt(length / 4))
    return count
  })
  return bytes(
    pickle('\x8a', Buffer.of(magic.length), magic),
    pickle(int(1001)),
    pickle('}'),
    data,
    pickle(']', '(', ...keys.map(text), 'e'),
    ...Object.values(storages).flatMap((content, i) => [counts[i], content]),
  )
}
