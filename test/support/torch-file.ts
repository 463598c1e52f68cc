/** Files of torch.save, put together by hand: to be what no torch.save writes. */
import { deflateRawSync } from 'node:zlib'

export interface ZipOptions {
  readonly deflate?: boolean
  /** Write every number of the directory as zip64. */
  readonly zip64?: boolean
}

/** A zip archive of these entries. */
export function zipOf(
  entries: Record<string, Uint8Array>,
  { deflate = false, zip64 = false }: ZipOptions = {},
): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  const count = Object.keys(entries).length
  let position = 0
  for (const [name, data] of Object.entries(entries)) {
    const packed = deflate ? deflateRawSync(data) : data
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20, 0)
    common.writeUInt16LE(deflate ? 8 : 0, 4)
    common.writeUInt32LE(packed.length, 14)
    common.writeUInt32LE(data.length, 18)
    common.writeUInt16LE(name.length, 22)
    parts.push(Buffer.from('PK\x03\x04'), Buffer.from(common), Buffer.from(name), Buffer.from(packed))
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE(zip64 ? 0xffffffff : position, 10)
    if (zip64) {
      common.fill(0xff, 14, 22)
      common.writeUInt16LE(28, 24)
    }
    const extra = zip64 ? [Buffer.from('\x01\0\x18\0'), uint64(data.length, packed.length, position)] : []
    directory.push(Buffer.from('PK\x01\x02\x14\0'), common, rest, Buffer.from(name), ...extra)
    position += 30 + name.length + packed.length
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0)
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06')
  if (zip64) {
    const record = [Buffer.from('PK\x06\x06'), uint64(44), Buffer.alloc(12), uint64(count, count, size, position)]
    const locator = [Buffer.from('PK\x06\x07\0\0\0\0'), uint64(position + size), Buffer.from('\x01\0\0\0')]
    directory.push(...record, ...locator)
    end.fill(0xff, 8, 20)
  } else {
    end.writeUInt16LE(count, 8)
    end.writeUInt16LE(count, 10)
    end.writeUInt32LE(size, 12)
    end.writeUInt32LE(position, 16)
  }
  return Buffer.concat([...parts, ...directory, end])
}

function uint64(...values: number[]): Buffer {
  return Buffer.from(BigUint64Array.from(values, BigInt).buffer)
}

/** A checkpoint whose pickle is these opcodes (latin1), with storages. */
export function checkpointOf(
  pickle: string,
  storages: Record<string, Uint8Array> = {},
  options: ZipOptions = {},
): Buffer {
  const data = Object.fromEntries(Object.entries(storages).map(([key, bytes]) => [`a/data/${key}`, bytes]))
  return zipOf({ 'a/data.pkl': Buffer.from(`\x80\x02${pickle}`, 'latin1'), ...data }, options)
}

export const string = (text: string) => `\x8c${String.fromCharCode(text.length)}${text}`
export const storage = (key: string, size: number, type = 'FloatStorage') =>
  `(${string('storage')}ctorch\n${type}\n${string(key)}${string('cpu')}K${String.fromCharCode(size)}tQ`
export const tensor = (stored: string, offset: string, shape: string, strides: string) =>
  `ctorch._utils\n_rebuild_tensor_v2\n(${stored}${offset}${shape}${strides}\x89}tR`

const text = (value: string) => `X${uint32(Buffer.byteLength(value))}${Buffer.from(value).toString('latin1')}`
const uint32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer).toString('latin1')

/** What a checkpoint holds: dicts, lists, tensors of float32, numbers, and opcodes for anything else. */
export type Content =
  | number
  | { readonly shape: readonly number[]; readonly data: Float32Array }
  | { readonly opcodes: string }
  | { readonly dict: Readonly<Record<string, Content>> }
  | { readonly list: readonly Content[] }

/** A file of torch.save with these contents. */
export function torchFile(content: Content): Buffer {
  const storages: Record<string, Uint8Array> = {}
  const integer = (value: number) => `J${uint32(value)}`
  const opcodes = (c: Content): string => {
    if (typeof c === 'number') return integer(c)
    if ('opcodes' in c) return c.opcodes
    if ('dict' in c)
      return `}(${Object.entries(c.dict)
        .map(([key, value]) => text(key) + opcodes(value))
        .join('')}u`
    if ('list' in c) return `](${c.list.map(opcodes).join('')}e`
    const { shape, data } = c
    const key = String(Object.keys(storages).length)
    storages[key] = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((x, y) => x * y, 1))
    const tuple = (values: readonly number[]) => `(${values.map(integer).join('')}t`
    const stored = `(${text('storage')}ctorch\nFloatStorage\n${text(key)}${text('cpu')}${integer(data.length)}tQ`
    return tensor(stored, 'K\0', tuple(shape), tuple(strides))
  }
  return checkpointOf(`${opcodes(content)}.`, storages)
}
