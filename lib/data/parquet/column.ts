/** Columns of labels and texts, which are read as a whole when the file is opened. */
import type { Source } from '../../checkpoint/source'
import { unpackingCost } from './codecs'
import type { Column, Metadata } from './metadata'
import {
  indicesOf,
  listPages,
  numbersOf,
  offsetsOf,
  type Page,
  type PageBody,
  type PageReader,
  readBody,
} from './pages'

export type Value = number | string

/** Of a value in an array, and of a string beside its characters. */
const placeCost = 16
const textCost = 32

/** Reads through the source, which charges the work. */
export function readerOf(source: Source): PageReader {
  return {
    bad: source.bad,
    async read(position, length) {
      const bytes = new Uint8Array(length)
      await source.read(bytes, position)
      return bytes
    },
  }
}

/** The value of each row; undefined where it has none. Throws `bad-file`. */
export async function readColumn(source: Source, metadata: Metadata, column: Column): Promise<(Value | undefined)[]> {
  const { budget, bad } = source
  const reader = readerOf(source)
  const index = metadata.columns.indexOf(column)
  budget.memory(placeCost * metadata.rows)
  const rows: (Value | undefined)[] = []
  /** What `use` makes of a page, which is charged while it is held. */
  const withBody = async (page: Page, use: (body: PageBody) => void) => {
    const cost = unpackingCost(page.codec, page.packed, page.unpacked) + placeCost * page.count
    budget.memory(cost)
    budget.work(page.unpacked)
    budget.items(page.count)
    use(await readBody(reader, page, column))
    budget.release(cost)
  }
  const valuesOf = (body: PageBody): Value[] =>
    column.type === 'BYTE_ARRAY' ? textsOf(body, source) : numbersOf(body, column, bad)
  for (const group of metadata.groups) {
    const { dictionary, pages } = await listPages(reader, group[index], column)
    let entries: Value[] = []
    if (dictionary) {
      budget.memory(placeCost * dictionary.count)
      await withBody(dictionary, (body) => {
        entries = valuesOf(body)
      })
    }
    for (const page of pages) {
      await withBody(page, (body) => {
        const values = page.indexed
          ? Array.from(indicesOf(body, entries.length, bad), (entry) => entries[entry])
          : valuesOf(body)
        for (let i = 0; i < page.count; i++) rows.push(values[body.places ? body.places[i] : i])
      })
    }
  }
  return rows
}

function textsOf(body: PageBody, { bad, budget }: Source): string[] {
  const offsets = offsetsOf(body, bad)
  const bytes = Buffer.from(body.bytes.buffer, body.bytes.byteOffset, body.bytes.length)
  return Array.from({ length: body.values }, (_, i) => {
    budget.memory(textCost + 2 * (offsets[i + 1] - offsets[i]))
    return bytes.toString('utf8', offsets[i] + 4, offsets[i + 1])
  })
}
