/**
 * What one shard computes, as an .npz file: arrays whose first axis are its images; `about`, where there is one, which is the same in all
 * parts; and `part`, a JSON object that says of what whole it is a part and which.
 */
import { type JsonObject, parseJsonObject } from '../../checkpoint/json'
import { type Source, withSource } from '../../checkpoint/source'
import { quote } from '../../errors'
import { maxTotal, type Shard } from '../../shard'
import type { NpyArray } from '../npz'
import { type StoredArray, storedArrays, storedText } from '../stored-npz'

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

export interface Part extends PartHeader {
  readonly file: string
  /** Names, types and shapes of an image's numbers. */
  readonly layout: string
  /** All but `part`, by their names. */
  readonly arrays: ReadonlyMap<string, StoredArray>
}

const format = 'ddpm-native part 1'
/** The name of an array that is not of images, but the same in all parts. */
export const common = 'about'
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
  const arrays = await storedArrays(source)
  const own = arrays.get('part')
  if (!own) throw source.bad("it has no array 'part': it is whole, or of another kind")
  const what = "its array 'part'"
  const header = headerOf(parseJsonObject(await storedText(source, own), source.budget, what), source.bad)
  arrays.delete('part')
  const layout: string[] = []
  for (const [name, { type, shape, crc }] of arrays) {
    const [count, ...rest] = shape
    layout.push(`${quote(name)} ${name === common ? crc : `${type} [${rest.join(', ')}]`}`)
    if (name !== common && count !== header.count)
      throw source.bad(`${quote(name)} is of shape [${shape.join(', ')}], and the part of ${header.count}`)
  }
  return { ...header, file, layout: layout.sort().join(', '), arrays }
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
    shard.total <= maxTotal &&
    isNumber(first, 0) &&
    isNumber(count, 1) &&
    (device === undefined || typeof device === 'string') &&
    typeof whole === 'object' &&
    whole !== null &&
    Object.values(whole).every((text) => typeof text === 'string')
  if (!fits) throw bad('it does not say which part it is')
  return { shard: { index: shard.index, total: shard.total }, first, count, whole, device }
}
