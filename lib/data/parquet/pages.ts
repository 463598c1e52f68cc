/** The pages of a column chunk: their headers, and what is in them (parquet.thrift: PageHeader). */
import type { DiffusionError } from '../../errors'
import { maxDecodeBytes } from '../image-limits'
import { type Codec, codecOf, type Unpacked, unpack, unpackingCost } from './codecs'
import { readHybrid } from './hybrid'
import type { Chunk, Column } from './metadata'
import { EndsEarly, readStruct, type Struct } from './thrift'

/** Where pages are read from, and what is thrown for damaged ones. */
export interface PageReader {
  read(position: number, length: number): Promise<Uint8Array>
  bad(problem: string): DiffusionError
}

export interface Page {
  readonly kind: 'data' | 'dictionary'
  /** Values are indices of the chunk's dictionary. */
  readonly indexed: boolean
  /** Rows, of which some may have no value; entries of a dictionary. */
  readonly count: number
  readonly codec: Codec
  /** In the file, behind the header: definition levels of so many bytes, then what is packed. */
  readonly begin: number
  /** Undefined where they are packed with the values, behind their length. */
  readonly levelBytes: number | undefined
  readonly packed: number
  readonly unpacked: number
}

export interface ChunkPages {
  readonly dictionary: Page | undefined
  /** Those with values, in order. */
  readonly pages: readonly Page[]
}

/** Of a header, with the statistics in it: at first, and at the most. */
const headerBytes = 2 ** 12
const maxHeaderBytes = 2 ** 24
/** What the structs of one header may take. */
const maxHeaderMemory = 2 ** 20

/** parquet.thrift's Encoding. */
const plain = 0
const dictionaryEncodings = [2, 8]

/** Reads the headers. Throws `bad(problem)` for pages that don't make up the chunk, and for what is not read. */
export async function listPages(reader: PageReader, chunk: Chunk, column: Column): Promise<ChunkPages> {
  const { bad } = reader
  const codec = codecOf(chunk.codec, bad)
  const pages: Page[] = []
  let dictionary: Page | undefined
  let rows = 0
  for (let at = chunk.begin; rows < chunk.rows; ) {
    const { struct, end } = await readHeader(reader, at, chunk.end)
    const size = struct.need(struct.size(3), 'size of a page')
    at = end + size
    if (at > chunk.end) throw bad('a page of it does not lie within its column: it is damaged')
    const page = pageOf(struct, { begin: end, size, codec }, column, bad)
    if (!page) continue
    checkSize(page, bad)
    if (page.kind === 'data') {
      rows += page.count
      if (page.count === 0 || rows > chunk.rows) throw bad('a page of it has another number of rows than it says')
      if (page.indexed && !dictionary) throw bad('a page of it needs a dictionary that is not there')
      pages.push(page)
    } else dictionary = page
  }
  return { dictionary, pages }
}

async function readHeader(reader: PageReader, at: number, chunkEnd: number): Promise<{ struct: Struct; end: number }> {
  const { bad } = reader
  for (let length = headerBytes; ; length *= 16) {
    const bytes = await reader.read(at, Math.min(length, chunkEnd - at))
    let memory = maxHeaderMemory
    const charge = (cost: number) => {
      memory -= cost
      if (memory < 0) throw bad('the header of a page of it has far more than it may')
    }
    try {
      const { struct, end } = readStruct(bytes, 0, { bad, charge })
      return { struct, end: at + end }
    } catch (error) {
      if (!(error instanceof EndsEarly)) throw error
      if (at + length >= chunkEnd || length >= maxHeaderBytes) throw bad('a page of it has no whole header')
    }
  }
}

interface Place {
  readonly begin: number
  readonly size: number
  readonly codec: Codec
}

/** Undefined of other kinds, such as indices. */
function pageOf(header: Struct, place: Place, column: Column, bad: PageReader['bad']): Page | undefined {
  const type = header.size(1)
  const unpacked = header.need(header.size(2), 'size of a page')
  const { begin, size, codec } = place
  const common = { begin, packed: size, unpacked, codec, levelBytes: undefined }
  if (type === 0) {
    const data = header.need(header.struct(5), 'number of rows')
    return { ...common, kind: 'data', ...valuesOf(data, data.size(2), column, bad) }
  }
  if (type === 2) {
    const entries = header.need(header.struct(7), 'number of entries')
    return { ...common, kind: 'dictionary', ...valuesOf(entries, plain, column, bad) }
  }
  if (type !== 3) return undefined
  const data = header.need(header.struct(8), 'number of rows')
  const levelBytes = data.need(data.size(5), 'size of its levels')
  const rest = { packed: size - levelBytes, unpacked: unpacked - levelBytes }
  if (rest.packed < 0 || rest.unpacked < 0 || data.size(6) !== 0) throw bad('a page of it has damaged levels')
  const isPacked = data.flag(7) ?? true
  const values = valuesOf(data, data.size(4), column, bad)
  return { ...common, ...rest, kind: 'data', levelBytes, codec: isPacked ? codec : 'none', ...values }
}

