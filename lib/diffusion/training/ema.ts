/** The running average of the weights: ldm ema.py's LitEma. The averages are the bank 'ema'. */
import type { Graph } from '../../graph'
import type { Bank, Weights } from '../../nn/weights'
import type { Core } from '../process/core'
import type { Shards } from './shards'

export const hyperLength = 16
/** Index of the decay in kernels/ops.h Hyper. */
const hyperEmaDecay = 9

/** The bank 'weights' averaged into the bank 'ema', once; of a rank that shares the averages with others, into its own parts. */
export function average(
  core: Core,
  { weights, shards, bank, decay }: { weights: Weights; shards?: Shards; bank: Bank; decay: number },
): Promise<unknown> {
  const { count } = weights.table
  const shard = shards?.shard
  const build = (g: Graph) => {
    g.ema(g.input('hyper', [1, 1, 1, hyperLength]), { count, shard })
    return {}
  }
  const ema = shards ? shards.bank(bank) : weights.bank(bank)
  return core
    .program('ema', { count, ...shard }, build)
    .run({ hyper: hyperWithDecay(decay), weights: weights.bank('weights'), ema })
}

/** kernels/ops.h Hyper, of which an average reads the decay alone. */
function hyperWithDecay(decay: number): Float32Array {
  const hyper = new Float32Array(hyperLength)
  hyper[hyperEmaDecay] = decay
  return hyper
}

export class LitEma {
  /** How often it was updated; -1: the decay is constant. */
  numUpdates: number

  /** `useNumUpdates`: while there are few updates, average over few: decay = min(decay, (1 + n) / (10 + n)). */
  constructor(
    public decay = 0.9999,
    useNumUpdates = true,
  ) {
    this.numUpdates = useNumUpdates ? 0 : -1
  }

  /** Counts an update and returns the decay to use for it. */
  advance(): number {
    if (this.numUpdates < 0) return this.decay
    this.numUpdates += 1
    return Math.min(this.decay, (1 + this.numUpdates) / (10 + this.numUpdates))
  }

  /** Takes an update back that was counted and not made. */
  retreat(): void {
    if (this.numUpdates > 0) this.numUpdates -= 1
  }

  /** Averages the weights in once. */
  async update(core: Core, weights: Weights, shards?: Shards): Promise<void> {
    await average(core, { weights, shards, bank: 'ema', decay: this.advance() })
  }
}
