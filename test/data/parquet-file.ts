/** Parquet files as other tools write them, and damaged ones (https://github.com/apache/parquet-format). */
import { gzipSync } from 'node:zlib'

/** Thrift's compact protocol: the value of a field, with its type. */
type Thrift =
  | { readonly int: number; readonly wide?: boolean }
  | { readonly flag: boolean }
  | { readonly bytes: Buffer | string }
  | { readonly list: readonly Thrift[] }
  | { readonly struct: Fields }
export type Fields = readonly (readonly [id: number, value: Thrift])[]

const int = (value: number): Thrift => ({ int: value })
const long = (value: number): Thrift => ({ int: value, wide: true })
const text = (bytes: Buffer | string): Thrift => ({ bytes })
const struct = (...fields: Fields): Thrift => ({ struct: fields })
const list = (items: readonly Thrift[]): Thrift => ({ list: items })

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128)
  return Buffer.from([...bytes, value])
}

const typeOf = (v: Thrift) =>
  'int' in v ? (v.wide ? 6 : 5) : 'flag' in v ? (v.flag ? 1 : 2) : 'bytes' in v ? 8 : 'list' in v ? 9 : 12

function encoded(v: Thrift): Buffer {
  if ('int' in v) return varint(v.int < 0 ? -2 * v.int - 1 : 2 * v.int)
  if ('flag' in v) return Buffer.alloc(0)
  if ('bytes' in v) return Buffer.concat([varint(Buffer.byteLength(v.bytes)), Buffer.from(v.bytes)])
  if ('struct' in v) return encodeStruct(v.struct)
  const head = Buffer.from([0xf0 | typeOf(v.list[0] ?? int(0))])
  return Buffer.concat([head, varint(v.list.length), ...v.list.map(encoded)])
}

/** Field numbers are written in full, which any reader takes. */
export function encodeStruct(fields: Fields): Buffer {
  const parts = fields.flatMap(([id, v]) => [Buffer.from([typeOf(v)]), varint(2 * id), encoded(v)])
  return Buffer.concat([...parts, Buffer.from([0])])
}

/** A value may be null. */
export type Cell = Buffer | string | number | null
export type Codec = 'none' | 'snappy' | 'gzip'

export interface TestColumn {
  /** With a dot for { image: { bytes } }. */
  readonly name: string
  readonly values: readonly Cell[]
  readonly codec?: Codec
  /** Values are in a dictionary (default false). */
  readonly dictionary?: boolean
  /** Pages of the second version (default false). */
  readonly v2?: boolean
  /** Packs what `codec` says, in another way. */
  readonly pack?: (data: Buffer) => Buffer
  /** In a list. */
  readonly repeated?: boolean
}

export interface TestParquet {
  readonly columns: readonly TestColumn[]
  /** Rows of a row group (default all), and of a page (default all of the group). */
  readonly groupRows?: number
  readonly pageRows?: number
  readonly features?: object
  /** Makes another header of a page. */
  readonly header?: (fields: Fields, kind: 'data' | 'dictionary') => Fields
  /** Makes another footer. */
  readonly footer?: (fields: Fields) => Fields
}

const codecs = { none: 0, snappy: 1, gzip: 2 } as const

/** Literals only, in blocks as Snappy's compressor makes them. */
export function snappyOf(data: Buffer, block = 2 ** 16): Buffer {
  const parts = [varint(data.length)]
  for (let at = 0; at < data.length; at += block) {
    const literal = data.subarray(at, at + block)
    const length = Buffer.alloc(4)
    length[0] = 62 << 2
    length.writeUIntLE(literal.length - 1, 1, 3)
    parts.push(length, literal)
  }
  return Buffer.concat(parts)
}

function packed(data: Buffer, { codec = 'none', pack }: TestColumn): Buffer {
  if (pack) return pack(data)
  return codec === 'snappy' ? snappyOf(data) : codec === 'gzip' ? gzipSync(data) : data
}

/** Runs of one bit, as definition levels are. */
function levelsOf(values: readonly Cell[], optional: number): Buffer {
  const runs = values.map((value) => [varint(2), Buffer.from([value === null ? optional - 1 : optional])])
  return Buffer.concat(runs.flat())
}

function plainOf(values: readonly Cell[]): Buffer {
  const parts = values.map((value) => {
    if (typeof value === 'number') {
      const number = Buffer.alloc(8)
      number.writeBigInt64LE(BigInt(value))
      return number
    }
    const bytes = Buffer.from(value!)
    const length = Buffer.alloc(4)
    length.writeUInt32LE(bytes.length)
    return Buffer.concat([length, bytes])
  })
  return Buffer.concat(parts)
}

