/** What the processes of a training settle before the first step: from which checkpoint on, and that they have the same before them. */
import os from 'node:os'
import type { TrainingData } from '../data/training-data'
import { DiffusionError } from '../errors'
import type { TrainOptions } from '../train/options'
import { freeOnResume } from '../train/resolve-options'
import { packageVersion } from '../version'
import { resumes } from './places'
import type { Ranks } from './ranks'

/** That of the process that leads; the others find it in the same folder. Undefined for a new run. */
export async function checkpointToResume<T extends { readonly state: { readonly step: number } }>(
  given: Pick<TrainOptions, 'data' | 'out' | 'resume'>,
  ranks: Ranks,
  open: (out: string) => Promise<T>,
): Promise<T | undefined> {
  const { out } = given
  const own = await ranks.together(async () => (ranks.leads && (await resumes(given)) ? await open(out) : undefined))
  const step = await ranks.ofLeader(own?.state.step ?? -1)
  if (ranks.leads || step < 0) return own
  const checkpoint = await open(out)
  if (checkpoint.state.step === step) return checkpoint
  const what = `rank ${ranks.rank} finds the checkpoint of step ${checkpoint.state.step} in ${out}, rank 0 that of ${step}`
  throw new DiffusionError('rank-failed', what, {
    argument: 'out',
    expected: 'a folder that all processes see',
    received: out,
  })
}

/** `accumulate` is of each process where it is given; a checkpoint's is that of one process. */
export function ofOneProcess<T extends { readonly accumulate?: number }>(
  given: T,
  { size }: Ranks,
  checkpoint: object | undefined,
): T {
  const { accumulate = checkpoint ? undefined : 1 } = given
  return accumulate === undefined ? given : { ...given, accumulate: accumulate * size }
}

/** What all processes must have in common: not where things are, and how much memory there is. */
export function factsOf(
  options: object,
  opened: { readonly data: TrainingData; readonly heldOut: TrainingData | undefined },
): Record<string, unknown> {
  const facts = Object.entries(options).filter(([name]) => !freeOnResume.includes(name) || name === 'steps')
  const imagesOf = (data: TrainingData | undefined) => data && `${data.length} images, ${data.fingerprint}`
  return {
    ...Object.fromEntries(facts),
    'ddpm-native': packageVersion(),
    endianness: os.endianness(),
    node: process.versions.modules,
    data: imagesOf(opened.data),
    validation: imagesOf(opened.heldOut),
  }
}
