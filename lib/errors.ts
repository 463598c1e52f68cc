/** The one error type of the library, with a code that stays the same from version to version. */
import { oneLine, printable } from './printable'

/**
 * What went wrong, for programs:
 *
 * - `invalid-argument` a value, shape, dtype or range is not what was expected
 * - `unknown-option`   an option that does not exist; the message names the likely one
 * - `state-mismatch`   a state dict with missing, unexpected or wrongly shaped entries
 * - `denoiser-failed`  the user's denoiser threw (see `cause`)
 * - `denoiser-output`  the user's denoiser returned something of the wrong type or shape
 * - `not-finite`       NaN or infinity where a number must be
 * - `aborted`          an AbortSignal was fired (its reason is the `cause`)
 * - `disposed`         a tensor or model was used after dispose()
 * - `not-configured`   a method that needs another one to be called first
 * - `not-found`        a file or folder does not exist
 * - `empty-dataset`    a folder holds nothing to train on
 * - `bad-file`         a file is truncated, damaged or of another kind
 * - `io`               the file system refused (see `cause`)
 * - `busy`             something else is using it
 * - `rank-failed`      another process of the same training ended, hangs or differs
 * - `device-unavailable`, `out-of-memory`, `unsupported`, `internal` from the backend
 */
export type DiffusionErrorCode =
  | 'invalid-argument'
  | 'unknown-option'
  | 'state-mismatch'
  | 'denoiser-failed'
  | 'denoiser-output'
  | 'not-finite'
  | 'aborted'
  | 'disposed'
  | 'not-configured'
  | 'not-found'
  | 'empty-dataset'
  | 'bad-file'
  | 'io'
  | 'busy'
  | 'rank-failed'
  | 'device-unavailable'
  | 'out-of-memory'
  | 'unsupported'
  | 'internal'

export interface DiffusionErrorDetails {
  /** The argument, option or entry that is at fault. Default: none is. */
  argument?: string
  /** What it should have been. Default: not said. */
  expected?: string
  /** What it was, cut where it is long. Default: not said. */
  received?: string
  /** The error that this one is about. Default: none. */
  cause?: unknown
}

const errorKey = Symbol.for('ddpm-native: DiffusionError')

export class DiffusionError extends Error {
  override readonly name = 'DiffusionError'
  readonly code: DiffusionErrorCode
  readonly argument?: string
  readonly expected?: string
  readonly received?: string

  constructor(code: DiffusionErrorCode, message: string, details: DiffusionErrorDetails = {}) {
    super(printable(message, maxShown), 'cause' in details ? { cause: details.cause } : undefined)
    this.code = code
    this.argument = shown(details.argument)
    this.expected = shown(details.expected)
    this.received = shown(details.received)
  }

  /** Also those of another copy of this package, so that `instanceof` tells them from errors of others. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && errorKey in value
  }

  /** What the addon threw and arrays without memory as by `from`; what is of anybody else as it is. */
  static ofAddon(error: unknown): unknown {
    if (!(error instanceof Error) || error instanceof DiffusionError) return error
    const { code } = error as { code?: unknown }
    const own = lacksMemory(error) || (typeof code === 'string' && Object.hasOwn(nativeCodes, code))
    return own ? DiffusionError.from(error) : error
  }

  /** The error itself, or what the addon threw as a DiffusionError that has it as `cause`. */
  static from(error: unknown): DiffusionError {
    if (error instanceof DiffusionError) return error
    if (!(error instanceof Error)) return new DiffusionError('internal', String(error), { cause: error })
    const { code, argument, expected, received } = error as Partial<DiffusionError>
    return new DiffusionError(lacksMemory(error) ? 'out-of-memory' : codeOf(code), error.message, {
      argument,
      expected,
      received,
      cause: error,
    })
  }
}

/** What the engine throws where it has no memory for an array. */
function lacksMemory(error: Error): boolean {
  return error instanceof RangeError && /allocation failed/i.test(error.message)
}

/** The addon's codes. Its 'closed' is a buffer or program after its release. */
const nativeCodes: Readonly<Record<string, DiffusionErrorCode>> = {
  'invalid-argument': 'invalid-argument',
  'out-of-memory': 'out-of-memory',
  'device-unavailable': 'device-unavailable',
  unsupported: 'unsupported',
  closed: 'disposed',
  'rank-failed': 'rank-failed',
}

function codeOf(code: unknown): DiffusionErrorCode {
  return typeof code === 'string' && Object.hasOwn(nativeCodes, code) ? nativeCodes[code] : 'internal'
}

/** `invalid-argument` for a value: "timesteps: expected an integer of at least 1, got -3". */
export function invalidArgument(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  return new DiffusionError('invalid-argument', `${argument}: expected ${expected}, got ${received}`, {
    argument,
    expected,
    received,
  })
}

/** Characters of a message or of a field of an error: what a file or a caller says may be as long as it likes. */
const maxShown = 2000
const maxQuoted = 60

/** What says of which copy of this package a class is: a process may have loaded several, which don't know each other's classes. */
const copyKey = Symbol.for('ddpm-native: copy')
const ownCopy = __dirname

Object.defineProperty(DiffusionError.prototype, errorKey, { value: true })

/** Marks the class, so that messages tell its instances from those of another copy. */
export function markCopy(type: { readonly prototype: object }): void {
  Object.defineProperty(type.prototype, copyKey, { value: ownCopy })
}

/** ' of another copy ...' for an instance of a marked class that is not of this one, else ''. */
export function otherCopy(value: object): string {
  const copy = (value as { [copyKey]?: unknown })[copyKey]
  if (typeof copy !== 'string' || copy === ownCopy) return ''
  return ` of another copy of ddpm-native (${printable(copy, maxQuoted * 4)})`
}

function shown(text: string | undefined): string | undefined {
  return typeof text === 'string' ? printable(text, maxShown) : text
}

/** A text from elsewhere as a part of a message: short, on one line, in quotes. */
export function quote(text: string): string {
  return `'${oneLine(printable(text, maxQuoted))}'`
}

/** A value in a few words, for messages. It may be anything that JSON can hold, however deep. */
export function describe(value: unknown): string {
  if (Array.isArray(value) && value.length <= 8) return `[${value.map(inner).join(', ')}]`
  return inner(value)
}

/** The same without what is in an array. */
function inner(value: unknown): string {
  if (typeof value === 'string') return quote(value)
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (ArrayBuffer.isView(value))
    return `${value.constructor.name}(${(value as Float32Array).length ?? value.byteLength})`
  if (typeof value === 'object' && value !== null) {
    const { shape, constructor: kind } = value as { shape?: unknown; constructor?: unknown }
    const name = typeof kind === 'function' ? kind.name : 'object'
    const extents = Array.isArray(shape) && shape.length <= 8 && shape.every((extent) => typeof extent === 'number')
    return (extents ? `${name} of shape [${shape.join(', ')}]` : `an object (${name})`) + otherCopy(value)
  }
  return typeof value === 'bigint' ? `${printable(String(value), maxQuoted)}n` : String(value)
}
