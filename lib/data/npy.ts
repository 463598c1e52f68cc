/** NumPy's arrays as they lie in .npy and .npz files: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. */
import { inflateRawSync } from 'node:zlib'
import type { Source } from '../checkpoint/source'
import { dataBegin, readZipDirectory, type ZipEntry } from '../checkpoint/torch/zip'
import { quote } from '../errors'

/** What an array's header says. */
export interface Npy {
  readonly shape: readonly number[]
  /** As NumPy writes it, but for the '|' of bytes. */
  readonly type: string
  /** Where its numbers begin, in the file or in `unpacked`. */
  readonly begin: number
  readonly unpacked?: Uint8Array
}

/** Of a header, version 1's at most. */
const maxHeader = 2 ** 16
const magic = '\x93NUMPY'

/** The arrays of an archive, by their names, of those that are `wanted`. Throws `bad-file`. */
export async function readArrays(
  source: Source,
  wanted: (name: string) => boolean = () => true,
): Promise<Map<string, Npy>> {
  const arrays = new Map<string, Npy>()
  for (const entry of (await readZipDirectory(source)).values()) {
    const name = entry.name.slice(0, -4)
    if (entry.name.endsWith('.npy') && wanted(name)) arrays.set(name, await readEntry(source, entry))
  }
  return arrays
}

async function readEntry(source: Source, entry: ZipEntry): Promise<Npy> {
  const begin = await dataBegin(source, entry)
  if (entry.method === 'stored') return readHeader(source, begin, entry.size, entry.name)
  source.budget.memory(entry.packedSize + entry.size)
  source.budget.work(entry.size)
  const packed = new Uint8Array(entry.packedSize)
  await source.read(packed, begin)
  const unpacked = inflated(source, packed, entry)
  source.budget.release(entry.packedSize)
  return { ...parseHeader(source, unpacked, unpacked.length, entry.name), unpacked }
}

function inflated(source: Source, packed: Uint8Array, { name, size }: ZipEntry): Uint8Array {
  try {
    const unpacked = inflateRawSync(packed, { maxOutputLength: Math.max(1, size) })
    // Not as a Buffer, whose slices are no copies.
    if (unpacked.length === size) return new Uint8Array(unpacked.buffer, unpacked.byteOffset, size)
  } catch {
    // the same
  }
  throw source.bad(`${quote(name)} can't be unpacked`)
}

export async function readHeader(source: Source, begin: number, length: number, name: string): Promise<Npy> {
  const head = new Uint8Array(Math.min(maxHeader, length))
  await source.read(head, begin)
  const header = parseHeader(source, head, length, name)
  return { ...header, begin: begin + header.begin }
}

/** Of the first bytes of an array of `length` bytes. */
function parseHeader(source: Source, head: Uint8Array, length: number, name: string): Npy {
  const bytes = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, maxHeader))
  if (bytes.length < 12 || bytes.toString('latin1', 0, 6) !== magic)
    throw source.bad(`${quote(name)} does not begin as .npy`)
  const wide = bytes[6] > 1
  const begin = (wide ? 12 : 10) + (wide ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8))
  const text = bytes.toString('latin1', wide ? 12 : 10, Math.min(begin, bytes.length))
  const [, type] = /'descr':\s*'[|]?([<>=]?\w{1,8})'/.exec(text) ?? []
  const [, tuple] = /'shape':\s*\(([\d,\s]*)\)/.exec(text) ?? []
  if (begin > length || type === undefined || tuple === undefined)
    throw source.bad(`${quote(name)} has a damaged header`)
  if (/'fortran_order':\s*True/.test(text))
    throw source.bad(`${quote(name)} is in Fortran's order: save np.ascontiguousarray(...)`)
  const shape = tuple
    .split(',')
    .filter((n) => n.trim() !== '')
    .map(Number)
  const size = shape.reduce((a, b) => a * b, 1) * Number(/\d+$/.exec(type)?.[0] ?? Number.NaN)
  if (!Number.isSafeInteger(size) || size !== length - begin) {
    throw source.bad(
      `${quote(name)} of shape [${shape.join(', ')}] and type ${quote(type)} has ${length - begin} bytes: it is truncated`,
    )
  }
  return { shape, type, begin }
}

/** Its numbers, of floats and integers of up to 32 bits. Throws `bad-file` for others. */
export async function readNumbers(source: Source, { shape, type, begin, unpacked }: Npy): Promise<Float64Array> {
  const width = Number(type.at(-1))
  const count = shape.reduce((a, b) => a * b, 1)
  if (!/^[<>]?([iu][124]|f[48])$/.test(type)) throw source.bad(`its numbers are ${quote(type)}`)
  source.budget.memory(count * (unpacked ? 8 : 8 + width))
  const bytes = unpacked ? unpacked.subarray(begin, begin + count * width) : new Uint8Array(count * width)
  if (!unpacked) await source.read(bytes, begin)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const kind = { i: 'Int', u: 'Uint', f: 'Float' }[type.at(-2) as 'i' | 'u' | 'f']
  const get = `get${kind}${8 * width}` as 'getFloat64'
  const little = !type.startsWith('>')
  return Float64Array.from({ length: count }, (_, i) => view[get](i * width, little))
}

/** The same of float32, as they are. */
export async function readFloats(source: Source, { shape, type, begin, unpacked }: Npy): Promise<Float32Array> {
  if (type !== '<f4') throw source.bad(`its numbers are ${quote(type)}, not float32`)
  const bytes = 4 * shape.reduce((a, b) => a * b, 1)
  source.budget.memory(bytes)
  const out = new Uint8Array(bytes)
  if (unpacked) out.set(unpacked.subarray(begin, begin + bytes))
  else await source.read(out, begin)
  return new Float32Array(out.buffer)
}
