/** The JSON header of a safetensors file, checked. */
import type { DiffusionError } from '../errors'
import { elementBytes, type ReadableDType } from './dtypes'
import { isObject, parseJsonObject } from './json'

export interface TensorEntry {
  readonly name: string
  readonly dtype: ReadableDType
  readonly shape: readonly number[]
  /** In bytes from the start of the data. */
  readonly begin: number
  readonly end: number
}

export interface Header {
  /** In the order of their data. */
  readonly entries: readonly TensorEntry[]
  readonly metadata: Record<string, string>
}

type Bad = (problem: string) => DiffusionError

/** `dataBytes`: what follows the header. Throws `bad(problem)` unless the tensors fill exactly that. */
export function parseHeader(bytes: Uint8Array, dataBytes: number, bad: Bad): Header {
  if (bytes[0] !== 0x7b) throw bad('its header is not a JSON object') // the format allows no space before it
  const header = parseJsonObject(bytes, bytes.length + dataBytes, bad, 'its header')
  const { __metadata__: metadata = {}, ...tensors } = header
  if (!isObject(metadata) || !Object.values(metadata).every((value) => typeof value === 'string')) {
    throw bad('its __metadata__ is not an object of strings')
  }
  const entries = Object.entries(tensors).map(([name, entry]) => parseEntry(name, entry, bad))
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let position = 0
  for (const { name, begin, end } of entries) {
    if (begin < position) throw bad(`the data of '${name}' overlaps with other data`)
    if (begin > position) throw bad(`bytes ${position} to ${begin} of its data belong to no tensor`)
    position = end
  }
  if (position !== dataBytes) throw bad(`its tensors need ${position} bytes of data, but it has ${dataBytes}`)
  return { entries, metadata: metadata as Record<string, string> }
}

function parseEntry(name: string, entry: unknown, bad: Bad): TensorEntry {
  if (!isObject(entry)) throw bad(`the entry of '${name}' is not an object`)
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype)) {
    const known = Object.keys(elementBytes).join(', ')
    throw bad(`the dtype of '${name}' is ${JSON.stringify(dtype)}, not one of ${known}`)
  }
  if (!isCounts(shape)) throw bad(`the shape of '${name}' is not an array of counts`)
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw bad(`the data_offsets of '${name}' are not a begin and an end`)
  }
  const [begin, end] = offsets
  // A product above 2^53 is not exact, but it is larger than any file all the same.
  const bytes = shape.reduce((product, extent) => product * extent, 1) * elementBytes[dtype as ReadableDType]
  if (bytes !== end - begin) {
    throw bad(`'${name}' of shape [${shape.join(', ')}] and dtype ${dtype} needs ${bytes} bytes, not ${end - begin}`)
  }
  return { name, dtype: dtype as ReadableDType, shape, begin, end }
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && v >= 0)
}
