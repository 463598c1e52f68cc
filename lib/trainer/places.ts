/** Where a training reads and writes, and whether it goes on. */
import path from 'node:path'
import type { TrainingData } from '../data/training-data'
import { DiffusionError, invalidArgument } from '../errors'
import { listCheckpoints, removeLeftovers } from '../train/checkpoint-folder'
import type { TrainOptions } from '../train/options'
import { RunFolder } from '../train/run-folder'
import type { DataState } from '../train/run-state'

/** Runs what works in a run folder, which is locked meanwhile. Throws `busy` and `io`. */
export async function inRunFolder<T>(out: string, work: (folder: RunFolder) => Promise<T>): Promise<T> {
  const folder = await RunFolder.open(out)
  try {
    await removeLeftovers(folder.path)
    return await work(folder)
  } finally {
    await folder.close()
  }
}

type Places = Pick<TrainOptions, 'data' | 'out'>

/**
 * Whether a checkpoint of the run folder is to be gone on from. Throws `invalid-argument` for one that is there and not asked for, and for a
 * new run within its data.
 */
export async function resumes(given: Places & Pick<TrainOptions, 'resume'>): Promise<boolean> {
  const { out, resume = false } = given
  const found = (await listCheckpoints(out)).length > 0
  if (!found) {
    checkOutside(given)
    return false // killed before its first checkpoint, or new
  }
  if (resume) return true
  throw new DiffusionError('invalid-argument', `${out} holds a training already: resume it, or choose another folder`, {
    argument: 'out',
    expected: 'a new run folder, or resume',
    received: out,
  })
}

/** The pictures of a run within the data would be images to train on. */
function checkOutside({ data, out }: Places): void {
  if (typeof data !== 'string' || typeof out !== 'string') return
  const way = path.relative(data, out)
  if (way === '..' || way.startsWith(`..${path.sep}`) || path.isAbsolute(way)) return
  throw invalidArgument('out', `a folder outside of the data (${data}), since its pictures would be trained on`, out)
}

/** Paths are those of now, wherever the working directory is later. */
export function withAbsolutePaths<T extends object>(options: T): T {
  const given = { ...options } as T & Readonly<Record<string, unknown>>
  const places = [
    'data',
    'out',
    'classes',
    'validation',
    'inception',
    'firstStage',
    'textEncoder',
    'tokenizer',
    'latents',
  ]
  for (const name of places) {
    const value = given[name]
    const words =
      (name === 'classes' && (value === 'folders' || value === 'labels')) ||
      (name === 'textEncoder' && value === 'transformer')
    if (typeof value === 'string' && !words) Object.assign(given, { [name]: path.resolve(value) }) // others are refused later
  }
  return given
}

/** Throws `invalid-argument` for images that are not those that a run was trained or evaluated on. */
export function refuseOther(data: TrainingData, before: DataState, argument: 'data' | 'validation'): void {
  if (data.fingerprint === before.fingerprint) return
  const use = argument === 'data' ? 'trained' : 'evaluated'
  throw new DiffusionError(
    'invalid-argument',
    `${data.name} is not what this run was ${use} on: ${before.images} readable images then, ${data.length} now, ` +
      'and not under the same names or not in the same classes; a resumed run would not continue the same training',
    { argument, expected: `${before.images} images`, received: `${data.length} images` },
  )
}
