/** Lists of images with labels or captions: CSV (RFC 4180), TSV and JSON lines. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { isObject } from '../../checkpoint/json'
import { type Source, withSource } from '../../checkpoint/source'
import { quote } from '../../errors'
import { labellingOfWords } from '../class-labels'
import { mapConcurrently } from '../concurrently'
import { decodeImage } from '../image-file'
import { checkFiles, noImages } from './folder'
import type { ImageSource, SourceOptions } from './source'

/** Of the hub's data sets first. */
export const labelColumns = ['label', 'class', 'class_name', 'cls'] as const
export const captionColumns = ['text', 'caption', 'prompt'] as const

/** Names of columns, the first that is there; 'file_name' and 'text' are the hub's. */
const columns = {
  file: ['file_name', 'image', 'file', 'path', 'filename', 'image_path'],
  label: labelColumns,
  caption: captionColumns,
} as const
type Column = keyof typeof columns

/** Of an image; in JSON lines there may be several. */
export type Captions = string | readonly string[]

interface Row {
  readonly line: number
  readonly file: string
  readonly label?: string
  readonly caption?: Captions
}

const missing = ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG']

/** Of a line. */
const maxFields = 1000
/** Characters of a field, and of a line of JSON. */
const maxField = 2 ** 20

/** Of a row in our lists, beside its texts. */
const rowCost = 160

/**
 * Paths are relative to the manifest. Throws `bad-file` with the line of what is wrong: no such column, a row without a label, a file
 * that is not there; files that are damaged are left out.
 */
export async function manifestSource(manifest: string, o: SourceOptions): Promise<ImageSource> {
  const folder = path.dirname(manifest)
  const pathOf = (file: string) => path.resolve(folder, file)
  const read = async (source: Source) => {
    const rows = await readRows(source)
    if (rows.length === 0) throw source.bad('it has no rows')
    const files = rows.map(({ file }) => file)
    // Before anything is read: what was never there is not waited for.
    await mapConcurrently(rows, 8, async ({ line, file }) => {
      const error = await stat(pathOf(file)).catch(({ code }) => code)
      if (missing.includes(error)) throw source.bad(`line ${line}: there is no file ${quote(file)}`)
    })
    return { rows, ...(await checkFiles(files, pathOf, o)) }
  }
  const found = await withSource(manifest, 'list of images', read, { argument: 'data' })
  const rows = found.rows.filter((_, i) => found.sizes[i])
  const sizes = found.sizes.filter((size) => size !== undefined)
  if (rows.length === 0) throw noImages(manifest, found.problems)
  return {
    name: manifest,
    length: rows.length,
    nameOf: (i) => rows[i].file,
    identity: ['manifest', rows.map(({ file, label, caption }) => [file, label, caption])],
    leftOut: found.problems,
    ...(rows[0].label !== undefined && { classes: labellingOfWords(rows.map(({ label }) => label!)) }),
    ...(rows[0].caption !== undefined && { captionOf: (i: number) => rows[i].caption }),
    read: (i, look) => decodeImage(pathOf(rows[i].file), look, o),
    sizeOf: async (i) => sizes[i],
  }
}

/** Throws `bad-file`. */
export async function readRows(source: Source): Promise<Row[]> {
  const { size, budget, bad, name } = source
  budget.memory(2 * size)
  const bytes = new Uint8Array(size)
  await source.read(bytes, 0)
  const text = decoded(bytes, bad)
  const kind = path.extname(name).toLowerCase()
  const records = kind === '.jsonl' ? jsonRecords(text, bad) : tableRecords(text, kind === '.tsv' ? '\t' : ',', bad)
  const rows: Row[] = []
  for (const [line, cell] of records) {
    budget.items(1)
    const [file, label] = [cell('file'), cell('label')] as (string | undefined)[]
    const row = { line, file, label, caption: cell('caption') }
    const captions = [row.caption ?? []].flat()
    const letters = captions.reduce((sum, caption) => sum + caption.length, 0)
    budget.memory(rowCost + 16 * captions.length + 2 * ((file?.length ?? 0) + (label?.length ?? 0) + letters))
    if (row.file === undefined || row.file === '')
      throw bad(`line ${line}: it names no file (${columns.file.join(', ')})`)
    if (row.file.includes('\0')) throw bad(`line ${line}: ${quote(row.file)} is no name of a file`)
    const labelled = row.label !== undefined && row.label !== ''
    const expected = (rows[0] ?? row).label !== undefined
    if (labelled !== expected) {
      throw bad(`line ${line}: it has no label, and others have one`)
    }
    rows.push(row as Row)
  }
  return rows
}

