/** Which part of a network is trained: all of it, what is not frozen, or low-rank updates alone. */
import { DiffusionError, describe, invalidArgument } from '../../errors'
import { array, type Parsed, parseOptions, type SchemaOf, string, value } from '../../options'
import type { Network } from '../network'
import type { ParameterTable } from '../parameters'
import { adaptable, LoraNetwork, type Ranks } from './lora'

/** Low-rank updates (Hu et al. 2022) of a network's layers, which then are all that is trained. */
export interface LoraOptions {
  /** Of the updates: how many numbers a layer's input is reduced to. Or of each by the name of its module. */
  rank: number | Readonly<Record<string, number>>
  /**
   * Which linear layers and convolutions have one, by names of modules in which * is any text: ['*.qkv', '*.proj_out'] is attention
   * alone. Default: all, or those that `rank` names.
   */
  targets?: readonly string[]
}

export interface TrainedOptions {
  /** Names of parameters that are not trained, in which * is any text: ['input_blocks.*', 'time_embed.*']. Default: none. */
  freeze?: readonly string[]
  /** Train low-rank updates in place of the weights. Default: none. */
  lora?: LoraOptions
}

const maxRank = 1024
const isRank = (v: unknown) => Number.isInteger(v) && (v as number) >= 1 && (v as number) <= maxRank
const isRanks = (v: unknown) => {
  if (typeof v !== 'object' || v === null) return isRank(v)
  const ranks = Object.values(v)
  return ranks.length > 0 && ranks.every(isRank)
}
const loraSchema = {
  rank: value<LoraOptions['rank']>(`an integer from 1 to ${maxRank}, or one for each module`, isRanks),
  targets: array(string()),
} satisfies SchemaOf<LoraOptions>

export const trainedSchema = {
  freeze: array(string()),
  lora: value<LoraOptions>('{ rank, targets }', (v) => typeof v === 'object' && v !== null),
} satisfies SchemaOf<TrainedOptions>

/**
 * The network of which only that part is trained; the one that is given is changed. Throws `invalid-argument` for names that it
 * has not got, where nothing is left to train, and for a network that a model has already.
 */
export function withTrained(network: Network, { freeze = [], lora }: TrainedOptions): Network {
  if (freeze.length === 0 && lora === undefined) return network
  if (network.parameters.isLaidOut) {
    throw invalidArgument('model', 'a network of its own, which no other model has, with freeze or lora', network)
  }
  if (lora) {
    if (freeze.length > 0) throw invalidArgument('freeze', 'nothing with lora, which freezes all weights', freeze)
    return new LoraNetwork(network, ranksOf(network.parameters, parseOptions('lora', lora, loraSchema)))
  }
  freezeMatching(network.parameters, freeze)
  return network
}

function freezeMatching(table: ParameterTable, patterns: readonly string[]): void {
  const names = table.slots.map(({ name }) => name)
  const frozen = new Set(patterns.flatMap((pattern) => matching(names, pattern, 'freeze')))
  if (frozen.size === names.length) throw invalidArgument('freeze', 'names that leave something to train', patterns)
  table.freeze((name) => frozen.has(name))
}

function ranksOf(table: ParameterTable, { rank, targets }: Parsed<typeof loraSchema>): Ranks {
  if (rank === undefined) throw invalidArgument('lora.rank', `an integer from 1 to ${maxRank}`, rank)
  if (typeof rank !== 'number') {
    if (targets) throw invalidArgument('lora.targets', 'nothing where rank names the modules', targets)
    return new Map(Object.entries(rank))
  }
  const modules = [...adaptable(table).keys()]
  const chosen = targets ? new Set(targets.flatMap((pattern) => matching(modules, pattern, 'lora.targets'))) : modules
  return new Map([...chosen].map((module) => [module, rank]))
}

function matching(names: readonly string[], pattern: string, argument: string): string[] {
  const parts = pattern.split('*').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  const expression = new RegExp(`^${parts.join('.*')}$`)
  const found = names.filter((name) => expression.test(name))
  if (found.length > 0) return found
  const some = `${names.slice(0, 3).join(', ')} ... ${names.at(-1)}`
  throw new DiffusionError(
    'invalid-argument',
    `${argument}: nothing of the network matches '${pattern}'; it has ${some}`,
    {
      argument,
      expected: some,
      received: describe(pattern),
    },
  )
}
