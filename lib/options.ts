/** Declarative checking of option objects: one schema says names, types, ranges and defaults. */
import { DiffusionError, describe, invalidArgument, quote } from './errors'
import { plainName, synonymOf } from './synonyms'

/** One option: how it is checked, and its value when it is left out (undefined without one). */
export interface Field<T> {
  readonly check: (value: unknown, name: string) => NonNullable<T>
  readonly fallback: T
  readonly required?: boolean
}

// biome-ignore lint/suspicious/noExplicitAny: a schema's fields are of any types
export type Schema = Record<string, Field<any>>
export type Parsed<S extends Schema> = { [K in keyof S]: S[K] extends Field<infer T> ? T : never }

/**
 * A schema for options that an interface documents: `{ ... } satisfies SchemaOf<SampleOptions>` says that none is missing and that
 * their types are these. Editors show the interface; a type made of the schema would show the schema's.
 */
export type SchemaOf<Options> = { readonly [K in keyof Options]-?: Field<Options[K] | undefined> }

/**
 * The options with defaults filled in. Throws `unknown-option` for a name that the schema does not have and
 * `invalid-argument` for a value that does not pass. `owner` is named in the messages, e.g. 'DDPM'.
 */
export function parseOptions<S extends Schema>(owner: string, options: unknown, schema: S): Parsed<S> {
  const [unknown] = unknownNames(owner, options, schema)
  if (unknown !== undefined) throw unknownOption(owner, unknown, Object.keys(schema))
  return parseKnown(owner, options, schema).known
}

/** The same of what somebody else wrote: a name that the schema does not have is no error, but told of. */
export function parseKnown<S extends Schema>(
  owner: string,
  options: unknown,
  schema: S,
): { known: Parsed<S>; unknown: string[] } {
  const unknown = unknownNames(owner, options, schema)
  const parsed: Record<string, unknown> = {}
  for (const [name, field] of Object.entries(schema)) {
    const value = (options as Record<string, unknown> | undefined)?.[name]
    // null is what other languages' configurations have for "not given".
    if (value !== undefined && value !== null) parsed[name] = field.check(value, name)
    else if (field.required)
      throw new DiffusionError('invalid-argument', `${owner}: ${name} is required`, { argument: name })
    else parsed[name] = field.fallback
  }
  return { known: parsed as Parsed<S>, unknown }
}

function unknownNames(owner: string, options: unknown, schema: Schema): string[] {
  const given = options ?? {}
  if (typeof given !== 'object' || Array.isArray(given) || ArrayBuffer.isView(given)) {
    throw invalidArgument(`${owner} options`, 'an object', options)
  }
  return Object.keys(given).filter((name) => !Object.hasOwn(schema, name))
}

/** Without those that are undefined, which say nothing. */
export function definedOnly<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as Partial<T>
}

export function unknownOption(owner: string, name: string, known: readonly string[]): DiffusionError {
  const likely = closest(name, known)
  const hint = likely ? `; did you mean '${likely}'?` : `; known are ${known.join(', ')}`
  return new DiffusionError('unknown-option', `${owner} has no option ${quote(name)}${hint}`, {
    argument: name,
    expected: likely ?? known.join(', '),
    received: name,
  })
}

/** The distance takes time with the product of the lengths, and no option has a name like that. */
const longestName = 100

/** What `name` is called here: what others call so, or the name nearest to it by edit distance, if one is near enough to be meant. */
export function closest(name: string, known: readonly string[]): string | undefined {
  if (name.length > longestName) return undefined
  const limit = Math.max(1, Math.floor(name.length / 3))
  const ranked = known
    .map((candidate) => ({ candidate, distance: editDistance(plainName(name), plainName(candidate)) }))
    .sort((a, b) => a.distance - b.distance)
  const near = ranked.length > 0 && ranked[0].distance <= limit ? ranked[0] : undefined
  if (near && near.distance <= 1) return near.candidate // a slip, more than another word
  return synonymOf(name, known) ?? near?.candidate
}

/** Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`: Damerau 1964. */
export function editDistance(a: string, b: string): number {
  let before: number[] = []
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (swapped) next[j] = Math.min(next[j], before[j - 2] + 1)
    }
    before = row
    row = next
  }
  return row[b.length]
}

// ---- kinds of options. The argument is the default; without one the option is undefined when left out. ----------------

interface Range {
  readonly min?: number
  readonly max?: number
}

function rangeText(kind: string, { min = -Infinity, max = Infinity }: Range): string {
  if (min > -Infinity && max < Infinity) return `${kind} from ${min} to ${max}`
  if (min > -Infinity) return `${kind} of at least ${min}`
  return max < Infinity ? `${kind} of at most ${max}` : kind
}