function decoded(bytes: Uint8Array, bad: Source['bad']): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw bad('it is not UTF-8')
  }
}

/** Only captions may be several. */
type Record = readonly [line: number, cell: (column: Column) => Captions | undefined]

function* jsonRecords(text: string, bad: Source['bad']): Generator<Record> {
  let line = 0
  for (let from = 0; from < text.length; ) {
    const end = text.indexOf('\n', from)
    const row = text.slice(from, end < 0 ? text.length : end)
    from = end < 0 ? text.length : end + 1
    line++
    if (row.length > maxField) throw bad(`line ${line}: it has more than ${maxField} characters`)
    if (row.trim() === '') continue
    let json: unknown
    try {
      json = JSON.parse(row)
    } catch {
      throw bad(`line ${line}: it is not JSON`)
    }
    if (!isObject(json)) throw bad(`line ${line}: it is no JSON object`)
    const number = line
    yield [
      line,
      (column) => {
        const value = columns[column]
          .map((name) => (Object.hasOwn(json, name) ? json[name] : undefined))
          .find((v) => v !== undefined)
        if (value === undefined || typeof value === 'string') return value
        const isList = Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === 'string')
        if (column === 'caption' && isList) return value as readonly string[]
        if (column === 'label' && Number.isSafeInteger(value) && (value as number) >= 0) return String(value)
        throw bad(`line ${number}: its ${column} is neither a text nor a number from 0 on`)
      },
    ]
  }
}

function* tableRecords(text: string, separator: string, bad: Source['bad']): Generator<Record> {
  let places: Partial<{ [K in Column]: number }> | undefined
  let width = 0
  for (const { line, fields } of tableRows(text, separator, bad)) {
    if (!places) {
      width = fields.length
      const place = (column: Column) => columns[column].map((name) => fields.indexOf(name)).find((at) => at >= 0)
      places = { file: place('file'), label: place('label'), caption: place('caption') }
      if (places.file === undefined) throw bad(`its first line names no column of files: ${columns.file.join(', ')}`)
      continue
    }
    if (fields.length !== width) throw bad(`line ${line}: it has ${fields.length} fields, the first line ${width}`)
    const own = places
    yield [line, (column) => (own[column] === undefined ? undefined : fields[own[column]])]
  }
}

/** Of the quote that opens at `at`; -1 where there is none. */
function closingQuote(text: string, at: number): number {
  let quote = text.indexOf('"', at + 1)
  while (quote >= 0 && text[quote + 1] === '"') quote = text.indexOf('"', quote + 2)
  return quote
}

/** Fields in quotes may have separators, line ends and doubled quotes. Empty lines are passed over. */
function* tableRows(
  text: string,
  separator: string,
  bad: Source['bad'],
): Generator<{ line: number; fields: string[] }> {
  const plain = new RegExp(`[^${separator}\\r\\n]*`, 'y')
  let line = 1
  let at = 0
  while (at < text.length) {
    const begin = line
    const fields: string[] = []
    for (;;) {
      const isQuoted = text[at] === '"'
      plain.lastIndex = at
      const end = isQuoted ? closingQuote(text, at) + 1 : at + plain.exec(text)![0].length
      if (end === 0) throw bad(`line ${line}: a quote is never closed`)
      if (fields.length === maxFields) throw bad(`line ${line}: it has more than ${maxFields} fields`)
      if (end - at > maxField) throw bad(`line ${line}: a field has more than ${maxField} characters`)
      const field = text.slice(at, end)
      at = end
      if (isQuoted) line += field.split('\n').length - 1
      fields.push(isQuoted ? field.slice(1, -1).replaceAll('""', '"') : field)
      if (text[at] !== separator) break
      at++
    }
    if (text[at] === '\r') at++
    if (at < text.length && text[at] !== '\n') throw bad(`line ${line}: a quote is in the middle of a field`)
    at++
    line++
    if (fields.length > 1 || fields[0] !== '') yield { line: begin, fields }
  }
}
