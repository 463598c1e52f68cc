/** The banks of a network's parameters on a device: flat buffers with one layout, nn/parameters.ts. */
import type { Device } from '../device'
import { DiffusionError } from '../errors'
import type { NativeBuffer } from '../native'
import type { Seed } from '../options'
import { pauses } from '../pause'
import type { LoadOptions, LoadResult, Parameter, ParameterTable, StateDict } from './parameters'

export type { StateDict } from './parameters'

/**
 * `m` and `v` are the optimizer's moments, `ema` the averaged weights; `frozen` is what is not trained. The same names as a program's
 * bindings.
 */
export type Bank = 'weights' | 'frozen' | 'grads' | 'm' | 'v' | 'ema' | FurtherEma

/** Numbers that are uploaded at a time. */
const piece = 2 ** 24

/** Averages beside `ema`. */
type FurtherEma = `ema-${number}`

/** Those that stand for all weights, together with what is frozen. */
type Whole = 'weights' | 'ema' | FurtherEma

export class Weights {
  readonly #banks = new Map<Bank, NativeBuffer>()
  /** What banks are made of that were released and kept: see `release`. */
  readonly #kept = new Map<Bank, Float32Array>()

  constructor(
    readonly device: Device,
    readonly table: ParameterTable,
    /** Of the initial weights. */
    readonly seed: Seed,
  ) {}

  /** Allocated when first asked for: `weights` and `frozen` with initial weights, others with zeros (see `copy` for `ema`). */
  bank(name: Bank): NativeBuffer {
    if (!this.#banks.has(name)) this.#make(name)
    return this.#banks.get(name)!
  }

  #make(name: Bank): void {
    const kept = this.#kept.get(name)
    if (kept) {
      this.#banks.set(name, this.device.upload(kept))
      this.#kept.delete(name)
      return
    }
    if (name !== 'weights' && name !== 'frozen') {
      this.#banks.set(name, this.device.allocate(this.table.count))
      return
    }
    const { flat, frozen } = this.table.initialBanks(this.seed)
    if (!this.#banks.has('weights')) this.#banks.set('weights', this.device.upload(flat))
    if (frozen.length > 0 && !this.#banks.has('frozen')) this.#banks.set('frozen', this.device.upload(frozen))
  }

  /** What a program of the network is bound to. */
  bindings(name: Whole): { readonly weights: NativeBuffer; readonly frozen?: NativeBuffer } {
    return { weights: this.bank(name), ...(this.#hasFrozen && { frozen: this.bank('frozen') }) }
  }

  get #hasFrozen(): boolean {
    return this.table.frozenCount > 0
  }

  /** True when the bank was asked for before, and so takes memory, or did until it was released and kept. */
  has(name: Bank): boolean {
    return this.#banks.has(name) || this.#kept.has(name)
  }

  /** True where any bank is on the device. */
  get resident(): boolean {
    return this.#banks.size > 0
  }

  /** That the banks take on the device. */
  get bytes(): number {
    return [...this.#banks.values()].reduce((sum, { elements }) => sum + 4 * elements, 0)
  }

  /** `weights` and `ema` with what is frozen, the others without. */
  async read(name: Exclude<Bank, 'frozen'>): Promise<StateDict> {
    const withFrozen = this.#hasFrozen && isWhole(name)
    const [flat, frozen] = await Promise.all([
      this.bank(name).read(),
      withFrozen ? this.bank('frozen').read() : undefined,
    ])
    const dict: StateDict = {}
    const pause = pauses()
    for (const [key, tensor] of this.table.entries(flat, frozen)) {
      dict[key] = tensor
      await pause()
    }
    return dict
  }

  /**
   * Replaces the bank, and with `weights` what is frozen; with `strict` false those entries that the dict has. Frozen entries among
   * averages are not looked at: they are the weights'. Throws `state-mismatch` before anything is changed.
   */
  async write(
    name: Exclude<Bank, 'frozen'>,
    dict: StateDict,
    { strict = true }: Pick<LoadOptions, 'strict'> = {},
  ): Promise<Pick<LoadResult, 'missing' | 'unexpected'>> {
    const replacesFrozen = this.#hasFrozen && name === 'weights'
    const trainedOnly = !isWhole(name)
    // What is replaced as a whole is not drawn and read only for that.
    const stays = ({ name: own, frozen }: Parameter) => !(frozen && trainedOnly) && !Object.hasOwn(dict, own)
    const fills = !strict && this.table.slots.some(stays)
    const into = fills ? await this.bank(name).read() : undefined
    const frozenInto = fills && replacesFrozen ? await this.bank('frozen').read() : undefined
    const { flat, frozen, missing, unexpected } = await this.table.fromStateDict(dict, {
      strict,
      into,
      frozenInto,
      trainedOnly,
    })
    await this.#replace(name, flat)
    if (replacesFrozen) await this.#replace('frozen', frozen)
    return { missing, unexpected }
  }

  /** Not through bank(): drawing initial weights only to replace them would take longer than anything else here. */
  async #replace(name: Bank, data: Float32Array): Promise<void> {
    this.#kept.delete(name)
    const made = this.#banks.has(name) ? undefined : await this.#uploaded(data)
    const buffer = this.#banks.get(name)
    if (!buffer && made) {
      this.#banks.set(name, made)
      return
    }
    made?.release() // the bank was asked for meanwhile
    buffer!.write(data)
  }

  /** In pieces, each of which is copied for the device's thread: not all of it at once. */
  async #uploaded(data: Float32Array): Promise<NativeBuffer> {
    const buffer = this.device.allocate(data.length)
    try {
      for (let at = 0; at < data.length; at += piece) {
        buffer.write(data.subarray(at, at + piece), at)
        if (at + piece < data.length) await this.device.synchronize()
      }
      return buffer
    } catch (error) {
      buffer.release()
      throw DiffusionError.ofAddon(error)
    }
  }

  /** On the device, in order. An average starts with `copy('weights', 'ema')`. */
  copy(from: Bank, to: Bank): void {
    this.bank(to).copyFrom(this.bank(from))
  }

  /** What is in the banks, for `release`. */
  async copies(): Promise<Map<Bank, Float32Array>> {
    const copies = await Promise.all(
      [...this.#banks].map(async ([name, buffer]) => [name, await buffer.read()] as const),
    )
    return new Map([...this.#kept, ...copies])
  }

  /** Frees the banks; asking for one again makes it of `keep`, or anew. */
  release(keep: ReadonlyMap<Bank, Float32Array> = new Map()): void {
    for (const buffer of this.#banks.values()) buffer.release()
    this.#banks.clear()
    this.#kept.clear()
    for (const [name, data] of keep) this.#kept.set(name, data)
  }
}

function isWhole(name: Bank): name is Whole {
  return name === 'weights' || name.startsWith('ema')
}
