/**
 * The safetensors format: 8 bytes of little-endian header length, a JSON header, and the tensors' data without gaps
 * (https://huggingface.co/docs/safetensors). A file is never trusted: everything it says is checked against its size
 * before anything is allocated.
 */
import { endianness } from 'node:os'
import { DiffusionError, invalidArgument } from '../errors'
import type { FileNumbers } from '../file-numbers'
import { atomicWrite } from './atomic-write'
import type { Budget } from './budget'
import {
  directArray,
  elementBytes,
  encode,
  isFloating,
  type ReadableDType,
  readNumbers,
  type TensorData,
  writableArrays,
} from './dtypes'
import { describeKind, headLength, kindOf } from './file-kind'
import { parseHeader, type TensorEntry } from './safetensors-header'
import { type Source, withSource } from './source'

export type { ReadableDType, TensorData } from './dtypes'

export interface StoredTensor {
  /** As it is in the file. */
  readonly dtype: ReadableDType
  readonly shape: readonly number[]
  /**
   * Float32Array for F32, F16, BF16 and F64 (rounded), BigInt64Array for I64, Int32Array for I32, Int16Array for I16,
   * Int8Array for I8, Uint8Array for U8 and BOOL.
   */
  readonly data: TensorData
}

/** The same, or where its numbers are. */
export interface OpenTensor extends Pick<StoredTensor, 'dtype' | 'shape'> {
  /** Numbers that become float32 stay in the file. */
  readonly data: TensorData | FileNumbers
}

/** Which names of a file are wanted. */
export type ChooseNames = (names: readonly string[]) => (name: string) => boolean

export interface SafetensorsFile {
  /** Without a prototype, so that no name has a meaning of its own. */
  readonly tensors: Record<string, StoredTensor>
  readonly metadata: Record<string, string>
  /** What is left, for what is made of them. */
  readonly budget: Budget
}

/** What a file says it holds. */
export interface SafetensorsHeader {
  readonly entries: readonly Pick<TensorEntry, 'name' | 'dtype' | 'shape'>[]
  readonly metadata: Record<string, string>
}

/**
 * Reads a file, or its bytes: of all names those that `choose` wants. Throws `not-found`, `io`, and `bad-file` for anything that is not a complete and
 * consistent file.
 */
export function readSafetensors(
  pathOrBytes: string | Uint8Array,
  choose: ChooseNames = () => () => true,
): Promise<SafetensorsFile> {
  return withTensors(pathOrBytes, choose, readTensor)
}

/** The same, but that floating-point tensors stay in the file until they are asked for. */
export function openSafetensors(
  path: string,
  choose: ChooseNames = () => () => true,
): Promise<Omit<SafetensorsFile, 'tensors'> & { readonly tensors: Record<string, OpenTensor> }> {
  return withTensors(path, choose, openTensor)
}

function withTensors<T>(
  pathOrBytes: string | Uint8Array,
  choose: ChooseNames,
  take: (source: Source, entry: TensorEntry, dataStart: number) => Promise<T>,
) {
  return withSource(pathOrBytes, 'safetensors file', async (source) => {
    const { entries, metadata, dataStart } = await readHeader(source)
    const tensors: Record<string, T> = Object.create(null)
    const wanted = choose(entries.map(({ name }) => name))
    for (const entry of entries) if (wanted(entry.name)) tensors[entry.name] = await take(source, entry, dataStart)
    return { tensors, metadata, budget: source.budget }
  })
}

async function readTensor(
  source: Source,
  { dtype, shape, begin, end }: TensorEntry,
  dataStart: number,
): Promise<StoredTensor> {
  const read = (target: Uint8Array, offset: number) => source.read(target, dataStart + begin + offset)
  const data = await readNumbers(dtype, (end - begin) / elementBytes[dtype], { read, budget: source.budget })
  return { dtype, shape, data }
}

async function openTensor(source: Source, entry: TensorEntry, dataStart: number): Promise<OpenTensor> {
  const { dtype, shape, begin, end } = entry
  if (!source.file || !isFloating(dtype)) return readTensor(source, entry, dataStart)
  const place = { position: dataStart + begin, bytes: end - begin, budget: source.budget }
  return { dtype, shape, data: source.file.numbers(dtype, place.bytes / elementBytes[dtype], place) }
}

