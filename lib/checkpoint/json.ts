/** JSON from files that are not trusted: an object, without duplicate keys, in bounded memory. */
import { findDuplicateKey } from './json-keys'
import { type Source, withSource } from './source'

export type JsonObject = Record<string, unknown>

/** Configurations are small. */
const maxFileBytes = 16 * 2 ** 20
const allowance = 48 * 2 ** 20

/** Reads a JSON file. Throws `not-found`, `io` and `bad-file`. */
export function readJsonFile(path: string): Promise<JsonObject> {
  return withSource(path, 'JSON file', async (source) => {
    if (source.size > maxFileBytes) throw source.bad(`it has more than ${maxFileBytes} bytes`)
    const bytes = new Uint8Array(source.size)
    await source.read(bytes, 0)
    return parseJsonObject(bytes, source.size, source.bad, 'it')
  })
}

/** `fileSize` bounds the memory; `what` names the text in messages: 'its header'. */
export function parseJsonObject(bytes: Uint8Array, fileSize: number, bad: Source['bad'], what: string): JsonObject {
  if (parsedSize(bytes) > fileSize + allowance)
    throw bad(`${what} unfolds to far more than a file of this size can hold`)
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    throw bad(`${what} is not JSON`)
  }
  if (!isObject(value)) throw bad(`${what} is not a JSON object`)
  const duplicate = findDuplicateKey(text)
  if (duplicate !== undefined) throw bad(`${what} has '${duplicate}' twice`)
  return value
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Roughly what V8 will make of it: each object, array and key takes up to 160 bytes, each other value 16. */
function parsedSize(bytes: Uint8Array): number {
  let size = 3 * bytes.length
  for (const byte of bytes) {
    if (byte === 0x5b || byte === 0x7b || byte === 0x3a) size += 160
    else if (byte === 0x2c) size += 16
  }
  return size
}
