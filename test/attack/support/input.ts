/** A hostile file: by name, for some readers. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Random } from '../../support/random'

export interface Input {
  readonly name: string
  /** Names of readers.ts. */
  readonly readers: readonly string[]
  /** One of thousands that are alike, of which a short run takes some. */
  readonly light?: boolean
  /** Takes seconds to make; a short run goes without. */
  readonly slow?: boolean
  /** Puts it into an empty folder and returns the path to open. */
  write(folder: string): string | Promise<string>
}

/** A folder that holds its own name and a good file of the kind, to be damaged. */
export interface Seed {
  readonly name: string
  readonly readers: readonly string[]
  readonly bytes: Uint8Array
  /** Puts the damaged bytes where they belong, as `Input.write` does. */
  write(folder: string, bytes: Uint8Array): string
}

/** Of one kind of file. */
export interface Corpus {
  /** Made to be expensive or confusing, each opened in a process of its own. */
  readonly bombs: readonly Input[]
  /** Good ones, which are cut short, flipped and spliced. */
  readonly seeds: readonly Seed[]
  /** Put into the seeds, besides noise. */
  readonly snippets: readonly string[]
}

/** What was made last: an input's readers are tried one after the other. */
let made: { readonly name: string; readonly bytes: Uint8Array | string } | undefined

/** One file in its folder. */
export function file(
  name: string,
  readers: readonly string[],
  fileName: string,
  bytes: () => Uint8Array | string | Promise<Uint8Array | string>,
): Input {
  return {
    name,
    readers,
    write: async (folder) => {
      const target = path.join(folder, fileName)
      if (made?.name !== name) made = { name, bytes: await bytes() }
      writeFileSync(target, made.bytes)
      return target
    },
  }
}

export function seed(name: string, readers: readonly string[], fileName: string, bytes: Uint8Array): Seed {
  return {
    name,
    readers,
    bytes,
    write: (folder, damaged) => {
      mkdirSync(folder, { recursive: true })
      writeFileSync(path.join(folder, fileName), damaged)
      return path.join(folder, fileName)
    },
  }
}

/** A piece of one file in the middle of another of its kind. */
export function splice(a: Uint8Array, b: Uint8Array, random: Random): Uint8Array {
  const at = (bytes: Uint8Array) => Math.floor(random.uniform() * (bytes.length + 1))
  const [begin, end] = [at(b), at(b)].sort((x, y) => x - y)
  const [cut, rest] = [at(a), at(a)]
  return Buffer.concat([a.subarray(0, cut), b.subarray(begin, Math.min(end, begin + 65536)), a.subarray(rest)])
}

/** An early end: at any byte, mostly near one of the two ends. */
export function truncate(bytes: Uint8Array, random: Random): Uint8Array {
  const u = random.uniform()
  const length = random.uniform() < 0.5 ? u * bytes.length : u < 0.5 ? u * 400 : bytes.length - (u - 0.5) * 400
  return bytes.subarray(0, Math.max(0, Math.min(bytes.length, Math.floor(length))))
}

/** What a configuration's fields are replaced with, one after the other. */
export const hostileValues: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  0.5,
  7,
  1e6,
  1e9,
  2 ** 31,
  2 ** 53,
  1e308,
  '',
  'x'.repeat(20_000),
  '\u001b]0;title\u0007',
  [],
  [[[[]]]],
  [1e9],
  [null],
  Array(10_000).fill(1),
  {},
  { __proto__x: 1, length: 1e9, constructor: null },
]

/** As one of many that are alike. */
export const light = (input: Input): Input => ({ ...input, light: true })

export const slow = (input: Input): Input => ({ ...input, slow: true })

/** Copies of a JSON value with one member replaced each, named by the member's path and the value's number. */
export function* withHostileValues(value: unknown): Generator<{ name: string; value: unknown }> {
  for (const at of pathsIn(value)) {
    for (const [i, hostile] of hostileValues.entries()) {
      yield { name: `${at.join('.')} = value ${i}`, value: replaced(value, at, hostile) }
    }
  }
}

function* pathsIn(value: unknown, at: readonly string[] = []): Generator<readonly string[]> {
  if (typeof value !== 'object' || value === null) return
  for (const [name, member] of Object.entries(value)) {
    yield [...at, name]
    yield* pathsIn(member, [...at, name])
  }
}

function replaced(value: unknown, [name, ...rest]: readonly string[], by: unknown): unknown {
  if (name === undefined) return by
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>
  copy[name] = replaced(copy[name], rest, by)
  return copy
}
