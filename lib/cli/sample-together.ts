/** `ddpm sample` by several processes: each draws its share into a part, of which the one that leads makes the file. */
import { rm } from 'node:fs/promises'
import { openParts } from '../data/parts/merge-parts'
import { partName } from '../data/parts/part-file'
import type { Ranks } from '../trainer/ranks'
import { UsageError } from './args'
import type { Span } from './draw'
import { checkWritable, outputName } from './free-name'
import { numbersOf } from './keeper'
import { writeMerged } from './merge'
import { checkOtherParts, exists, isSpecial, partialOf, partsBeside } from './npz-file'
import type { Output } from './output'
import { fileOf, hasSampling } from './separate-files'
import { ofAll } from './together'

interface KeptValues {
  readonly npz?: string
  readonly separate?: string
  readonly resume?: boolean
  readonly overwrite?: boolean
}

/** Throws UsageError for what one process draws. */
export function checkTogether(
  values: KeptValues & { readonly output?: string; readonly preview?: string; readonly interpolate?: unknown },
  size: number,
): void {
  if (values.npz === undefined && values.separate === undefined)
    throw new UsageError(`${size} processes draw together with --npz or --separate: a grid alone is drawn by one`)
  for (const name of ['output', 'preview', 'interpolate'] as const)
    if (values[name] !== undefined) throw new UsageError(`--${name} goes with one process, and there are ${size}`)
}

/** Where everything goes, the same for all. */
export interface Places {
  readonly npz?: string
  readonly separate?: string
  /** The .npz file is there already, with all images. */
  readonly isWhole?: boolean
}

/** The leader says where that is. Throws UsageError, `invalid-argument` for parts of another number of processes, and `io`. */
export async function placesOfAll(ranks: Ranks, values: KeptValues, whole: Span): Promise<Places> {
  return ranks.ofLeader(ranks.leads ? await choosePlaces(ranks.size, values, whole) : {})
}

async function choosePlaces(size: number, values: KeptValues, whole: Span): Promise<Places> {
  const { npz, separate, resume, overwrite } = values
  if (npz !== undefined && (await isSpecial(npz)))
    throw new UsageError(`--npz ${npz}: it is not a file, beside which ${size} processes could keep parts`)
  if (resume) return { npz, separate, isWhole: npz !== undefined && (await isComplete(npz, size)) }
  const isTaken = async (name: string) =>
    (await exists(name)) || (await exists(partialOf(name))) || (await partsBeside(name)).length > 0
  const places = {
    npz: npz && (await outputName(npz, { overwrite, taken: isTaken })),
    separate: separate && (await outputName(separate, { overwrite, taken: (name) => hasSampling(name, whole) })),
  }
  if (places.npz !== undefined) await checkWritable(places.npz)
  return places
}

/** Whether nothing is to be gone on with. Throws `invalid-argument` where that is something else than parts of so many. */
async function isComplete(npz: string, size: number): Promise<boolean> {
  if ((await partsBeside(npz)).some(({ total }) => total === size)) return false
  const isBegun = await exists(partialOf(npz))
  if (!isBegun && (await exists(npz))) return true
  await checkOtherParts(npz, size, isBegun)
  return false
}

/** Of each rank. */
interface Drawing {
  /** Images that were there before. */
  readonly before: number
  readonly warnings: readonly string[]
}

/** What all ranks have drawn. */
export interface Finished {
  readonly files: string[]
  readonly before: number
  /** By ranks. */
  readonly warnings: readonly (readonly string[])[]
}

/** When this rank's share is there: waits for the others, and for the leader to make the file. */
export async function finishTogether(
  ranks: Ranks,
  own: Drawing,
  o: { readonly places: Places; readonly whole: Span; readonly output: Output; readonly signal: AbortSignal },
): Promise<Finished> {
  const { npz, separate, isWhole } = o.places
  const all = await ofAll(ranks, own)
  await ranks.together(async () => {
    if (ranks.leads && npz !== undefined && !isWhole) await mergeAll(npz, ranks.size, o)
  })
  return {
    files: [
      ...(separate === undefined ? [] : numbersOf(o.whole).map((image) => fileOf(separate, image))),
      ...(npz === undefined ? [] : [npz]),
    ],
    before: all.reduce((sum, { before }) => sum + before, 0),
    warnings: all.map(({ warnings }) => warnings),
  }
}

async function mergeAll(npz: string, total: number, o: { output: Output; signal: AbortSignal }): Promise<void> {
  const names = Array.from({ length: total }, (_, i) => partName(npz, { index: i + 1, total }))
  await writeMerged(await openParts(names), npz, o)
  for (const name of names) await rm(name, { force: true })
}
