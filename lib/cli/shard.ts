/** `--shard`: a part of what the same command does without it. */
import type { PartHeader } from '../data/parts/part-file'
import type { Device } from '../device'
import { DiffusionError } from '../errors'
import { type Shard, type ShardSpan, shardOf } from '../shard'
import { type OptionTable, UsageError } from './args'
import type { Span } from './draw'
import { type Output, warn } from './output'

export const shardOption = {
  shard: {
    kind: 'string',
    value: 'k/n',
    help: 'part k of n, 1/n to n/n, for ddpm merge; auto or auto/n: by Slurm, Kubernetes or mpirun',
  },
} as const satisfies OptionTable

/** A part of images with numbers. */
export interface SpanShard extends ShardSpan {
  readonly whole: Span
}

/** Throws UsageError for a shard that there is not. */
export function shardOfSpan(shard: string, whole: Span, batchSize: number): SpanShard {
  const part = inUsage(() => shardOf({ shard, count: whole.count, batchSize }))
  return { ...part, whole, first: whole.first + part.first }
}

/** Which it is, before it is known of how many images. Throws UsageError. */
export function shardGiven(shard: string): Shard {
  return inUsage(() => shardOf({ shard, count: Number.MAX_SAFE_INTEGER }))
}

function inUsage<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof DiffusionError) throw new UsageError(`--${error.message}`)
    throw error
  }
}

/** `record`: what says how the whole is made, but for its length. */
export function partOf(
  { index, total, first, count, whole }: SpanShard,
  record: Readonly<Record<string, string>>,
  device: Device,
): PartHeader {
  return {
    shard: { index, total },
    first,
    count,
    whole: { ...record, count: String(whole.count) },
    device: deviceText(device),
  }
}

/** On what the last bits may depend. */
export function deviceText(device: Device): string {
  const { isa, name } = device.info()
  return `${device.backend}, ${device.backend === 'cuda' ? name : isa}`
}

/** Parts are looked for by their names, so that none is written under another. */
export function namePart(overwrite: boolean, advice = '--overwrite replaces it') {
  return async (wanted: string, taken: (name: string) => Promise<boolean>): Promise<string> => {
    if (overwrite || !(await taken(wanted))) return wanted
    throw new UsageError(`${wanted} is there already: ${advice}`)
  }
}

/** Where parts were computed by several, whose bits may differ. */
export function tellDevices(output: Output, parts: readonly Pick<PartHeader, 'device'>[]): void {
  const devices = [...new Set(parts.map(({ device }) => device))]
  if (devices.length < 2) return
  const what = `the parts were computed by different devices (${devices.join('; ')})`
  warn(output, `${what}: the last bits may differ from those of one`)
}
