/**
 * NumPy's arrays of images: .npy, and .npz with labels beside them (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
 */
import { inflateRawSync } from 'node:zlib'
import { type Source, withSource } from '../../checkpoint/source'
import { dataBegin, readZipDirectory, type ZipEntry } from '../../checkpoint/torch/zip'
import { quote } from '../../errors'
import { type ClassLabelling, labellingOfWords } from '../class-labels'
import { bytesOfType, checkExtent, layoutOf, rawSource, rawTypes } from './raw'
import type { ImageSource, SourceOptions } from './source'

/** What an array's header says. */
interface Npy {
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

/** Throws `bad-file`, `not-found` and `io`, and `invalid-argument` for channels and floats that options don't fit. */
export async function npySource(file: string, o: SourceOptions): Promise<ImageSource> {
  const raw = await withSource(
    file,
    'NumPy array of images (.npy)',
    async (source) => imagesOf(source, await readHeader(source, 0, source.size, source.name), o),
    { argument: 'data' },
  )
  return rawSource({ ...raw, file }, o)
}

/** The same of an archive, whose integers of one dimension, if there are any of that length, are the labels. */
export async function npzSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const read = async (source: Source) => {
    const arrays: { name: string; array: Npy }[] = []
    for (const entry of (await readZipDirectory(source)).values()) {
      if (entry.name.endsWith('.npy'))
        arrays.push({ name: entry.name.slice(0, -4), array: await readEntry(source, entry) })
    }
    const images = pick(
      arrays.filter(({ array }) => array.shape.length >= 3),
      imageNames,
    )
    if (!images) throw source.bad(`none of its ${arrays.length} arrays is of three or four dimensions`)
    const raw = imagesOf(source, images.array, o)
    const fits = ({ array }: { array: Npy }) =>
      /^[<>]?[iu]\d$/.test(array.type) && array.shape[0] === raw.count && array.shape.slice(1).every((n) => n === 1)
    const labels = pick(arrays.filter(fits), labelNames)
    return { ...raw, ...(labels && { classes: await readLabels(source, labels.array) }) }
  }
  return rawSource(
    { ...(await withSource(file, 'NumPy archive of images (.npz)', read, { argument: 'data' })), file },
    o,
  )
}

/** Of several arrays, the one of these names that comes first: this package's and guided-diffusion's, Keras', MedMNIST's. */
const imageNames = ['arr_0', 'images', 'x_train', 'train_images', 'x', 'data']
const labelNames = ['arr_1', 'labels', 'y_train', 'train_labels', 'y', 'label']

function pick<T extends { readonly name: string }>(arrays: readonly T[], names: readonly string[]): T | undefined {
  const rank = ({ name }: T) => (names.includes(name) ? names.indexOf(name) : names.length)
  return arrays.toSorted((a, b) => rank(a) - rank(b))[0]
}

function imagesOf(source: Source, array: Npy, o: SourceOptions) {
  const bad = (problem: string) => source.bad(problem)
  const type = rawTypes.find((known) => known === array.type)
  if (!type) throw bad(`its numbers are ${quote(array.type)}: read are ${rawTypes.join(', ')}`)
  const layout = layoutOf(array.shape, o.channels, bad)
  checkExtent(layout, bad)
  const stride = layout.height * layout.width * layout.channels * bytesOfType(type)
  const { begin, unpacked } = array
  return { ...layout, type, begin, stride, ...(unpacked && { unpacked }) }
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

async function readHeader(source: Source, begin: number, length: number, name: string): Promise<Npy> {
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

async function readLabels(source: Source, { shape: [count], type, begin, unpacked }: Npy): Promise<ClassLabelling> {
  const width = Number(type.at(-1))
  source.budget.memory(count * (width + 64))
  source.budget.items(count)
  const bytes = unpacked ? unpacked.slice(begin, begin + count * width) : new Uint8Array(count * width)
  if (!unpacked) await source.read(bytes, begin)
  const view = Buffer.from(bytes.buffer)
  const little = !type.startsWith('>')
  const read = (at: number): number => {
    if (width === 8) return Number(little ? view.readBigInt64LE(at) : view.readBigInt64BE(at))
    return type.includes('i')
      ? view[little ? 'readIntLE' : 'readIntBE'](at, width)
      : view[little ? 'readUIntLE' : 'readUIntBE'](at, width)
  }
  const labels = Array.from({ length: count }, (_, i) => read(i * width))
  const wrong = labels.findIndex((label) => label < 0)
  if (wrong >= 0) throw source.bad(`the label of image ${wrong} is ${labels[wrong]}, which is out of range`)
  return labellingOfWords(labels.map(String))
}
