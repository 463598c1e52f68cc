/** JSON from files that are not trusted: an object, without duplicate keys, in bounded memory. */
import { DiffusionError, quote } from '../errors'
import type { Budget } from './budget'
import { describeKind, headLength } from './file-kind'
import { findDuplicateKey } from './json-keys'
import { parsePython } from './python-json'
import { type Source, type SourceOptions, withSource } from './source'

export type JsonObject = Record<string, unknown>

/** Nothing that is read here is larger. */
const maxFileBytes = 256 * 2 ** 20
/** What goes through such objects calls itself. No configuration comes near. */
const maxDepth = 64

/** Reads a JSON file, also as Python writes it: with NaN and infinities. Throws `not-found`, `io` and `bad-file`. */
export function readJsonFile(path: string, options: SourceOptions = {}): Promise<JsonObject> {
  return withSource(path, 'JSON file', readJson, options)
}

async function readJson(source: Source): Promise<JsonObject> {
  if (source.size > maxFileBytes) throw source.bad(`it has more than ${maxFileBytes} bytes`)
  const bytes = new Uint8Array(source.size)
  await source.read(bytes, 0)
  // What was put in the file's place is told by its name.
  const what = bytes[0] === 0x7b ? undefined : describeKind(bytes.subarray(0, headLength))
  if (what !== undefined && !/text$/.test(what)) throw source.bad(`it is ${what}`)
  return parseJsonObject(bytes, source.budget, 'it', { python: true })
}

/** `what` names the text in messages: 'its header'. `python`: NaN and infinities are numbers. */
export function parseJsonObject(
  bytes: Uint8Array,
  budget: Budget,
  what: string,
  o: { readonly python?: boolean } = {},
): JsonObject {
  const { bad } = budget
  chargeJson(bytes, budget, what)
  let json: string
  let value: unknown
  try {
    // Editors put a byte order mark before what they save.
    json = new TextDecoder('utf-8', { fatal: true, ignoreBOM: !o.python }).decode(bytes)
    if (o.python) ({ value, json } = parsePython(json, budget))
    else value = JSON.parse(json)
  } catch (error) {
    throw error instanceof DiffusionError ? error : bad(`${what} is not JSON${o.python ? placeOf(error, bytes) : ''}`)
  }
  if (!isObject(value)) throw bad(`${what} is not a JSON object`)
  const duplicate = findDuplicateKey(json)
  if (duplicate !== undefined) throw bad(`${what} has ${quote(duplicate)} twice`)
  return value
}

/** The line of a mistake such as a comma before a brace, where JSON.parse tells its place. */
function placeOf(error: unknown, bytes: Uint8Array): string {
  const [, position] = /at position (\d+)/.exec(String(error)) ?? []
  if (position === undefined) return ''
  const before = bytes.subarray(0, Number(position))
  return ` from line ${before.reduce((lines, byte) => lines + (byte === 0x0a ? 1 : 0), 1)} on`
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

// Bytes that V8 makes of an object or an array, of a key (in the object, and among those that are looked through for
// duplicates), and of another value.
const containerCost = 96
const keyCost = 160
const valueCost = 64

/** Charges what JSON.parse will make of it, roughly. Throws for what is nested too deeply. */
function chargeJson(bytes: Uint8Array, budget: Budget, what: string): void {
  budget.work(bytes.length)
  let memory = 3 * bytes.length
  let depth = 0
  for (let i = 0; i < bytes.length; i++) {
    switch (bytes[i]) {
      case 0x22: // a string, up to the next quote
        for (i++; i < bytes.length && bytes[i] !== 0x22; i++) if (bytes[i] === 0x5c) i++
        break
      case 0x5b:
      case 0x7b:
        memory += containerCost
        if (++depth > maxDepth) throw budget.bad(`${what} is nested more than ${maxDepth} deep`)
        break
      case 0x5d:
      case 0x7d:
        depth--
        break
      case 0x3a:
        memory += keyCost
        break
      case 0x2c:
        memory += valueCost
    }
  }
  budget.memory(memory)
}
