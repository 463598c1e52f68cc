/**
 * The encoded images of a Parquet file, each read when it is asked for. Of a page that is not packed, or by snappy, whose blocks of
 * 64 KiB are for themselves, only the image's bytes are read once it is known where in the page they lie; other pages are unpacked as
 * a whole, and some are kept.
 */
import type { Source } from '../../checkpoint/source'
import { DiffusionError } from '../../errors'
import { withDecodeRoom } from '../decode-room'
import { readRange } from '../image-bytes'
import { bad } from '../image-limits'
import { unpackingCost } from './codecs'
import { readerOf } from './column'
import type { Column, Metadata } from './metadata'
import { keptPage } from './page-cache'
import { indicesOf, listPages, offsetsOf, type Page, type PageReader, readBody, unpackPage } from './pages'
import { blockBytes, unpackSnappy } from './snappy'

/** A page and its chunk's dictionary. */
interface Place {
  readonly firstRow: number
  readonly page: Page
  readonly dictionary: Page | undefined
}

/** Byte arrays of a page: where each begins, and blocks of snappy's that can be unpacked by themselves. */
interface Arrays {
  readonly page: Page
  readonly offsets: Uint32Array
  readonly blocks: Uint32Array | undefined
}

/** The rows of a page: which of the arrays each has, -1 for none; undefined where row i has array i. */
interface Rows {
  readonly arrays: Arrays
  readonly places: Int32Array | undefined
}

/** Of a place in our list; of a row, when its page has been looked at. */
const placeCost = 400
const rowCost = 16

export class ImageColumn {
  readonly #places: readonly Place[]
  readonly #file: string
  readonly #reader: PageReader
  readonly #column: Column
  readonly #rows = new Map<Page, Promise<Rows>>()
  readonly #dictionaries = new Map<Page, Promise<Arrays>>()

  private constructor(file: string, column: Column, places: readonly Place[]) {
    this.#file = file
    this.#reader = {
      read: (position, length) => readRange(file, position, length),
      bad: (problem) => bad(file, problem),
    }
    this.#column = column
    this.#places = places
  }

  /** Reads the headers of all pages. Throws `bad-file`. */
  static async open(source: Source, metadata: Metadata, column: Column): Promise<ImageColumn> {
    const { budget } = source
    const reader = readerOf(source)
    const index = metadata.columns.indexOf(column)
    const places: Place[] = []
    let firstRow = 0
    budget.memory(rowCost * metadata.rows)
    for (const group of metadata.groups) {
      const { dictionary, pages } = await listPages(reader, group[index], column)
      budget.memory(placeCost * (pages.length + 1))
      for (const page of pages) {
        places.push({ firstRow, page, dictionary })
        firstRow += page.count
      }
    }
    return new ImageColumn(source.name, column, places)
  }

  /** The bytes of a row's image. Throws `bad-file` where there are none, or its page is damaged, and as readRange does. */
  async bytesOf(row: number): Promise<Uint8Array> {
    const place = this.#placeOf(row)
    const { arrays, places } = await this.#rowsOf(place)
    const inPage = row - place.firstRow
    const i = places ? places[inPage] : inPage
    if (i < 0) throw bad(this.#file, `row ${row} has no bytes: its image is none, or lies in another file`)
    return this.#bytes(arrays, arrays.offsets[i] + 4, arrays.offsets[i + 1])
  }

  #placeOf(row: number): Place {
    let [from, to] = [0, this.#places.length]
    while (to - from > 1) {
      const middle = (from + to) >> 1
      if (this.#places[middle].firstRow <= row) from = middle
      else to = middle
    }
    return this.#places[from]
  }

  #rowsOf({ page, dictionary }: Place): Promise<Rows> {
    return once(this.#rows, page, async () => {
      if (!dictionary || !page.indexed) {
        return this.#look(page)
      }
      const arrays = await once(this.#dictionaries, dictionary, async () => (await this.#look(dictionary)).arrays)
      const body = await inRoom(page, () => readBody(this.#reader, page, this.#column))
      const indices = indicesOf(body, dictionary.count, this.#reader.bad)
      const places = body.places?.map((i) => (i < 0 ? i : indices[i])) ?? Int32Array.from(indices)
      return { arrays, places }
    })
  }

  /** Where the arrays of a page lie. */
  #look(page: Page): Promise<{ places: Int32Array | undefined; arrays: Arrays }> {
    return inRoom(page, async () => {
      const body = await readBody(this.#reader, page, this.#column)
      const offsets = offsetsOf(body, this.#reader.bad)
      return { places: body.places, arrays: { page, offsets, blocks: body.blocks } }
    })
  }

  async #bytes({ page, blocks }: Arrays, from: number, to: number): Promise<Uint8Array> {
    if (from === to) return new Uint8Array(0)
    const begin = page.begin + (page.levelBytes ?? 0)
    if (page.codec === 'none') return this.#reader.read(begin + from, to - from)
    if (!blocks) {
      const whole = await keptPage(page, () =>
        inRoom(page, async () => {
          const packed = await this.#reader.read(begin, page.packed)
          return (await unpackPage(this.#reader, page, packed)).bytes
        }),
      )
      return Uint8Array.prototype.slice.call(whole, from, to) // a Buffer's own slice is no copy
    }
    const first = Math.floor(from / blockBytes)
    const last = Math.ceil(to / blockBytes)
    const start = first * blockBytes
    const packed = await this.#reader.read(begin + blocks[first], (blocks[last] ?? page.packed) - blocks[first])
    const out = new Uint8Array(Math.min(last * blockBytes, page.unpacked) - start)
    if (!unpackSnappy(packed, 0, out)) throw this.#reader.bad('it is not what it was when it was opened')
    return out.subarray(from - start, to - start)
  }
}

const inRoom = <T>({ codec, packed, unpacked }: Page, work: () => Promise<T>) =>
  withDecodeRoom(unpackingCost(codec, packed, unpacked), work)

/** What `make` gave the first time. Errors that say nothing of the file are not kept. */
function once<T>(made: Map<Page, Promise<T>>, page: Page, make: () => Promise<T>): Promise<T> {
  const known = made.get(page)
  if (known) return known
  const making = make()
  made.set(page, making)
  making.catch((error) => {
    if (!(error instanceof DiffusionError && error.code === 'bad-file')) made.delete(page)
  })
  return making
}