function chunkOf(column: TestColumn, values: readonly Cell[], { pageRows = values.length, header }: TestParquet) {
  const { codec = 'none', dictionary = false, v2 = false } = column
  const levelCount = column.name.split('.').length
  const pages: Buffer[] = []
  const add = (kind: 'data' | 'dictionary', fields: Fields, parts: Buffer[]) =>
    pages.push(encodeStruct(header?.(fields, kind) ?? fields), ...parts)
  const there = values.filter((value) => value !== null)
  const entries = [...new Set(there)]
  if (dictionary) {
    const plain = plainOf(entries)
    const data = packed(plain, column)
    const fields: Fields = [
      [1, int(2)],
      [2, int(plain.length)],
      [3, int(data.length)],
      [7, struct([1, int(entries.length)], [2, int(0)])],
    ]
    add('dictionary', fields, [data])
  }
  for (let at = 0; at < values.length; at += pageRows) {
    const rows = values.slice(at, at + pageRows)
    const own = rows.filter((value) => value !== null)
    const indices = own.flatMap((value) => [varint(2), Buffer.from([entries.indexOf(value), 0])])
    const plain = dictionary ? Buffer.concat([Buffer.from([16]), ...indices]) : plainOf(own)
    const levels = levelsOf(rows, levelCount)
    const encoding = int(dictionary ? 8 : 0)
    if (v2) {
      const data = packed(plain, column)
      const counts: Fields = [
        [1, int(rows.length)],
        [2, int(rows.length - own.length)],
        [3, int(rows.length)],
        [4, encoding],
        [5, int(levels.length)],
        [6, int(0)],
        [7, { flag: codec !== 'none' }],
      ]
      const fields: Fields = [
        [1, int(3)],
        [2, int(levels.length + plain.length)],
        [3, int(levels.length + data.length)],
        [8, struct(...counts)],
      ]
      add('data', fields, [levels, data])
    } else {
      const length = Buffer.alloc(4)
      length.writeUInt32LE(levels.length)
      const body = Buffer.concat([length, levels, plain])
      const data = packed(body, column)
      const counts: Fields = [
        [1, int(rows.length)],
        [2, encoding],
        [3, int(3)],
        [4, int(3)],
      ]
      const fields: Fields = [
        [1, int(0)],
        [2, int(body.length)],
        [3, int(data.length)],
        [5, struct(...counts)],
      ]
      add('data', fields, [data])
    }
  }
  return Buffer.concat(pages)
}

const typeOfColumn = ({ values }: TestColumn) => (typeof values.find((v) => v !== null) === 'number' ? 2 : 6)

function schemaOf(columns: readonly TestColumn[]): Thrift[] {
  const elements = [struct([4, text('schema')], [5, int(columns.length)])]
  for (const column of columns) {
    const names = column.name.split('.')
    for (const name of names.slice(0, -1)) elements.push(struct([3, int(1)], [4, text(name)], [5, int(1)]))
    const repetition = int(column.repeated ? 2 : 1)
    elements.push(struct([1, int(typeOfColumn(column))], [3, repetition], [4, text(names.at(-1)!)]))
  }
  return elements
}

export function parquet(o: TestParquet): Buffer {
  const { columns, features } = o
  const rows = columns[0].values.length
  const { groupRows = rows } = o
  const parts = [Buffer.from('PAR1')]
  let at = 4
  const groups: Thrift[] = []
  for (let first = 0; first < rows; first += groupRows) {
    const chunks = columns.map((column) => {
      const data = chunkOf(column, column.values.slice(first, first + groupRows), o)
      const meta: Fields = [
        [1, int(typeOfColumn(column))],
        [3, list(column.name.split('.').map(text))],
        [4, int(codecs[column.codec ?? 'none'])],
        [2, list([int(0), int(3)])],
        [5, long(Math.min(groupRows, rows - first))],
        [6, long(data.length)],
        [7, long(data.length)],
        [9, long(at)],
      ]
      parts.push(data)
      at += data.length
      return struct([2, long(at)], [3, struct(...meta)])
    })
    groups.push(struct([1, list(chunks)], [2, long(0)], [3, long(Math.min(groupRows, rows - first))]))
  }
  const hub = JSON.stringify({ info: { features } })
  const fields: Fields = [
    [1, int(2)],
    [2, list(schemaOf(columns))],
    [3, long(rows)],
    [4, list(groups)],
    [5, list(features ? [struct([1, text('huggingface')], [2, text(hub)])] : [])],
  ]
  const footer = encodeStruct(o.footer?.(fields) ?? fields)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(footer.length)
  return Buffer.concat([...parts, footer, length, Buffer.from('PAR1')])
}