function numeric(kind: string, valid: (v: number) => boolean, range: Range): Field<number>['check'] {
  const { min = -Infinity, max = Infinity } = range
  return (value, name) => {
    if (typeof value !== 'number' || !valid(value) || value < min || value > max) {
      throw invalidArgument(name, rangeText(kind, range), value)
    }
    return value
  }
}

export function number(fallback: number, range?: Range): Field<number>
export function number(fallback?: undefined, range?: Range): Field<number | undefined>
export function number(fallback?: number, range: Range = {}): Field<number | undefined> {
  return { fallback, check: numeric('a number', Number.isFinite, range) }
}

export function integer(fallback: number, range?: Range): Field<number>
export function integer(fallback?: undefined, range?: Range): Field<number | undefined>
export function integer(fallback?: number, range: Range = {}): Field<number | undefined> {
  return { fallback, check: numeric('an integer', Number.isSafeInteger, range) }
}

function typed<T>(kind: string, test: (value: unknown) => boolean) {
  return (value: unknown, name: string): NonNullable<T> => {
    if (!test(value)) throw invalidArgument(name, kind, value)
    return value as NonNullable<T>
  }
}

export function boolean(fallback: boolean): Field<boolean>
export function boolean(fallback?: undefined): Field<boolean | undefined>
export function boolean(fallback?: boolean): Field<boolean | undefined> {
  return { fallback, check: typed('true or false', (v) => typeof v === 'boolean') }
}

export function string(fallback: string): Field<string>
export function string(fallback?: undefined): Field<string | undefined>
export function string(fallback?: string): Field<string | undefined> {
  return { fallback, check: typed('a string', (v) => typeof v === 'string') }
}

export function oneOf<const T extends string>(values: readonly T[], fallback: T): Field<T>
export function oneOf<const T extends string>(values: readonly T[]): Field<T | undefined>
export function oneOf<const T extends string>(values: readonly T[], fallback?: T): Field<T | undefined> {
  const check = (value: unknown, name: string): T => {
    if (values.includes(value as T)) return value as T
    const likely = typeof value === 'string' ? closest(value, values) : undefined
    const expected = `one of ${values.map((v) => `'${v}'`).join(', ')}`
    const error = invalidArgument(name, expected, value)
    if (!likely) throw error
    throw new DiffusionError('invalid-argument', `${error.message}; did you mean '${likely}'?`, {
      argument: name,
      expected,
      received: describe(value),
    })
  }
  return { fallback, check: check as Field<T>['check'] }
}

/** An array of up to `max` items that pass `item`, e.g. `array(integer(undefined, { min: 1 }), [1, 2])`. */
export function array<T>(
  item: Field<T>,
  fallback: readonly NonNullable<T>[],
  max?: number,
): Field<readonly NonNullable<T>[]>
export function array<T>(
  item: Field<T>,
  fallback?: undefined,
  max?: number,
): Field<readonly NonNullable<T>[] | undefined>
export function array<T>(
  item: Field<T>,
  fallback?: readonly NonNullable<T>[],
  max = Infinity,
): Field<readonly NonNullable<T>[] | undefined> {
  const check = (value: unknown, name: string): readonly NonNullable<T>[] => {
    if (!Array.isArray(value)) throw invalidArgument(name, 'an array', value)
    if (value.length > max) throw invalidArgument(name, `an array of at most ${max}`, value)
    return value.map((v, i) => item.check(v, `${name}[${i}]`))
  }
  return { fallback, check }
}

/** Anything that passes `test`, described as `kind` in the message: `value<AbortSignal>('an AbortSignal', isSignal)`. */
export function value<T>(kind: string, test: (v: unknown) => boolean): Field<T | undefined> {
  return { fallback: undefined, check: typed<T>(kind, test) }
}

export function func<T>(): Field<T | undefined> {
  return value<T>('a function', (v) => typeof v === 'function')
}

/** The same option, but it must be given. */
export function required<T>(field: Field<T>): Field<NonNullable<T>> {
  return { ...field, required: true } as Field<NonNullable<T>>
}

/** A seed: an integer from 0 to 2^53 - 1, or a bigint of 64 bits. */
export type Seed = number | bigint

export function isSeed(value: unknown): value is Seed {
  return typeof value === 'bigint'
    ? value >= 0n && value < 2n ** 64n
    : Number.isSafeInteger(value) && (value as number) >= 0
}

export function seed(fallback: Seed): Field<Seed>
export function seed(fallback?: undefined): Field<Seed | undefined>
export function seed(fallback?: Seed): Field<Seed | undefined> {
  return { fallback, check: typed<Seed>('an integer of at least 0 (a bigint above 2^53)', isSeed) }
}
