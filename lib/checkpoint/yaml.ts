/** YAML from files that are not trusted: plain data, in bounded memory. */
import type * as Yaml from 'yaml'
import { isObject, type JsonObject } from './json'
import { type Source, withSource } from './source'

/** Configurations are small. */
const maxFileBytes = 32 * 2 ** 10
/** Bytes of memory that a byte costs the parser, where each second one is a node. */
const byteCost = 1200
/** The parser calls itself for each level. */
const maxDepth = 100
/** Of aliases, in nodes: what `&a [*b, *b]` and its like may unfold to. */
const maxAliases = 100

/** Loaded when used: it takes a fifth of the time that the library does, and most read no YAML. */
const load = () => require('yaml') as typeof Yaml

/** Reads a file, or its bytes, that is one mapping. Throws `not-found`, `io` and `bad-file`. */
export function readYaml(pathOrBytes: string | Uint8Array): Promise<JsonObject> {
  return withSource(pathOrBytes, 'YAML configuration', async (source) => {
    if (source.size > maxFileBytes) throw source.bad(`it has more than ${maxFileBytes} bytes`)
    source.budget.memory(byteCost * source.size)
    const bytes = new Uint8Array(source.size)
    await source.read(bytes, 0)
    return parseYaml(bytes, source.bad)
  })
}

function parseYaml(bytes: Uint8Array, bad: Source['bad']): JsonObject {
  let value: unknown
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    if (depthOf(text) > maxDepth) throw new Error(`it is nested more than ${maxDepth} deep`)
    const document: Yaml.Document = load().parseDocument(text, { logLevel: 'silent', version: '1.2' })
    if (document.errors.length > 0) throw document.errors[0]
    value = document.toJS({ maxAliasCount: maxAliases })
  } catch (error) {
    throw bad((error as Error).message.split('\n')[0])
  }
  if (!isObject(value)) throw bad('it is not a mapping')
  return value
}

/** At least as deep as anything in it: brackets, and the deepest indentation with what may open levels on one line. */
function depthOf(text: string): number {
  let [open, deepest] = [0, 0]
  for (const line of text.split('\n')) {
    const [indent] = /^[ \t]*/.exec(line)!
    const dashes = /^(?:[-?:] *)*/.exec(line.slice(indent.length))![0].replace(/ /g, '').length
    for (const c of line) {
      if (c === '[' || c === '{') open++
      else if ((c === ']' || c === '}') && open > 0) open--
      deepest = Math.max(deepest, open)
    }
    deepest = Math.max(deepest, indent.length + dashes)
  }
  return deepest
}

export const writeYaml = (value: unknown): string => load().stringify(value)
