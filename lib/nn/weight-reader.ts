/** Reads a network's parameters from a device one at a time, so that there is never a copy of all of them. */
import { DiffusionError } from '../errors'
import type { NativeBuffer } from '../native'
import { heldNumbers, type ParameterSlot } from '../parameter-slot'
import { pauses } from '../pause'
import { restored } from './layout'

export class WeightReader {
  readonly #buffers: NativeBuffer[]
  /** Asked for before anything is read. */
  readonly #versions: Promise<number[]>

  readonly #pause = pauses()

  /** `banks`: of the network's table, or longer ones that begin with it. */
  constructor(private readonly banks: { readonly weights: NativeBuffer; readonly frozen?: NativeBuffer }) {
    this.#buffers = [banks.weights, ...(banks.frozen ? [banks.frozen] : [])]
    this.#versions = this.#ask()
    this.#versions.catch(() => {}) // `check` says so, where it comes to that
  }

  /** In the order of the shape that it has in a graph. */
  async read(slot: ParameterSlot): Promise<Float32Array> {
    const bank = slot.frozen ? this.banks.frozen! : this.banks.weights
    const numbers = await bank.readAt(heldNumbers(slot))
    return restored(numbers, { shape: slot.graphShape ?? slot.shape }, this.#pause)
  }

  /** Throws `busy` where what was read is not of one moment. */
  async check(): Promise<void> {
    const [before, after] = [await this.#versions, await this.#ask()]
    if (before.join() === after.join()) return
    throw new DiffusionError('busy', 'the weights were changed, by training or loading, while they were read')
  }

  #ask(): Promise<number[]> {
    return Promise.all(this.#buffers.map((buffer) => buffer.version()))
  }
}
