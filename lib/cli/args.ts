/** Command-line arguments: one table a command says names, kinds and help. */
import { parseArgs } from 'node:util'
import { type MemoryLimit, parseMemoryLimit } from '../memory-limit'
import { closest, type Seed } from '../options'

interface OptionBase {
  readonly help: string
  /** What stands for the value in the help. */
  readonly value?: string
  readonly short?: string
}

export type OptionSpec = OptionBase &
  (
    | { readonly kind: 'flag' }
    | { readonly kind: 'string'; readonly choices?: readonly string[] }
    /** May be given several times. */
    | { readonly kind: 'texts' }
    | { readonly kind: 'integer' | 'number'; readonly min?: number; readonly max?: number }
    | { readonly kind: 'integers' | 'numbers' }
    /** HEIGHTxWIDTH, or one number for both; 'sizes' are several. */
    | { readonly kind: 'size' | 'sizes' }
    /** Of 64 bits, as Seed; 'seeds' are several. */
    | { readonly kind: 'seed' | 'seeds' }
    /** 4GB, or 'auto'. */
    | { readonly kind: 'memory' }
  )

export type OptionTable = Readonly<Record<string, OptionSpec>>

type ValueOf<S extends OptionSpec> = S extends { choices: readonly (infer Choice)[] }
  ? Choice
  : S['kind'] extends 'flag'
    ? boolean
    : S['kind'] extends keyof ValuesOfKinds
      ? ValuesOfKinds[S['kind']]
      : number
interface ValuesOfKinds {
  string: string
  texts: readonly string[]
  integers: readonly number[]
  numbers: readonly number[]
  size: readonly [height: number, width: number]
  sizes: readonly (readonly [height: number, width: number])[]
  seed: Seed
  seeds: Seed[]
  memory: MemoryLimit
}
export type Values<T extends OptionTable> = { [K in keyof T]?: ValueOf<T[K]> }

export interface Command<T extends OptionTable = OptionTable> {
  readonly name: string
  readonly summary: string
  /** After `ddpm <name>`, e.g. '<folder> --out <run> [options]'. */
  readonly usage: string
  /** How many arguments without a name it takes at most. */
  readonly positionals: number
  readonly options: T
  /** Lines under the options. */
  readonly notes: string
  /** Resolves with the exit code. */
  run(values: Values<T> & CommonValues, positionals: readonly string[]): Promise<number>
}

/** Wrong use: exit code 2. */
export class UsageError extends Error {}

/** Options that every command has. */
const common = {
  json: { kind: 'flag', help: 'print JSON lines for machines on stdout, and nothing else there' },
  help: { kind: 'flag', short: 'h', help: 'print this help' },
} as const satisfies OptionTable

export type CommonValues = Values<typeof common>

/** Throws UsageError, naming the likely option for a misspelled one. */
export function parseCommand<T extends OptionTable>(
  command: Command<T>,
  argv: readonly string[],
): { values: Values<T> & CommonValues; positionals: string[] } {
  const table: OptionTable = { ...command.options, ...common }
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false, // the checks are below, with better messages
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(
      Object.entries(table).map(([name, { kind, short }]) => [
        name,
        { type: kind === 'flag' ? ('boolean' as const) : ('string' as const), ...(short ? { short } : {}) },
      ]),
    ),
  })
  const values: Record<string, unknown> = {}
  const positionals: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const spec = Object.hasOwn(table, token.name) ? table[token.name] : undefined
    if (!spec) throw unknown(token.rawName, Object.keys(table))
    const value = parseValue(token.rawName, spec, token.value, token.inlineValue === true)
    const before = values[token.name] as readonly unknown[] | undefined
    values[token.name] = spec.kind === 'texts' ? [...(before ?? []), value] : value
  }
  if (positionals.length > command.positionals && !values.help) {
    throw new UsageError(`unexpected argument '${positionals[command.positionals]}'`)
  }
  return { values: values as Values<T> & CommonValues, positionals }
}

function unknown(rawName: string, known: readonly string[]): UsageError {
  const likely = closest(rawName.replace(/^-+/, ''), known)
  return new UsageError(`unknown option '${rawName}'${likely ? `; did you mean '--${likely}'?` : ''}`)
}

