/** The optimizer's state and the averages divided among ranks, each of which keeps and updates its own parts (native/graph/bank_parts.h). */
import { DiffusionError } from '../../errors'
import type { NativeBuffer } from '../../native'
import type { Bank, Weights } from '../../nn/weights'
import type { World } from '../../world'

export class Shards {
  /** Of the banks that are divided, this rank's parts, one after the other. */
  readonly #own = new Map<Bank, NativeBuffer>()
  readonly #ranges: readonly { readonly begin: number; readonly length: number }[]
  readonly #length: number

  constructor(
    readonly weights: Weights,
    readonly world: World,
  ) {
    this.#ranges = world.ownParts(weights.table.count)
    this.#length = this.#ranges.reduce((sum, { length }) => sum + length, 0)
  }

  /** What the graph's methods are told. */
  get shard(): { readonly rank: number; readonly ranks: number } {
    return { rank: this.world.rank, ranks: this.world.size }
  }

  /** True where some banks are not whole. */
  get areDivided(): boolean {
    return this.#own.size > 0
  }

  /** This rank's parts of a bank. One that is whole is divided: what the others have of it is released here. */
  bank(name: Bank): NativeBuffer {
    const known = this.#own.get(name)
    if (known) return known
    const own = this.weights.device.allocate(Math.max(1, this.#length))
    if (this.weights.has(name)) {
      const whole = this.weights.bank(name)
      let at = 0
      for (const { begin, length } of this.#ranges) {
        own.copyFrom(whole, begin, at, length)
        at += length
      }
    }
    this.weights.giveUp(name, `'${name}' is divided among ${this.world.size} ranks: gatherShards() on all of them`)
    this.#own.set(name, own)
    return own
  }

  /** Makes all banks whole on all ranks, which call it at the same place. Throws `rank-failed`, `out-of-memory`. */
  async gather(): Promise<void> {
    for (const [name, own] of [...this.#own]) {
      const whole = this.weights.device.allocate(this.weights.table.count)
      let at = 0
      for (const { begin, length } of this.#ranges) {
        whole.copyFrom(own, at, begin, length)
        at += length
      }
      try {
        await this.world.gatherParts(whole)
      } catch (error) {
        whole.release()
        throw error
      }
      this.weights.takeBack(name, whole)
      this.#own.delete(name)
      own.release()
    }
  }

  /** Zeros in place of what a bank has. */
  clear(names: readonly Bank[]): void {
    for (const name of names) this.#own.get(name)?.clear()
  }

  /** Throws `state-mismatch` where some banks are not whole. */
  mustBeWhole(): void {
    if (!this.areDivided) return
    const names = [...this.#own.keys()].join(', ')
    throw new DiffusionError(
      'state-mismatch',
      `${names} are divided among ranks: gatherShards() on all of them first`,
      {
        argument: 'shardOptimizer',
        expected: 'whole banks',
        received: `${names} in ${this.world.size} parts`,
      },
    )
  }
}