function valuesOf(header: Struct, encoding: number | undefined, column: Column, bad: PageReader['bad']) {
  const count = header.need(header.size(1), 'number of values')
  const indexed = dictionaryEncodings.includes(encoding ?? -1)
  if (encoding !== plain && !indexed) {
    throw bad(`its column '${column.name}' has the encoding ${encoding}: read are plain values and dictionaries`)
  }
  return { count, indexed }
}

function checkSize({ codec, packed, unpacked, count, kind }: Page, bad: PageReader['bad']): void {
  if (codec === 'none' && packed !== unpacked) throw bad('a page of it has two sizes')
  const cost = unpackingCost(codec, packed, unpacked)
  if (cost > maxDecodeBytes)
    throw bad(`a page of it takes ${cost} bytes to unpack, more than maxDecodeBytes (${maxDecodeBytes})`)
  if (kind === 'dictionary' && count > unpacked / 4) throw bad('a dictionary of it has more entries than bytes')
}

/** What is in a page. */
export interface PageBody {
  /** Unpacked: where values begin is said with them. */
  readonly bytes: Uint8Array
  readonly valuesAt: number
  /** Of each row its value's place among those of the page, -1 without one; undefined where all have one. */
  readonly places: Int32Array | undefined
  /** Values that are there. */
  readonly values: number
  /** See Unpacked. */
  readonly blocks: Uint32Array | undefined
}

/** Throws `bad(problem)`. */
export async function readBody(reader: PageReader, page: Page, column: Column): Promise<PageBody> {
  const { bad } = reader
  const stored = await reader.read(page.begin, (page.levelBytes ?? 0) + page.packed)
  const { bytes, blocks } = await unpackPage(reader, page, stored.subarray(page.levelBytes ?? 0))
  if (page.kind === 'dictionary' || column.maxLevel === 0) {
    return { bytes, blocks, valuesAt: 0, places: undefined, values: page.count }
  }
  const behind = page.levelBytes === undefined
  if (behind && bytes.length < 4) throw bad('a page of it has damaged levels')
  const length = page.levelBytes ?? viewOf(bytes).getUint32(0, true)
  const from = behind ? bytes.subarray(4, 4 + length) : stored.subarray(0, length)
  const levels = readHybrid(from, Math.ceil(Math.log2(column.maxLevel + 1)), page.count)
  if (from.length !== length || !levels) throw bad('a page of it has damaged levels')
  return { bytes, blocks, valuesAt: behind ? 4 + length : 0, ...placesOf(levels, column.maxLevel) }
}

/** Throws `bad(problem)`. */
export async function unpackPage(reader: PageReader, page: Page, packed: Uint8Array): Promise<Unpacked> {
  const unpacked = await unpack(page.codec, packed, page.unpacked)
  if (!unpacked) throw reader.bad(`a page of it can't be unpacked: its ${page.codec} data are damaged`)
  return unpacked
}

function placesOf(levels: Uint32Array, maxLevel: number): { places: Int32Array | undefined; values: number } {
  const places = new Int32Array(levels.length)
  let values = 0
  for (let i = 0; i < levels.length; i++) places[i] = levels[i] === maxLevel ? values++ : -1
  return { places: values < levels.length ? places : undefined, values }
}

/** Of byte arrays, where each begins with its length; and where the last one ends. */
export function offsetsOf({ bytes, valuesAt, values }: PageBody, bad: PageReader['bad']): Uint32Array {
  if (values > (bytes.length - valuesAt) / 4) throw bad('a page of it has fewer values than it says')
  const offsets = new Uint32Array(values + 1)
  const view = viewOf(bytes)
  let at = valuesAt
  for (let i = 0; i < values; i++) {
    offsets[i] = at
    if (at + 4 > bytes.length) throw bad('a value of it does not lie within its page')
    at += 4 + view.getUint32(at, true)
    if (at > bytes.length) throw bad('a value of it does not lie within its page')
  }
  offsets[values] = at
  return offsets
}

/** Of an indexed page the entry of each value, of `entries`. */
export function indicesOf(body: PageBody, entries: number, bad: PageReader['bad']): Uint32Array {
  const { bytes, valuesAt, values } = body
  if (values === 0) return new Uint32Array(0)
  const width = bytes[valuesAt] ?? 33
  const indices = width <= 32 ? readHybrid(bytes.subarray(valuesAt + 1), width, values) : undefined
  if (!indices?.every((index) => index < entries)) throw bad('a page of it has damaged indices of its dictionary')
  return indices
}

/** Of whole numbers. */
export function numbersOf({ bytes, valuesAt, values }: PageBody, column: Column, bad: PageReader['bad']): number[] {
  const width = column.type === 'INT32' ? 4 : 8
  if (valuesAt + values * width > bytes.length) throw bad('a page of it has fewer values than it says')
  const view = viewOf(bytes)
  return Array.from({ length: values }, (_, i) => {
    const at = valuesAt + i * width
    return width === 4 ? view.getInt32(at, true) : Number(view.getBigInt64(at, true))
  })
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