/** The header only: names, dtypes, shapes and metadata. */
export function readSafetensorsHeader(pathOrBytes: string | Uint8Array): Promise<SafetensorsHeader> {
  return withSource(pathOrBytes, 'safetensors file', async (source) => {
    const { entries, metadata } = await readHeader(source)
    return { entries: entries.map(({ name, dtype, shape }) => ({ name, dtype, shape })), metadata }
  })
}

/**
 * Writes a file atomically: a reader sees the old one or the new one. The data must be of the dtype's array type, for F16
 * a Float32Array; BF16 and F64 can be read only. Throws `invalid-argument`, `unsupported` and `io`.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, StoredTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  checkEndianness()
  for (const [name, tensor] of Object.entries(tensors)) checkWritable(name, tensor)
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== 'string') throw invalidArgument(`metadata.${key}`, 'a string', value)
  }
  // Wide elements first: then every tensor is aligned to its elements.
  const sorted = Object.entries(tensors).sort(([, a], [, b]) => elementBytes[b.dtype] - elementBytes[a.dtype])
  const fields: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : []
  let position = 0
  for (const [name, { dtype, shape, data }] of sorted) {
    const bytes = data.length * elementBytes[dtype]
    fields.push([name, { dtype, shape, data_offsets: [position, position + bytes] }])
    position += bytes
  }
  // Not through an object: it would put names that look like integers first and give '__proto__' a meaning.
  const json = fields.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(',')
  const text = Buffer.from(`{${json}}`)
  const header = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ') // padded so that the data starts aligned
  header.writeBigUInt64LE(BigInt(header.length - 8))
  text.copy(header, 8)
  await atomicWrite(path, async (file) => {
    await file.writeFile(header)
    for (const [, { dtype, data }] of sorted) {
      for (let at = 0; at < data.length; at += piece) await file.writeFile(encode(dtype, data.subarray(at, at + piece)))
    }
  })
}

/** Elements that are encoded at a time. */
const piece = 1 << 18

function checkWritable(name: string, { dtype, shape, data }: StoredTensor): void {
  if (name === '__metadata__') throw invalidArgument('tensors', "names other than '__metadata__'", name)
  const type = dtype === 'F16' ? Float32Array : directArray(dtype)
  if (!type) {
    const expected = [...Object.keys(writableArrays), 'F16'].join(', ')
    throw new DiffusionError('unsupported', `${name}: dtype ${dtype} can't be written, only ${expected}`, {
      argument: name,
      expected,
      received: String(dtype),
    })
  }
  if (!(data instanceof type)) throw invalidArgument(name, `${type.name} for ${dtype}`, data)
  const valid = Array.isArray(shape) && shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)
  if (!valid || shape.reduce((product, extent) => product * extent, 1) !== data.length) {
    throw invalidArgument(`${name}.shape`, `extents with the product ${data.length}`, shape)
  }
}

async function readHeader(source: Source) {
  checkEndianness()
  const { bad } = source
  if (source.size > 0 && source.size < 8) await checkKind(source)
  if (source.size < 8) throw bad(`it has ${source.size} bytes, fewer than the 8 of the header's length`)
  const prefix = new Uint8Array(8)
  await source.read(prefix, 0)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(source.size - 8)) await checkKind(source)
  if (length > BigInt(source.size - 8)) throw bad(`its header's length, ${length}, is more than the file holds`)
  if (length > BigInt(maxHeaderBytes)) throw bad(`its header's length, ${length}, is more than ${maxHeaderBytes}`)
  const text = new Uint8Array(Number(length))
  await source.read(text, 8)
  const dataStart = 8 + text.length
  return { ...parseHeader(text, source.size - dataStart, source.budget), dataStart }
}

/** Names a file for what it is, if it is something else. */
async function checkKind({ size, read, bad }: Source): Promise<void> {
  const head = new Uint8Array(Math.min(size, headLength))
  await read(head, 0)
  const what = kindOf(head) === 'safetensors' ? undefined : describeKind(head)
  if (what) throw bad(`it is ${what}`)
}

/** The limit of the reference implementation. */
const maxHeaderBytes = 100_000_000

function checkEndianness(): void {
  if (endianness() === 'LE') return
  throw new DiffusionError('unsupported', 'safetensors can only be read and written on little-endian machines')
}
