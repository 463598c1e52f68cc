/** Whether parts make a whole. */
import { DiffusionError, describe } from '../../errors'
import { type PartHeader, partName } from './part-file'

/** A part that has a name in messages. */
export interface NamedPart extends PartHeader {
  readonly file: string
  /** What it has for each image, the same in all parts. */
  readonly layout: string
}

/**
 * The parts in their order. Throws `invalid-argument` where they are not of one whole, where one is there twice, and where some are
 * missing, with their names.
 */
export function partsInOrder<P extends NamedPart>(parts: readonly P[]): P[] {
  const [first] = parts
  for (const part of parts) checkTogether(first, part)
  const ordered = parts.toSorted((a, b) => a.shard.index - b.shard.index)
  for (const [i, part] of ordered.entries()) {
    const before = ordered[i - 1]
    if (before?.shard.index === part.shard.index)
      throw refused(`shard ${numbered(part)} is there twice: ${before.file} and ${part.file}`)
  }
  checkComplete(ordered)
  for (const [i, part] of ordered.entries()) {
    const before = ordered[i - 1]
    if (before && before.first + before.count !== part.first) {
      const problem = `${part.file} begins with image ${part.first}, and ${before.file} ends before ${before.first + before.count}`
      throw refused(problem)
    }
  }
  return ordered
}

function checkTogether(a: NamedPart, b: NamedPart): void {
  if (a.shard.total !== b.shard.total)
    throw refused(`${a.file} is shard ${numbered(a)}, and ${b.file} ${numbered(b)}: they are of two divisions`)
  const names = new Set([...Object.keys(a.whole), ...Object.keys(b.whole)])
  for (const name of names) {
    if (a.whole[name] === b.whole[name]) continue
    const difference =
      name === 'weights'
        ? 'they are of two models'
        : `${name} is ${describe(b.whole[name])} of the one, and ${describe(a.whole[name])} of the other`
    throw refused(`${b.file} and ${a.file} are not parts of one whole: ${difference}`)
  }
  if (a.layout !== b.layout)
    throw refused(`${b.file} and ${a.file} are not parts of one whole: ${b.layout} and ${a.layout}`)
}

function checkComplete(ordered: readonly NamedPart[]): void {
  const [{ file, shard }] = ordered
  const { total } = shard
  const there = new Set(ordered.map((part) => part.shard.index))
  const missing = Array.from({ length: total }, (_, i) => i + 1).filter((index) => !there.has(index))
  if (missing.length === 0) return
  const named = partName('', shard) // '-03-of-16'
  const names = file.includes(named)
    ? missing.map((index) => file.replace(named, partName('', { index, total })))
    : missing.map(String)
  const shown = names.length > maxNamed ? `${names.slice(0, maxNamed).join(', ')}, ...` : names.join(', ')
  throw refused(`${missing.length} of ${total} shards ${missing.length === 1 ? 'is' : 'are'} missing: ${shown}`)
}

const maxNamed = 20

function numbered({ shard: { index, total } }: Pick<NamedPart, 'shard'>): string {
  return `${index} of ${total}`
}

function refused(problem: string): DiffusionError {
  return new DiffusionError('invalid-argument', problem, { argument: 'parts' })
}
