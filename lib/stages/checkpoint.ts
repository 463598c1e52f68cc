/** A stage's weights in a checkpoint: of the stage alone, or of a model that has it under a name of its own. */
import { findWeights } from '../checkpoint/find-weights'
import { plainNumbers } from '../checkpoint/plain-numbers'
import { readStateDictFile } from '../checkpoint/state-dict-file'
import { DiffusionError, quote } from '../errors'
import type { StateDict } from '../nn/weights'
import { array, type SchemaOf, string } from '../options'
import { Tensor } from '../tensor'

/** Of a stage's initFromCkpt. */
export interface StageCkptOptions {
  /** Names that begin with one of these are left out. Default: none. */
  ignoreKeys?: readonly string[]
}

export const stageCkptSchema = { ignoreKeys: array(string(''), []) } satisfies SchemaOf<StageCkptOptions>

export interface StageCkptReport {
  /** Names of the network that the file has not; these weights stay. */
  readonly missing: readonly string[]
  /** Names of the file, beside the network's, that the network has not. */
  readonly unexpected: readonly string[]
}

/**
 * What a file has beside the first of `anchors`, names of parameters, that it has: without what is before these names, such as
 * 'first_stage_model.'. Throws `not-found`, `io`, `bad-file`, and `state-mismatch` where it has none of them.
 */
export async function readStageWeights(
  path: string,
  anchors: readonly string[],
  { ignoreKeys = [] }: StageCkptOptions,
): Promise<StateDict> {
  let prefix: string | undefined
  const { tensors, budget } = await readStateDictFile(path, (dicts) => {
    const [place] = findWeights(dicts, anchors)
    prefix = place?.prefix
    const wanted = (name: string) => {
      return name.startsWith(prefix ?? '') && !ignoreKeys.some((key) => name.slice(prefix?.length).startsWith(key))
    }
    return { key: place?.key ?? '', wanted: place ? wanted : () => false }
  })
  if (prefix === undefined) {
    const message = `${path} has nothing of this stage: no ${anchors.map(quote).join(' and no ')}`
    throw new DiffusionError('state-mismatch', message, { argument: 'path' })
  }
  const { length } = prefix
  const entries = Object.entries(plainNumbers(tensors, budget)).map(([name, { data, shape }]) => {
    return [name.slice(length), Tensor.wrap(data, shape)] as const
  })
  return Object.fromEntries(entries)
}
