/** The running average of the weights: ldm ema.py's LitEma. The averages are the bank 'ema'. */
import type { Graph, Value } from '../../graph'
import type { Weights } from '../../nn/weights'
import type { Core } from '../process/core'

export const hyperLength = 16
/** Index of the decay in kernels/ops.h Hyper. */
const hyperEmaDecay = 9

/** The bank 'weights' averaged into the bank 'ema'; input hyper. */
export function emaNodes(g: Graph, count: number): Record<string, Value> {
  g.ema(g.input('hyper', [1, 1, 1, hyperLength]), { count })
  return {}
}

/** kernels/ops.h Hyper, of which an average reads the decay alone. */
export function hyperWithDecay(decay: number): Float32Array {
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
  async update(core: Core, weights: Weights, count: number): Promise<void> {
    const program = core.program('ema', { count }, (g) => emaNodes(g, count))
    await program.run({
      hyper: hyperWithDecay(this.advance()),
      weights: weights.bank('weights'),
      ema: weights.bank('ema'),
    })
  }
}
