/** The footer of a Parquet file (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift): FileMetaData. */
import { createHash } from 'node:crypto'
import type { Source } from '../../checkpoint/source'
import { quote } from '../../errors'
import { EndsEarly, readStruct, type Struct } from './thrift'

/** A column of values: a leaf of the schema. */
export interface Column {
  /** Names from the root on, with dots. */
  readonly name: string
  /** parquet.thrift's Type, by name; others are not read. */
  readonly type: 'INT32' | 'INT64' | 'BYTE_ARRAY' | 'other'
  /** The definition level of a value that is there. */
  readonly maxLevel: number
  /** It is, or lies in, a list. */
  readonly repeated: boolean
}

/** A column of one row group. */
export interface Chunk {
  readonly begin: number
  readonly end: number
  readonly codec: number
  readonly rows: number
}

export interface Metadata {
  readonly rows: number
  readonly columns: readonly Column[]
  /** Of each row group the chunks, in the order of the columns. */
  readonly groups: readonly (readonly Chunk[])[]
  /** Key-value metadata. */
  readonly texts: ReadonlyMap<string, string>
  /** Of the footer, which has sizes, places and statistics. */
  readonly hash: string
}

const magic = 'PAR1'
const types: Readonly<Record<number, Column['type']>> = { 1: 'INT32', 2: 'INT64', 6: 'BYTE_ARRAY' }
/** Of groups of columns within one another. */
const maxDepth = 32
/** An image is no smaller than this in the file, but in a dictionary, where many rows may have the same. */
const bytesOfRow = 16
const freeRows = 10_000

/** Throws `bad-file`. What it makes is charged to the source's budget. */
export async function readMetadata(source: Source): Promise<Metadata> {
  const { size, bad, budget } = source
  if (size < 12) throw bad(`it has ${size} bytes: it is truncated`)
  const head = Buffer.alloc(4)
  const tail = Buffer.alloc(8)
  await source.read(head, 0)
  await source.read(tail, size - 8)
  const [begins, ends] = [head.toString('latin1'), tail.toString('latin1', 4)]
  if (begins === 'PARE' || ends === 'PARE') throw bad('it is encrypted')
  if (begins !== magic) throw bad(`it begins with ${quote(begins)} instead of ${magic}`)
  if (ends !== magic) throw bad(`it ends with ${quote(ends)} instead of ${magic}: it is truncated`)
  const length = tail.readUInt32LE(0)
  if (length > size - 12) throw bad(`its footer of ${length} bytes does not lie within it`)
  budget.memory(length)
  const footer = new Uint8Array(length)
  const end = size - 8 - length
  await source.read(footer, end)
  const struct = parsed(source, footer)
  const columns = columnsOf(struct.structs(2), source)
  const rows = struct.need(struct.size(3), 'number of rows')
  if (rows > freeRows + size / bytesOfRow) throw bad(`it says that it has ${rows} rows, in ${size} bytes`)
  const groups = struct.structs(4).map((group) => chunksOf(group, columns.length, end))
  const inGroups = groups.reduce((sum, [chunk]) => sum + (chunk?.rows ?? 0), 0)
  if (inGroups !== rows) throw bad(`it says that it has ${rows} rows, and its row groups have ${inGroups}`)
  budget.memory(length) // of the texts
  const texts = struct.structs(5).map((pair): [string, string] => [pair.text(1) ?? '', pair.text(2) ?? ''])
  return { rows, columns, groups, texts: new Map(texts), hash: createHash('sha256').update(footer).digest('hex') }
}

function parsed({ bad, budget }: Source, footer: Uint8Array): Struct {
  try {
    return readStruct(footer, 0, { bad, charge: (bytes) => budget.memory(bytes) }).struct
  } catch (error) {
    if (error instanceof EndsEarly) throw bad('its footer is damaged')
    throw error
  }
}

/** The leaves of the schema, whose elements are in depth-first order. */
function columnsOf(elements: readonly Struct[], { bad, budget }: Source): Column[] {
  const columns: Column[] = []
  let next = 0
  const walk = (path: readonly string[], parent: { maxLevel: number; repeated: boolean }) => {
    if (path.length > maxDepth) throw bad('its columns are nested too deeply')
    const element = elements[next++]
    if (!element) throw bad('its schema is damaged')
    const isRoot = next === 1
    const repetition = isRoot ? 0 : (element.size(3) ?? 0)
    const name = isRoot ? path : [...path, element.text(4) ?? '']
    const maxLevel = parent.maxLevel + (repetition > 0 ? 1 : 0)
    const repeated = parent.repeated || repetition > 1
    const children = element.size(5) ?? 0
    if (children === 0 && !isRoot) {
      const joined = name.join('.')
      budget.memory(128 + 2 * joined.length)
      columns.push({ name: joined, type: types[element.size(1) ?? -1] ?? 'other', maxLevel, repeated })
    }
    for (let i = 0; i < children; i++) walk(name, { maxLevel, repeated })
  }
  walk([], { maxLevel: 0, repeated: false })
  return columns
}

function chunksOf(group: Struct, columns: number, end: number): Chunk[] {
  const { bad } = group
  const rows = group.need(group.size(3), 'number of rows')
  const chunks = group.structs(1)
  if (chunks.length !== columns) throw bad(`a row group of it has ${chunks.length} columns, its schema ${columns}`)
  return chunks.map((chunk) => {
    if (chunk.bytes(1)) throw bad('its columns are in other files')
    const data = chunk.need(chunk.struct(3), 'place of a column')
    const first = data.need(data.size(9), 'place of a column')
    const begin = Math.min(first, data.size(11) || first) // 0 is where there is none
    const size = data.need(data.size(7), 'size of a column')
    if (begin < magic.length || begin + size > end) throw bad('a column of it does not lie within it: it is damaged')
    return { begin, end: begin + size, codec: data.need(data.size(4), 'codec'), rows }
  })
}
