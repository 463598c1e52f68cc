/** What commands have in common that processes which a launcher started do together, each a share. */
import type { DeviceName } from '../device'
import { DiffusionError } from '../errors'
import { shardOf } from '../shard'
import { Ranks } from '../trainer/ranks'
import { distributedModes, World } from '../world'
import { type OptionTable, UsageError, type Values } from './args'
import type { Span } from './draw'
import { type Output, warn } from './output'
import type { SpanShard } from './shard'

export const distributedOption = {
  distributed: {
    kind: 'string',
    choices: distributedModes,
    help: 'divided among the processes of mpirun or torchrun, which then make one file (auto; not with --shard)',
  },
} as const satisfies OptionTable

/** A shard is done alone, whoever started it. Throws UsageError, and what World.of throws. */
export function ranksOf({
  distributed,
  device,
  shard,
}: Values<typeof distributedOption> & { readonly device?: string; readonly shard?: string }): Ranks {
  if (shard === undefined) return new Ranks(World.of(distributed, device as DeviceName | undefined))
  if (distributed === 'mpi' || distributed === 'nccl')
    throw new UsageError(`--distributed ${distributed} goes without --shard, which is computed alone`)
  return new Ranks(undefined)
}

/** What this rank has of it: a shard, as of so many. Throws UsageError where there are fewer batches than processes. */
export function shareOf({ rank, size }: Pick<Ranks, 'rank' | 'size'>, whole: Span, batchSize: number): SpanShard {
  try {
    const part = shardOf({ shard: `${rank + 1}/${size}`, count: whole.count, batchSize })
    return { ...part, whole, first: whole.first + part.first }
  } catch (error) {
    if (!(error instanceof DiffusionError)) throw error
    throw new UsageError(`each of ${size} processes has a shard: ${error.message.replace(/^shard: /, '')}`)
  }
}

/** What each rank has, as JSON has it. */
export async function ofAll<T>({ world }: Ranks, own: T): Promise<T[]> {
  if (!world) return [own]
  return (await world.gatherTexts(JSON.stringify(own))).map((text) => JSON.parse(text) as T)
}

/** Each that the leader has not got itself with the rank whose it is. */
export function tellWarnings(output: Output, [leaders, ...others]: readonly (readonly string[])[]): void {
  for (const warning of leaders) warn(output, warning)
  for (const [i, warnings] of others.entries())
    for (const warning of warnings) if (!leaders.includes(warning)) warn(output, `rank ${i + 1}: ${warning}`)
}
