/** Classes by their names. */
import { DiffusionError, invalidArgument } from '../../errors'

/**
 * The label of the class that `text` means: a name, or where only one name has them, some of its words from the first letter on
 * ('food' for 'Food & Drink'). Case and punctuation do not count. Throws `invalid-argument` with the names otherwise.
 */
export function classLabel(names: readonly string[], text: string): number {
  // As it is written: '-1' and '1', or '#', are the same words, or none.
  const exact = names.findIndex((name) => name.normalize() === text.normalize())
  if (exact >= 0) return exact
  const wanted = words(text)
  if (wanted.trim() === '') throw unknownClass(names, text, 'there is no such class')
  // '4' is no beginning of '40', nor of '4e1'.
  const begins = (name: string) => {
    const rest = words(name).split(wanted).slice(1)
    return rest.some((text) => !/\d$/.test(wanted) || !/^[\p{L}\p{N}]/u.test(text))
  }
  const labelsOf = (fits: (name: string) => boolean) => names.flatMap((name, label) => (fits(name) ? [label] : []))
  const whole = labelsOf((name) => words(name) === wanted)
  const found = whole.length > 0 ? whole : labelsOf(begins)
  if (found.length === 1) return found[0]
  throw unknownClass(names, text, found.length === 0 ? 'there is no such class' : 'it could be several classes')
}

/** Lower-case words, each behind a space, so that where one begins is seen. */
function words(name: string): string {
  return name
    .normalize()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .replace(/^ ?/, ' ')
    .trimEnd()
}

function unknownClass(names: readonly string[], text: string, problem: string): DiffusionError {
  const expected = names.length === 0 ? 'a model whose classes have names' : `one of ${names.join(', ')}`
  return new DiffusionError('invalid-argument', `class '${text}': ${problem}; expected ${expected}`, {
    argument: 'class',
    expected,
    received: text,
  })
}

/** Names are for the network's first labels; its null class needs none. */
export function checkClassNames(names: readonly string[] | undefined, numClasses: number | undefined): void {
  if (names === undefined || names.length <= (numClasses ?? 0)) return
  throw invalidArgument('classNames', `at most ${numClasses ?? 0} names, one for each class of the network`, names)
}