function parseValue(name: string, spec: OptionSpec, text: string | undefined, inline: boolean): unknown {
  if (spec.kind === 'flag') {
    if (text !== undefined) throw new UsageError(`${name} takes no value`)
    return true
  }
  const isOption = text !== undefined && !inline && /^-+[a-z]/i.test(text)
  if (text === undefined || text === '' || isOption) throw new UsageError(`${name} needs a value`)
  switch (spec.kind) {
    case 'string': {
      if (!spec.choices || spec.choices.includes(text)) return text
      throw new UsageError(`${name}: expected ${spec.choices.join(' or ')}, got '${text}'`)
    }
    case 'texts':
      return text
    case 'integers':
      if (text === 'none') return []
      return text.split(',').map((item) => parseNumber(name, { kind: 'integer', min: 0 }, item))
    case 'numbers':
      return text.split(',').map((item) => parseNumber(name, { kind: 'number' }, item))
    case 'size':
      return parseSize(name, text)
    case 'sizes':
      return text.split(',').map((item) => parseSize(name, item))
    case 'seed':
      return parseSeed(name, text)
    case 'seeds':
      return text.split(',').map((item) => parseSeed(name, item))
    case 'memory':
      return parseMemory(name, text)
    default:
      return parseNumber(name, spec, text)
  }
}

function parseNumber(name: string, spec: { kind: string; min?: number; max?: number }, text: string): number {
  const { min = -Infinity, max = Infinity } = spec
  const number = text.trim() === '' ? Number.NaN : Number(text)
  const valid = spec.kind === 'integer' ? Number.isSafeInteger(number) : Number.isFinite(number)
  if (valid && number >= min && number <= max) return number
  const kind = spec.kind === 'integer' ? 'an integer' : 'a number'
  const range = `${min > -Infinity ? ` of at least ${min}` : ''}${max < Infinity ? ` and at most ${max}` : ''}`
  throw new UsageError(`${name}: expected ${kind}${range}, got '${text}'`)
}

function parseSize(name: string, text: string): readonly [height: number, width: number] {
  const [height, width = height, ...more] = text
    .split('x')
    .map((side) => (/^[1-9]\d{0,6}$/.test(side) ? Number(side) : 0))
  if (height > 0 && width > 0 && more.length === 0) return [height, width]
  throw new UsageError(`${name}: expected a size such as 64, or 64x96 for 64 rows and 96 columns, got '${text}'`)
}

const maxSeed = 2n ** 64n - 1n

function parseSeed(name: string, text: string): Seed {
  const number = text.trim() === '' ? Number.NaN : Number(text)
  if (Number.isSafeInteger(number) && number >= 0) return number
  if (/^\d{1,20}$/.test(text) && BigInt(text) <= maxSeed) return BigInt(text)
  throw new UsageError(`${name}: expected an integer from 0 to ${maxSeed}, got '${text}'`)
}

function parseMemory(name: string, text: string): MemoryLimit {
  const limit = parseMemoryLimit(text)
  if (limit !== undefined) return limit
  throw new UsageError(`${name}: expected bytes such as 4GB, 3.5GiB or 500MB, or auto, got '${text}'`)
}

const placeholders = {
  flag: '',
  string: 'text',
  texts: 'text',
  integer: 'n',
  number: 'x',
  integers: 'n,n,...',
  numbers: 'n,n,...',
  size: 'n|hxw',
  sizes: 'hxw,...',
  seed: 'n',
  seeds: 'n,n',
  memory: 'size',
}

export function helpOf(command: Command): string {
  const rows = Object.entries({ ...command.options, ...common } as OptionTable).map(([name, spec]) => {
    const value = spec.value ?? (spec.kind === 'string' && spec.choices?.join('|')) ?? ''
    const text = value || placeholders[spec.kind]
    return [`${spec.short ? `-${spec.short}, ` : ''}--${name}${text ? ` <${text}>` : ''}`, spec.help]
  })
  const lines = rows.flatMap(([left, help]) => optionLines(`  ${left}`, help))
  return `${wrap(command.summary).join('\n')}\n\nUsage: ddpm ${command.name} ${command.usage}\n\nOptions:\n${lines.join('\n')}\n\n${notesOf(command)}\n`
}

/** Of a terminal. */
const columns = 80
/** Where the options' help begins; below those that are longer. */
const helpColumn = 28

function optionLines(left: string, help: string): string[] {
  const [first, ...others] = wrap(help, columns - helpColumn).map((line) => ' '.repeat(helpColumn) + line)
  return left.length + 2 > helpColumn ? [left, first, ...others] : [left + first.slice(left.length), ...others]
}

/** Paragraphs are filled anew; indented lines, which are commands, stay. */
function notesOf({ notes }: Command): string {
  const paragraphs = notes.replace(/^\n+|\s+$/g, '').split('\n\n')
  return paragraphs.map((text) => (/^ /m.test(text) ? text : wrap(text).join('\n'))).join('\n\n')
}

function wrap(text: string, width = columns): string[] {
  const lines = ['']
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1)!
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}
