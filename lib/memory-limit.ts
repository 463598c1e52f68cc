/** The most that a device's memory may hold, and what is said where something does not fit. */
import { DiffusionError } from './errors'
import { type Field, value } from './options'

/** Bytes, or 'auto': what the device has. */
export type MemoryLimit = number | 'auto'

const isLimit = (v: unknown) =>
  v === 'auto' || (typeof v === 'number' && v >= 1 && Math.floor(v) <= Number.MAX_SAFE_INTEGER)

/** For the schemas of those that open a device. */
export const memoryLimit: Field<MemoryLimit | undefined> = value<MemoryLimit>("bytes, at least 1, or 'auto'", isLimit)

/** Throws `invalid-argument`. */
export function checkLimit(limit: unknown): MemoryLimit {
  return memoryLimit.check(limit, 'memoryLimit')
}

/** What something takes. */
export interface MemoryNeed {
  /** E.g. 'a training step'. */
  readonly what: string
  /** Bytes by what they are of, those that are held already included. */
  readonly parts: Readonly<Record<string, number>>
  /** Bytes that are not held yet. */
  readonly more: number
  /** What would make it fit, given the bytes that may be held. Default: nothing is known. */
  readonly advice?: (limit: number) => readonly string[]
}

/** The refusal of what would take a device beyond `limit`. */
export function tooMuch(
  need: MemoryNeed,
  device: { readonly name: string; readonly inUse: number; readonly limit: number; readonly isGiven: boolean },
): DiffusionError {
  const { limit, isGiven } = device
  const total = device.inUse + need.more
  const known = Object.values(need.parts).reduce((sum, bytes) => sum + bytes, 0)
  const others = total - known
  const parts = Object.entries({ ...need.parts, 'what else is held': others }).filter(([, bytes]) => bytes > 0)
  const consists = parts.map(([name, bytes]) => `${name} ${inUnits(bytes)}`).join(', ')
  const advice = [
    ...(need.advice?.(limit) ?? []),
    ...(others > total / 20 ? ['offload() of stages and dispose() of models that are held'] : []),
    ...(isGiven ? [`a memoryLimit of ${inUnits(total)}`] : []),
  ]
  const has = isGiven ? `the limit is ${inUnits(limit, Math.floor)}` : `it has ${inUnits(limit, Math.floor)}`
  const fits = advice.length > 0 ? `. What would fit: ${advice.join('; ')}` : ''
  const message = `${need.what} needs ${inUnits(total)} of the memory of ${device.name} (${consists}), and ${has}${fits}`
  return new DiffusionError('out-of-memory', `memoryLimit: ${message}`, {
    argument: 'memoryLimit',
    expected: `at least ${Math.ceil(total)} bytes`,
    received: `${limit} bytes`,
  })
}

const units = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB']

/** Three digits, e.g. '3.44 GB'; rounded up unless told otherwise, so that a limit of so much is enough. */
export function inUnits(bytes: number, round: (x: number) => number = Math.ceil): string {
  const unit = Math.min(units.length - 1, bytes < 1000 ? 0 : Math.floor(Math.log10(bytes) / 3))
  const scaled = bytes / 1000 ** unit
  const places = unit === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(scaled)))
  return `${round(scaled * 10 ** places) / 10 ** places} ${units[unit]}`
}

const factors: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  ...Object.fromEntries(
    ['k', 'm', 'g', 't'].flatMap((p, i) => [
      [`${p}b`, 1000 ** (i + 1)],
      [`${p}ib`, 1024 ** (i + 1)],
    ]),
  ),
}

/** '4GB', '4 GiB', '500MB', a number of bytes, 'auto'; undefined for what is none of these. */
export function parseMemoryLimit(text: string): MemoryLimit | undefined {
  if (text === 'auto') return text
  const [, number = '', unit = '?'] = /^(\d+(?:\.\d+)?) ?([a-z]*)$/i.exec(text) ?? []
  const bytes = Number(number) * (Object.hasOwn(factors, unit.toLowerCase()) ? factors[unit.toLowerCase()] : Number.NaN)
  return number !== '' && isLimit(bytes) ? Math.floor(bytes) : undefined
}
