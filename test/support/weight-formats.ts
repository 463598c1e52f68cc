/** Weights in the formats of lib/native.ts, made and read by plain arithmetic: the yardstick of what banks hold. */
import type { WeightFormat } from '../../lib/native'

/** To nearest, ties to even; an exact multiple of `step` where |x| is below 2^53 steps. */
function nearest(x: number, step: number): number {
  const steps = x / step
  const low = Math.floor(steps)
  const rest = steps - low
  const up = rest > 0.5 || (rest === 0.5 && low % 2 !== 0)
  return (low + (up ? 1 : 0)) * step
}

/** The number of `digits` binary digits, of exponents from `least` on, that is nearest to x. */
function rounded(x: number, digits: number, least: number): number {
  if (x === 0 || !Number.isFinite(x)) return x
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), least)
  const y = nearest(x, 2 ** (exponent - digits + 1))
  return y === 0 ? x * 0 : y
}

export const toFloat16 = (x: number): number => {
  const y = rounded(x, 11, -14)
  return Math.abs(y) >= 65520 ? Math.sign(y) * Number.POSITIVE_INFINITY : y
}
export const toBfloat16 = (x: number): number => Math.fround(rounded(x, 8, -126))

export interface Held {
  /** What is in the bank. */
  readonly data: Uint16Array | Int8Array | Float32Array
  /** Of int8: a factor for each row. */
  readonly scales?: Float32Array
  /** The numbers that these are. */
  readonly values: Float32Array
}

function float16Bits(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const a = Math.abs(x)
  if (Number.isNaN(a)) return 0x7e00
  if (a >= 65520) return sign | 0x7c00
  if (a < 2 ** -14) return sign | (a / 2 ** -24)
  const exponent = Math.floor(Math.log2(a))
  return sign | ((exponent + 15) << 10) | (a / 2 ** (exponent - 10) - 1024)
}

const float32Bits = (x: number): number => new Uint32Array(Float32Array.of(x).buffer)[0]

/** `rows` rows of one length. */
export function held(format: WeightFormat, weights: Float32Array, rows: number): Held {
  if (format === 'fp32') return { data: weights, values: weights }
  if (format === 'fp16') {
    const values = weights.map(toFloat16)
    return { data: Uint16Array.from(values, float16Bits), values }
  }
  if (format === 'bf16') {
    const values = weights.map(toBfloat16)
    return { data: Uint16Array.from(values, (x) => float32Bits(x) >>> 16), values }
  }
  const length = weights.length / rows
  const [data, scales, values] = [
    new Int8Array(weights.length),
    new Float32Array(rows),
    new Float32Array(weights.length),
  ]
  for (let row = 0; row < rows; row++) {
    const own = weights.subarray(row * length, (row + 1) * length)
    scales[row] = Math.fround(own.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127)
    for (let i = 0; i < length; i++) {
      const at = row * length + i
      data[at] = scales[row] === 0 ? 0 : Math.max(-127, Math.min(127, nearest(own[i] / scales[row], 1)))
      values[at] = Math.fround(data[at] * scales[row])
    }
  }
  return { data, scales, values }
}
