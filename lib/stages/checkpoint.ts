/** A stage's weights in a checkpoint: of the stage alone, or of a model that has it under a name of its own. */
import { findWeights, likelyDict } from '../checkpoint/find-weights'
import { plainTensors } from '../checkpoint/plain-numbers'
import { openStateDictFile } from '../checkpoint/state-dict-file'
import { DiffusionError, quote } from '../errors'
import type { ParameterTable } from '../nn/parameters'
import type { StateDict } from '../nn/weights'
import { array, type SchemaOf, string } from '../options'
import type { WeightsSource } from './stage'

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
  const { tensors, budget } = await openStateDictFile(path, (dicts) => {
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
  const entries = Object.entries(plainTensors(tensors, budget)).map(([name, tensor]) => {
    return [name.slice(length), tensor] as const
  })
  return Object.fromEntries(entries)
}

/** Of what is read from a file when a stage is first used. */
export interface FileSourceOptions {
  /** Before the stage's names in the file, such as 'first_stage_model.'. */
  readonly prefix: string
  /** Which dict of the file. Default: the likely one. */
  readonly key?: string
  /** Other names than the stage's own, or in another layout. */
  readonly renamed?: (dict: StateDict) => StateDict | Promise<StateDict>
}

/** A stage's own weights in a file. What the file has beside them is left out; what it lacks is a `state-mismatch`. */
export function fileSource(path: string, table: () => ParameterTable, o: FileSourceOptions): WeightsSource {
  return async () => {
    const { tensors, budget } = await openStateDictFile(path, (dicts) => {
      const key = o.key ?? likelyDict(dicts)?.key ?? ''
      return { key, wanted: (name) => name.startsWith(o.prefix) }
    })
    const entries = Object.entries(plainTensors(tensors, budget)).map(([name, tensor]) => {
      return [name.slice(o.prefix.length), tensor] as const
    })
    const dict: StateDict = Object.fromEntries(entries)
    return ownWeights(table(), (await o.renamed?.(dict)) ?? dict, path)
  }
}

/** Those of a network's parameters, all of them. Throws `state-mismatch`. */
export function ownWeights({ slots }: ParameterTable, dict: StateDict, path: string): StateDict {
  const lost = slots.find(({ name }) => !Object.hasOwn(dict, name))
  if (!lost) return Object.fromEntries(slots.map(({ name }) => [name, dict[name]]))
  throw new DiffusionError('state-mismatch', `${path} has no ${lost.name}`, { argument: lost.name, received: path })
}
