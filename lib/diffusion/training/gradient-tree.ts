/**
 * The sum of the gradients of a step's batches, in an order that does not depend on which process computed which: a binary tree over
 * the batches 0, 1, 2, ... of the step, of all ranks (native/graph/rank_sum.h).
 */
import { DiffusionError } from '../../errors'
import type { NativeBuffer } from '../../native'
import type { Gradients, StateDict, Weights } from '../../nn/weights'

export interface Accumulation {
  /** The sum of their gradients, by the network's names, or of as many of them as make a power of two. */
  gradients: StateDict
  /** The sums of those after these, in the same way. Default none. */
  further?: StateDict[]
  /** How many batches they are (default 1), */
  batches?: number
  /** of the step's, from this one on (default 0): that of a rank. */
  first?: number
  /** Samples that they are of. */
  samples: number
  /** What they are multiplied by, with precision 'fp16'. */
  scale: number
}

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
function nodeLengths(first: number, count: number): number[] {
  const lengths: number[] = []
  for (let at = first; at < first + count; at += lengths.at(-1)!) {
    let size = 1
    while (at % (2 * size) === 0 && at + 2 * size <= first + count) size *= 2
    lengths.push(size)
  }
  return lengths
}

/** The sums of an accumulation, and how many batches each is of. Throws `state-mismatch`. */
export function sumsOf(accumulation: Accumulation | undefined) {
  if (!accumulation) return { first: 0, sums: [] }
  const { gradients, further = [], batches = 1, first = 0 } = accumulation
  const dicts = [gradients, ...further]
  const areCounts = Number.isSafeInteger(first) && first >= 0 && Number.isSafeInteger(first + batches) && batches > 0
  const lengths = areCounts ? nodeLengths(first, batches) : []
  if (lengths.length === dicts.length) return { first, sums: dicts.map((dict, i) => ({ dict, length: lengths[i] })) }
  const what = areCounts ? `are ${lengths.length} sums` : "there can't be"
  throw new DiffusionError('state-mismatch', `${batches} batches from ${first} on ${what}`, {
    argument: 'accumulation',
    expected: areCounts ? String(lengths.length) : 'whole numbers of batches',
    received: String(areCounts ? dicts.length : batches),
  })
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

  /** The sum of all. The tree is empty then. */
  sum(): Gradients {
    while (this.#nodes.length > 1) this.#join()
    return this.#nodes.pop()!.bank
  }

  /** Adds to a bank that was taken. Where that fails, the bank is free. */
  async keep<T>(bank: Gradients, add: () => Promise<T>): Promise<T> {
    try {
      return await add()
    } catch (error) {
      this.free(bank)
      throw error
    }
  }

  /**
   * Runs what leaves a bank zero, and has no more need of what the tree has, which is empty then: what is asked for after it can take the
   * banks again. Those of the nodes are given by the names that `Graph.sumRanks` has for them.
   */
  async spend<T>(bank: Gradients, use: (earlier: Record<string, NativeBuffer>) => Promise<T>): Promise<T> {
    const earlier = this.#nodes.splice(0).map((node) => node.bank)
    const buffers = earlier.map((name, i) => [`earlier-${i}`, this.weights.bank(name)])
    let used: Promise<T>
    try {
      used = use(Object.fromEntries(buffers))
    } catch (error) {
      for (const name of [bank, ...earlier]) this.free(name)
      throw error
    }
    for (const name of earlier) this.free(name)
    this.#spare.push(bank)
    try {
      return await used
    } catch (error) {
      this.#wipe(bank)
      throw error
    }
  }

  /** To be taken again. */
  free(bank: Gradients): void {
    this.#wipe(bank)
    this.#spare.push(bank)
  }

  #wipe(bank: Gradients): void {
    if (!this.weights.has(bank)) return // what is made anew is zero
    try {
      this.weights.bank(bank).clear()
    } catch {
      // The device is closed, and no bank is left.
    }
  }

  clear(): void {
    for (const { bank } of this.#nodes.splice(0)) this.free(bank)
  }
}
