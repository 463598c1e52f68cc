/** JSON as Python's json module writes it by default: with NaN, Infinity and -Infinity. */
import type { Budget } from './budget'

/** A string for NaN, which JSON has no number for. */
const nan = '\0NaN'
/** Bytes of a piece of text and its place in an array, and of what stands for a number. */
const pieceCost = 192

/** What JSON.parse makes of it, and the JSON that it was given in place of the text. Throws as it does. */
export function parsePython(text: string, budget: Budget): { value: unknown; json: string } {
  const { json, hasNaN } = withNumbers(text, budget)
  const revive = (_: string, value: unknown) => (value === nan ? Number.NaN : value)
  return { json, value: hasNaN ? JSON.parse(json, revive) : JSON.parse(json) }
}

/** Outside of strings: an infinity becomes a number that is too large for one, NaN a string. */
function withNumbers(text: string, budget: Budget): { json: string; hasNaN: boolean } {
  if (!/NaN|Infinity/.test(text)) return { json: text, hasNaN: false }
  const pieces: string[] = []
  let done = 0
  let hasNaN = false
  const put = (at: number, name: string, value: string) => {
    budget.memory(pieceCost)
    pieces.push(text.slice(done, at), value)
    done = at + name.length
    return done - 1
  }
  budget.memory(4 * text.length)
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"') for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++
    // The space ends the number; after another one this is none.
    if (c === 'I' && text.startsWith('Infinity', i) && !/[\w.]/.test(text[i - 1])) i = put(i, 'Infinity', '1e999 ')
    if (c !== 'N' || !text.startsWith('NaN', i)) continue
    hasNaN = true
    i = put(i, 'NaN', JSON.stringify(nan))
  }
  return { json: pieces.join('') + text.slice(done), hasNaN }
}
