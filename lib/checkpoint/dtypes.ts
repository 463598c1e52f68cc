/** The number formats of checkpoint files, and the arrays that they become. */
import type { FileDType } from '../file-numbers'
import type { Budget } from './budget'

export type TensorData = Float32Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array

/** Bytes of an element, for the dtypes that can be read; safetensors' names. */
export const elementBytes = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, I8: 1, U8: 1, BOOL: 1 } as const
export type ReadableDType = keyof typeof elementBytes

/** Whether its numbers become float32. */
export function isFloating(dtype: ReadableDType): dtype is FileDType {
  return dtype === 'F32' || directArray(dtype) === undefined
}

/** The array type of each dtype that needs no conversion. */
export const writableArrays = {
  F32: Float32Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const satisfies Partial<Record<ReadableDType, unknown>>

/** Bytes of a tensor in a file. F16 is written from float32, rounded to nearest, halves to even. */
export function encode(dtype: ReadableDType, data: TensorData): Uint8Array {
  const stored = dtype === 'F16' ? Uint16Array.from(data as Float32Array, floatToHalf) : data
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength)
}

type ArrayOf = (new (length: number) => TensorData) & { readonly BYTES_PER_ELEMENT: number }

/** undefined for a dtype that is converted to float32. */
export function directArray(dtype: ReadableDType): ArrayOf | undefined {
  return (writableArrays as Partial<Record<ReadableDType, ArrayOf>>)[dtype]
}

/** An array for `n` elements of a dtype, charged before it is allocated. */
export function allocate(dtype: ReadableDType, n: number, budget: Budget): TensorData {
  const Direct = directArray(dtype) ?? Float32Array
  budget.memory(n * Direct.BYTES_PER_ELEMENT)
  return new Direct(n)
}

/** Fills the target with bytes of the tensor from `offset`. */
export type ReadBytes = (target: Uint8Array, offset: number) => Promise<void>

/** Elements that are converted at a time: the file's form of a large tensor never stands in memory beside ours. */
const chunk = 1 << 18

/** `n` elements. F16, BF16 and F64 become float32: the first two exactly, the last rounded to nearest. */
export async function readNumbers(
  dtype: ReadableDType,
  n: number,
  { read, budget }: { read: ReadBytes; budget: Budget },
): Promise<TensorData> {
  const data = allocate(dtype, n, budget)
  await fill(dtype, data, read)
  return data
}

/** Fills an array of `allocate` with as many elements. */
export async function fill(dtype: ReadableDType, data: TensorData, read: ReadBytes): Promise<void> {
  if (directArray(dtype)) return read(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 0)
  const width = elementBytes[dtype]
  // One piece of memory for all chunks: what is thrown away is only collected some time later.
  const raw = new Uint8Array(Math.min(data.length, chunk) * width)
  for (let start = 0; start < data.length; start += chunk) {
    const part = (data as Float32Array).subarray(start, start + chunk)
    await read(raw.subarray(0, part.length * width), start * width)
    convert(dtype, raw.buffer, part)
  }
}

function convert(dtype: ReadableDType, raw: ArrayBuffer, target: Float32Array): void {
  const n = target.length
  if (dtype === 'F64') target.set(new Float64Array(raw, 0, n))
  else if (dtype === 'BF16') {
    // bfloat16 is the upper half of a float32.
    const halves = new Uint16Array(raw, 0, n)
    const bits = new Uint32Array(target.buffer, target.byteOffset, n)
    for (let i = 0; i < n; i++) bits[i] = halves[i] << 16
  } else {
    const halves = new Uint16Array(raw, 0, n)
    for (let i = 0; i < n; i++) target[i] = halfToFloat(halves[i])
  }
}

/** IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

const scratch = new DataView(new ArrayBuffer(4))

/** The nearest half, the even one of two. */
export function floatToHalf(value: number): number {
  scratch.setFloat32(0, value)
  const bits = scratch.getUint32(0)
  const sign = (bits >>> 16) & 0x8000
  const exponent = ((bits >>> 23) & 0xff) - 112
  const fraction = bits & 0x7fffff
  if (exponent === 143) return sign | 0x7c00 | (fraction ? 0x200 : 0)
  if (exponent > 30) return sign | 0x7c00
  if (exponent < -10) return sign
  // Below 2^-14 the fraction has no leading one and moves down instead.
  const [high, shift] = exponent > 0 ? [(exponent << 23) | fraction, 13] : [fraction | 0x800000, 14 - exponent]
  const half = high >>> shift
  const rest = high & ((1 << shift) - 1)
  const middle = 1 << (shift - 1)
  // Rounding up may carry into the exponent, up to infinity.
  return sign | (rest > middle || (rest === middle && half & 1) ? half + 1 : half)
}
