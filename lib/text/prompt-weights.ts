/**
 * Weights of a prompt's parts, by the grammar of stable-diffusion-webui (AUTOMATIC1111, prompt_parser.py, parse_prompt_attention):
 *
 *   (red cat)      1.1 times, once more for each pair of brackets
 *   (red cat:1.3)  1.3 times
 *   [red cat]      divided by 1.1
 *   \( \) \[ \] \\ the characters themselves; any other backslash is left out
 *
 * A bracket that is not closed reaches to the end of the prompt, one that was not opened is a character.
 */

/** A part of a prompt. */
export interface WeightedText {
  readonly text: string
  readonly weight: number
}

const round = 1.1
const square = 1 / 1.1

/** ":1.3)", which ends a round bracket. */
const ending = /:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)/y

/** The parts in their order, neighbours of one weight as one; at least one, which may be empty. */
export function parsePromptWeights(prompt: string): WeightedText[] {
  const parts: { text: string; weight: number }[] = []
  /** How many parts there were where each open bracket began. */
  const open: { round: number[]; square: number[] } = { round: [], square: [] }
  let text = ''
  const endPart = () => {
    if (text !== '') parts.push({ text, weight: 1 })
    text = ''
  }
  const begin = (bracket: number[]) => {
    endPart()
    bracket.push(parts.length)
  }
  const end = (bracket: number[], factor: number) => {
    endPart()
    for (const part of parts.slice(bracket.pop())) part.weight *= factor
  }
  for (let i = 0; i < prompt.length; i++) {
    const character = prompt[i]
    if (character === '\\') {
      if ('()[]\\'.includes(prompt[i + 1] ?? ' ')) text += prompt[++i]
    } else if (character === '(') {
      begin(open.round)
    } else if (character === '[') {
      begin(open.square)
    } else if (character === ')' && open.round.length > 0) {
      end(open.round, round)
    } else if (character === ']' && open.square.length > 0) {
      end(open.square, square)
    } else {
      ending.lastIndex = i
      const weighted = character === ':' && open.round.length > 0 ? ending.exec(prompt) : null
      if (weighted) {
        end(open.round, Number(weighted[1]))
        i = ending.lastIndex - 1
      } else {
        text += character
      }
    }
  }
  endPart()
  while (open.round.length > 0) end(open.round, round)
  while (open.square.length > 0) end(open.square, square)
  return joined(parts)
}

function joined(parts: readonly WeightedText[]): WeightedText[] {
  const all: WeightedText[] = []
  for (const { text, weight } of parts) {
    const last = all.at(-1)
    if (last?.weight === weight) all[all.length - 1] = { text: last.text + text, weight }
    else all.push({ text, weight })
  }
  return all.length > 0 ? all : [{ text: '', weight: 1 }]
}

/**
 * Token states [n, length, width] times the weights [n, length] of their tokens; of each text all are then scaled so that their mean
 * is what it was before. (The web UI takes the mean over the texts of a batch, here a text does not depend on others.) Changes
 * `states`.
 */
export function applyWeights(states: Float32Array, weights: Float32Array, texts: number): void {
  const [length, size] = [weights.length / texts, states.length / texts]
  const width = size / length
  for (let n = 0; n < texts; n++) {
    const own = weights.subarray(n * length, (n + 1) * length)
    if (own.every((weight) => weight === 1)) continue
    let [before, after] = [0, 0]
    for (let i = 0; i < size; i++) {
      const at = n * size + i
      before += states[at]
      states[at] *= own[Math.floor(i / width)]
      after += states[at]
    }
    const factor = before / after
    if (!Number.isFinite(factor)) continue // all weights are 0
    for (let i = n * size; i < (n + 1) * size; i++) states[i] *= factor
  }
}
