/**
 * The sum of the gradients of a step's batches, in an order that does not depend on which process computed which: a binary tree over
 * the batches 0, 1, 2, ... of the step, of all ranks (native/runtime/bank_sum.h).
 */
import type { Gradients, Weights } from '../../nn/weights'
import type { World } from '../../world'

/** The sum of the batches [first, end), which begins at a multiple of its length, a power of two. */
interface Node {
  readonly first: number
  readonly end: number
  readonly bank: Gradients
}

/** Whether two nodes are the halves of one. */
function areHalves(left: Node, right: Node): boolean {
  const size = left.end - left.first
  return size === right.end - right.first && left.end === right.first && left.first % (2 * size) === 0
}

/** The nodes' lengths that `count` batches from `first` on make, in order. */
export function nodeLengths(first: number, count: number): number[] {
  const lengths: number[] = []
  for (let at = first; at < first + count; at += lengths.at(-1)!) {
    let size = 1
    while (at % (2 * size) === 0 && at + 2 * size <= first + count) size *= 2
    lengths.push(size)
  }
  return lengths
}

export class GradientTree {
  readonly #nodes: Node[] = []
  /** Banks of zeros that nobody uses. */
  readonly #spare: Gradients[] = []
  #made = 0

  constructor(readonly weights: Weights) {}

  /** The first batch that is in it, of those of the step. */
  get first(): number {
    return this.#nodes[0]?.first ?? 0
  }

  /** How many are in it. */
  get batches(): number {
    return (this.#nodes.at(-1)?.end ?? 0) - this.first
  }

  /** Of the nodes, in order. */
  get banks(): Gradients[] {
    return this.#nodes.map(({ bank }) => bank)
  }

  /** A bank of zeros, for the gradients of a batch: `grads` where that is free. */
  take(): Gradients {
    const name = this.#spare.pop()
    if (name) return name
    this.#made += 1
    return this.#made === 1 ? 'grads' : `grads-${this.#made - 1}`
  }

  /** `bank` has the sum of `length` batches, which come after those in it; `first` says which they are where there are none. */
  push(bank: Gradients, first: number, length = 1): void {
    const begin = this.#nodes.at(-1)?.end ?? first
    this.#nodes.push({ first: begin, end: begin + length, bank })
    while (this.#nodes.length > 1 && areHalves(this.#nodes.at(-2)!, this.#nodes.at(-1)!)) this.#join()
  }

  #join(): void {
    const right = this.#nodes.pop()!
    const left = this.#nodes.pop()!
    this.weights.bank(left.bank).add(this.weights.bank(right.bank))
    this.#nodes.push({ ...left, end: right.end })
    this.free(right.bank)
  }

  /** The sum of all, with those of the other ranks, each of which has `share` batches. The tree is empty then. */
  async sum(world: World | undefined, share: number): Promise<Gradients> {
    if (world) {
      const banks = this.banks.map((name) => this.weights.bank(name))
      await world.sumBanks(banks, share)
    }
    while (!world && this.#nodes.length > 1) this.#join()
    const [whole, ...rest] = this.#nodes.splice(0)
    for (const { bank } of rest) this.free(bank)
    return whole.bank
  }

  /** To be taken again. */
  free(bank: Gradients, isZero = false): void {
    if (!isZero) this.weights.bank(bank).clear()
    this.#spare.push(bank)
  }

  clear(): void {
    for (const { bank } of this.#nodes.splice(0)) this.free(bank)
  }
}
