/**
 * What one shard computes, as an .npz file: arrays whose first axis are its images, and `part`, a JSON object that says of what whole it
 * is a part and which.
 */
import { crc32 } from 'node:zlib'
import { type JsonObject, parseJsonObject } from '../../checkpoint/json'
import { type Source, withSource } from '../../checkpoint/source'
import { dataBegin, readZipDirectory } from '../../checkpoint/torch/zip'
import { quote } from '../../errors'
import type { Shard } from '../../shard'
import { readHeader } from '../npy'
import type { NpyArray } from '../npz'

export interface PartHeader {
  readonly shard: Shard
  /** Its images: number of the first, and how many. */
  readonly first: number
  readonly count: number
  /** What it has in common with the other parts: values by their names. */
  readonly whole: Readonly<Record<string, string>>
  /** What computed it, on which the last bits may depend. */
  readonly device?: string
}

/** An array as it lies in its file. */
export interface PartArray {
  readonly shape: readonly number[]
  readonly type: string
  /** Where its header and its numbers begin, and where they end. */
  readonly header: number
  readonly begin: number
  readonly end: number
  /** Of all from its header on. */
  readonly crc: number
}

export interface Part extends PartHeader {
  readonly file: string
  /** Names, types and shapes of an image's numbers. */
  readonly layout: string
  /** All but `part`, by their names. */
  readonly arrays: ReadonlyMap<string, PartArray>
}

const format = 'ddpm-native part 1'
const maxHeader = 2 ** 20
const kind = 'part of a sampling (.npz)'

/** 'samples.npz' as 'samples-03-of-16.npz'. */
export function partName(file: string, { index, total }: Shard): string {
  const [, stem, ending] = /^(.*?)(\.\w+)?$/s.exec(file)!
  return `${stem}-${String(index).padStart(String(total).length, '0')}-of-${total}${ending ?? ''}`
}

/** The array that makes a part of a file. */
export function partArray(header: PartHeader): NpyArray {
  const data = Buffer.from(JSON.stringify(headerFields(header)))
  return { data: new Uint8Array(data), shape: [data.length] }
}

/** Reads what a part is, and where its arrays are. Throws `not-found`, `io`, and `bad-file`. */
export function readPart(file: string): Promise<Part> {
  return withSource(file, kind, (source) => read(file, source), { argument: 'parts' })
}

async function read(file: string, source: Source): Promise<Part> {
  const arrays = new Map<string, PartArray>()
  for (const entry of (await readZipDirectory(source)).values()) {
    if (!entry.name.endsWith('.npy')) continue
    if (entry.method !== 'stored') throw source.bad(`${quote(entry.name)} is packed`)
    const header = await dataBegin(source, entry)
    const { shape, type, begin } = await readHeader(source, header, entry.size, entry.name)
    arrays.set(entry.name.slice(0, -4), { shape, type, header, begin, end: header + entry.size, crc: entry.crc })
  }
  const own = arrays.get('part')
  if (!own) throw source.bad("it has no array 'part': it is whole, or of another kind")
  const header = await readPartHeader(source, own)
  arrays.delete('part')
  for (const [name, { shape }] of arrays) {
    if (shape[0] !== header.count)
      throw source.bad(`${quote(name)} is of shape [${shape.join(', ')}], and the part of ${header.count}`)
  }
  const layout = [...arrays].map(([name, { type, shape }]) => `${quote(name)} ${type} [${shape.slice(1).join(', ')}]`)
  return { ...header, file, layout: layout.sort().join(', '), arrays }
}

async function readPartHeader(source: Source, { header, begin, end, crc }: PartArray): Promise<PartHeader> {
  if (end - header > maxHeader) throw source.bad("its array 'part' is too long")
  source.budget.memory(end - header)
  const bytes = new Uint8Array(end - header)
  await source.read(bytes, header)
  if (crc32(bytes) !== crc) throw source.bad("its array 'part' is damaged")
  return headerOf(parseJsonObject(bytes.subarray(begin - header), source.budget, "its array 'part'"), source.bad)
}

/** As JSON. */
export function headerFields(header: PartHeader): object {
  return { format, ...header }
}

/** Of a JSON object. Throws `bad-file`. */
export function headerOf(value: JsonObject, bad: Source['bad']): PartHeader {
  if (value.format !== format) throw bad(`its format is ${quote(String(value.format))}, not ${quote(format)}`)
  const isNumber = (v: unknown, min: number): v is number => Number.isSafeInteger(v) && (v as number) >= min
  const { shard, first, count, whole, device } = value as unknown as Partial<PartHeader>
  const fits =
    isNumber(shard?.total, 1) &&
    isNumber(shard?.index, 1) &&
    shard.index <= shard.total &&
    isNumber(first, 0) &&
    isNumber(count, 1) &&
    (device === undefined || typeof device === 'string') &&
    typeof whole === 'object' &&
    whole !== null &&
    Object.values(whole).every((text) => typeof text === 'string')
  if (!fits) throw bad('it does not say which part it is')
  return { shard: { index: shard.index, total: shard.total }, first, count, whole, device }
}
