/** Several sources as one: the shards of a data set. */
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { type ClassLabelling, labellingOfWords } from '../class-labels'
import type { ImageSource } from './source'

/** Items of the first, then of the second. Those of classes have the classes of all. Throws `invalid-argument` where only some have. */
export function concat(name: string, sources: readonly ImageSource[]): ImageSource {
  if (sources.length === 1) return sources[0]
  const ends: number[] = []
  for (const { length } of sources) ends.push((ends.at(-1) ?? 0) + length)
  const at = (item: number) => {
    const shard = ends.findIndex((end) => item < end)
    return [sources[shard], item - (shard > 0 ? ends[shard - 1] : 0)] as const
  }
  return {
    name,
    length: ends.at(-1)!,
    nameOf(item) {
      const [source, i] = at(item)
      return `${path.basename(source.name)}/${source.nameOf(i)}`
    },
    classes: classesOf(name, sources),
    ...(sources.some(({ captionOf }) => captionOf) && {
      captionOf(item: number) {
        const [source, i] = at(item)
        return source.captionOf?.(i)
      },
    }),
    identity: sources.map(({ identity }) => identity),
    leftOut: sources.flatMap(({ leftOut }) => leftOut),
    read(item, look) {
      const [source, i] = at(item)
      return source.read(i, look)
    },
    sizeOf(item) {
      const [source, i] = at(item)
      return source.sizeOf(i)
    },
  }
}

function classesOf(name: string, sources: readonly ImageSource[]): ClassLabelling | undefined {
  const all = sources.map(({ classes }) => classes)
  const [first] = all
  if (all.every((classes) => classes === undefined)) return undefined
  if (!all.every((classes) => classes !== undefined)) {
    throw new DiffusionError('invalid-argument', `${name}: some of its files have labels, others have none`, {
      argument: 'data',
    })
  }
  const same = all.every(
    ({ names }) => names.length === first!.names.length && names.every((n, i) => n === first!.names[i]),
  )
  if (!same) return labellingOfWords(all.flatMap(({ names, labels }) => Array.from(labels, (label) => names[label])))
  const labels = new Int32Array(sources.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const { labels: own } of all) {
    labels.set(own, at)
    at += own.length
  }
  return { names: first!.names, labels }
}
