/** The banks of a network's parameters on a device: flat buffers with one layout, nn/parameters.ts. */
import type { Device } from '../device'
import type { NativeBuffer } from '../native'
import type { Seed } from '../options'
import { pauses } from '../pause'
import type { LoadOptions, LoadResult, ParameterTable, StateDict } from './parameters'

export type { StateDict } from './parameters'

/** `m` and `v` are AdamW's moments, `ema` the averaged weights. The same names as a program's bindings. */
export type Bank = 'weights' | 'grads' | 'm' | 'v' | 'ema'

export class Weights {
  readonly #banks = new Map<Bank, NativeBuffer>()

  constructor(
    readonly device: Device,
    readonly table: ParameterTable,
    /** Of the initial weights. */
    readonly seed: Seed,
  ) {}

  /** Allocated when first asked for: `weights` with initial weights, the others with zeros (see `copy` for `ema`). */
  bank(name: Bank): NativeBuffer {
    let buffer = this.#banks.get(name)
    if (!buffer) {
      const { count } = this.table
      buffer = name === 'weights' ? this.device.upload(this.table.initialize(this.seed)) : this.device.allocate(count)
      this.#banks.set(name, buffer)
    }
    return buffer
  }

  /** True when the bank was asked for before, and so takes memory. */
  has(name: Bank): boolean {
    return this.#banks.has(name)
  }

  async read(name: Bank): Promise<StateDict> {
    const dict: StateDict = {}
    const pause = pauses()
    for (const [key, tensor] of this.table.entries(await this.bank(name).read())) {
      dict[key] = tensor
      await pause()
    }
    return dict
  }

  /**
   * Replaces the bank, or with `strict` false those entries that the dict has. Throws `state-mismatch` before anything
   * is changed.
   */
  async write(
    name: Bank,
    dict: StateDict,
    { strict = true }: Pick<LoadOptions, 'strict'> = {},
  ): Promise<Pick<LoadResult, 'missing' | 'unexpected'>> {
    const into = strict ? undefined : await this.bank(name).read()
    const { flat, missing, unexpected } = await this.table.fromStateDict(dict, { strict, into })
    // Not through bank(): drawing initial weights only to replace them would take longer than anything else here.
    const buffer = this.#banks.get(name)
    if (buffer) buffer.write(flat)
    else this.#banks.set(name, this.device.upload(flat))
    return { missing, unexpected }
  }

  /** On the device, in order. An average starts with `copy('weights', 'ema')`. */
  copy(from: Bank, to: Bank): void {
    this.bank(to).copyFrom(this.bank(from))
  }

  /** Frees the banks; asking for one again would allocate it anew. */
  release(): void {
    for (const buffer of this.#banks.values()) buffer.release()
    this.#banks.clear()
  }
}
