/** The JSON header of a safetensors file, checked. */
import { type DiffusionError, describe, quote } from '../errors'
import type { Budget } from './budget'
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

/** Bytes of an entry, of its shape and of the array that is made of it, beside those of the JSON. */
const entryCost = 512
/** As many as PyTorch has. */
const maxDimensions = 64

/** `dataBytes`: what follows the header. Throws `bad-file` unless the tensors fill exactly that. */
export function parseHeader(bytes: Uint8Array, dataBytes: number, budget: Budget): Header {
  const { bad } = budget
  if (bytes[0] !== 0x7b) throw bad('its header is not a JSON object') // the format allows no space before it
  const header = parseJsonObject(bytes, budget, 'its header')
  const { __metadata__: metadata = {} } = header
  if (!isObject(metadata) || !Object.values(metadata).every((value) => typeof value === 'string')) {
    throw bad('its __metadata__ is not an object of strings')
  }
  const names = Object.keys(header).filter((name) => name !== '__metadata__')
  budget.memory(names.length * entryCost)
  const entries = names.map((name) => parseEntry(name, header[name], bad))
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let position = 0
  for (const { name, begin, end } of entries) {
    if (begin < position) throw bad(`the data of ${quote(name)} overlaps with other data`)
    if (begin > position) throw bad(`bytes ${position} to ${begin} of its data belong to no tensor`)
    position = end
  }
  if (position !== dataBytes) throw bad(`its tensors need ${position} bytes of data, but it has ${dataBytes}`)
  return { entries, metadata: metadata as Record<string, string> }
}

function parseEntry(name: string, entry: unknown, bad: Bad): TensorEntry {
  const what = quote(name)
  if (!isObject(entry)) throw bad(`the entry of ${what} is not an object`)
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype)) {
    const known = Object.keys(elementBytes).join(', ')
    throw bad(`the dtype of ${what} is ${describe(dtype)}, not one of ${known}`)
  }
  if (!isCounts(shape) || shape.length > maxDimensions) throw bad(`the shape of ${what} is not an array of counts`)
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw bad(`the data_offsets of ${what} are not a begin and an end`)
  }
  const [begin, end] = offsets
  // A product above 2^53 is not exact, but it is larger than any file all the same.
  const bytes = shape.reduce((product, extent) => product * extent, 1) * elementBytes[dtype as ReadableDType]
  if (bytes !== end - begin) {
    throw bad(`${what} of shape [${shape.join(', ')}] and dtype ${dtype} needs ${bytes} bytes, not ${end - begin}`)
  }
  return { name, dtype: dtype as ReadableDType, shape, begin, end }
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && v >= 0)
}
