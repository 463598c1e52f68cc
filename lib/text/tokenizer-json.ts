/** What of a tokenizer.json is looked at before @huggingface/tokenizers makes a tokenizer of it. */
import { isObject, type JsonObject } from '../checkpoint/json'
import type { DiffusionError } from '../errors'

type Bad = (problem: string) => DiffusionError

/** Beyond any vocabulary that there is. */
const mostTokens = 2 ** 20

/** Characters of all added tokens: the package keeps a tree of them, an object a character. */
const mostAdded = 2 ** 17

/** One more than the largest id. Throws for ids that are none, and for added tokens that are no words. */
export function vocabularySize(json: JsonObject, bad: Bad): number {
  const { vocab } = isObject(json.model) ? json.model : {}
  const ids = isObject(vocab) ? Object.values(vocab) : Array.isArray(vocab) ? vocab.map((_, i) => i) : []
  if (ids.length === 0) throw bad('it has no vocabulary')
  const added = Array.isArray(json.added_tokens) ? json.added_tokens : []
  let characters = 0
  for (const token of added) {
    if (!isObject(token) || typeof token.content !== 'string') throw bad('an added token has no content')
    characters += token.content.length
  }
  if (characters > mostAdded) throw bad(`its added tokens have more than ${mostAdded} characters`)
  let size = 0
  for (const id of [...ids, ...added.map((token) => (isObject(token) ? token.id : undefined))]) {
    if (!Number.isSafeInteger(id) || Number(id) < 0 || Number(id) >= mostTokens) {
      throw bad(`ids are integers from 0 to ${mostTokens - 1}, one is ${String(id)}`)
    }
    size = Math.max(size, Number(id) + 1)
  }
  return size
}

/** Throws for a pattern of no known kind, which the package would leave out. */
export function checkPatterns(part: unknown, bad: Bad): void {
  if (typeof part !== 'object' || part === null) return
  for (const [name, value] of Object.entries(part)) {
    if (name !== 'pattern') checkPatterns(value, bad)
    else if (!isObject(value) || (typeof value.Regex !== 'string' && typeof value.String !== 'string')) {
      throw bad('a pattern is neither a Regex nor a String')
    }
  }
}
