/** The banks of a network's parameters on a device: flat buffers with one layout, nn/parameters.ts. */
import type { Device } from '../device'
import { DiffusionError } from '../errors'
import type { NativeBuffer, WeightFormat } from '../native'
import type { Seed } from '../options'
import { formatBytes, heldNumbers } from '../parameter-slot'
import { pauses } from '../pause'
import { sizeOf, Tensor } from '../tensor'
import { copySlot, drawInitial, fillBank } from './fill-bank'
import { restored } from './layout'
import type { LoadOptions, LoadResult, Parameter, ParameterTable, StateDict } from './parameters'

export type { StateDict } from './parameters'

/**
 * `m` and `v` are the optimizer's moments, `ema` the averaged weights; `frozen` is what is not trained. The same names as a program's
 * bindings.
 */
export type Bank = 'weights' | 'frozen' | 'grads' | 'm' | 'v' | 'ema' | FurtherEma | Gradients

/** A buffer that is to become a bank. */
interface Made {
  readonly name: Bank
  readonly buffer: NativeBuffer
  readonly given: readonly Parameter[]
  /** Whether these are all that are in the bank. */
  readonly replacesAll: boolean
  /** Whether the buffer has all that are in the bank. */
  readonly isWhole: boolean
}

/** Gradients: of what is summed, or of some of a step's batches. */
export type Gradients = 'grads' | `grads-${number}`

/** Averages beside `ema`. */
type FurtherEma = `ema-${number}`

/** Those that stand for all weights, together with what is frozen. */
type Whole = 'weights' | 'ema' | FurtherEma

export class Weights {
  readonly #banks = new Map<Bank, NativeBuffer>()
  /** What banks are made of that were released and kept: see `release`. */
  readonly #kept = new Map<Bank, Float32Array>()
  /** Why banks are not here whose numbers are kept elsewhere. */
  readonly #elsewhere = new Map<Bank, string>()
  #disposed = false

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

  /** Releases a bank whose numbers are kept elsewhere. To ask for it throws `state-mismatch`, which says `why`, until it is back. */
  giveUp(name: Bank, why: string): void {
    this.#banks.get(name)?.release()
    this.#banks.delete(name)
    this.#kept.delete(name)
    this.#elsewhere.set(name, why)
  }

  takeBack(name: Bank, buffer: NativeBuffer): void {
    this.#elsewhere.delete(name)
    this.#banks.set(name, buffer)
  }

  #make(name: Bank): void {
    const why = this.#elsewhere.get(name)
    if (why !== undefined) throw new DiffusionError('state-mismatch', why, { argument: name })
    const kept = this.#kept.get(name)
    if (kept) {
      this.#banks.set(name, this.device.upload(kept))
      this.#kept.delete(name)
      return
    }
    if (name !== 'weights' && name !== 'frozen') {
      this.#banks.set(name, this.#allocate(name))
      return
    }
    const bank = this.#allocate(name)
    drawInitial(bank, this.table, new Set(this.#slots(name)), this.seed)
    this.#banks.set(name, bank)
  }

  #allocate(name: Bank): NativeBuffer {
    const more = 4 * this.#count(name)
    this.#require(more, name)
    return this.device.allocate(this.#count(name))
  }

  /** Throws `out-of-memory` where the device has no room for so much of this network beside what it has of it. */
  #require(more: number, name: Bank): void {
    const what = name === 'ema' ? 'averaging the weights of a network' : 'a network'
    const { inUse } = this.device.memoryInfo()
    const advice = (limit: number) => [
      ...(name === 'ema' ? ['useEma: false'] : []),
      ...this.narrower(inUse + more - limit, [name]),
    ]
    this.device.require({ what, parts: { weights: this.bytes + more }, more, advice })
  }

  #count(name: Bank): number {
    return name === 'frozen' ? this.table.frozenCount : this.table.count
  }

  /** What lies in a bank. */
  #slots(name: Bank): readonly Parameter[] {
    return this.table.slots.filter(({ frozen }) => frozen === (name === 'frozen'))
  }

  /** True where all of the bank is on the device. */
  isWhole(name: Bank): boolean {
    return this.#banks.has(name)
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
    return this.#banks.has(name) || this.#kept.has(name) || this.#elsewhere.has(name)
  }

  /** True where any bank is on the device. */
  get resident(): boolean {
    return this.#banks.size > 0
  }

  /** That a bank will take which is not on the device; undefined for names that are no bank's. */
  missing(name: string): number | undefined {
    if (!isBank(name)) return undefined
    return this.#banks.has(name) ? 0 : 4 * this.#count(name)
  }

  /** Formats that would take `excess` bytes less of its banks, and those of `more`; none where it is trained, or has one. */
  narrower(excess: number, more: readonly Bank[] = ['weights', 'frozen']): string[] {
    if (this.table.format !== 'fp32' || this.has('grads')) return []
    const banks = new Set([...this.#banks.keys(), ...more])
    const layers = [...banks].flatMap((name) => this.#slots(name).filter(({ layer }) => layer !== undefined))
    const takes = (format: WeightFormat) =>
      layers.reduce((sum, { shape }) => {
        return sum + formatBytes[format] * sizeOf(shape) + (format === 'int8' ? 4 * shape[0] : 0)
      }, 0)
    return this.device
      .info()
      .weightFormats.filter((format) => format !== 'bf16' && takes('fp32') - takes(format) >= Math.max(1, excess))
      .map((format) => `weightFormat: '${format}', to sample alone`)
  }

  /** That the banks take on the device. */
  get bytes(): number {
    return [...this.#banks.values()].reduce((sum, { elements }) => sum + 4 * elements, 0)
  }

  /** As float32, whatever they are held in. `weights` and `ema` with what is frozen, the others without. */
  async read(name: Exclude<Bank, 'frozen'>): Promise<StateDict> {
    const slots = this.table.slots.filter(({ frozen }) => !frozen || isWhole(name))
    // Asked for at once: they are of one moment. Each is an array of its own, so that there is no copy of the whole bank beside them.
    const reads = slots.map((slot) => this.bank(slot.frozen ? 'frozen' : name).readAt(heldNumbers(slot)))
    const all = await Promise.all(reads)
    const dict: StateDict = {}
    const pause = pauses()
    for (const [i, slot] of slots.entries()) {
      dict[slot.name] = Tensor.wrap(await restored(all[i], slot, pause), slot.shape)
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
    o: Pick<LoadOptions, 'strict'> = {},
  ): Promise<Pick<LoadResult, 'missing' | 'unexpected'>> {
    const [result] = await this.writeAll([[name, dict]], o)
    return result
  }

  /** The same of several banks: all of them, or, where one can't be read, none. */
  async writeAll(
    dicts: readonly (readonly [name: Exclude<Bank, 'frozen'>, dict: StateDict])[],
    { strict = true }: Pick<LoadOptions, 'strict'> = {},
  ): Promise<Pick<LoadResult, 'missing' | 'unexpected'>[]> {
    const results = dicts.map(([name, dict]) => this.table.check(dict, { strict, trainedOnly: !isWhole(name) }))
    const made: Made[] = []
    try {
      for (const [i, [name, dict]] of dicts.entries()) {
        const names: Bank[] = this.#hasFrozen && name === 'weights' ? [name, 'frozen'] : [name]
        for (const bank of names) {
          const own = results[i].given.filter(({ frozen }) => frozen === (bank === 'frozen'))
          if (own.length > 0) made.push(await this.#makeOf(bank, own, dict))
        }
      }
    } catch (error) {
      for (const { buffer } of made) buffer.release()
      throw DiffusionError.ofAddon(error)
    }
    if (this.#disposed) {
      for (const { buffer } of made) buffer.release()
      throw new DiffusionError('disposed', 'the weights were disposed of while they were read')
    }
    for (const each of made) this.#install(each)
    return results.map(({ missing, unexpected }) => ({ missing, unexpected }))
  }

  /** A buffer beside the bank, which stays as it is if reading fails. Initial values are drawn only where the dict has none. */
  async #makeOf(name: Bank, given: readonly Parameter[], dict: StateDict): Promise<Made> {
    const missing = new Set(this.#slots(name))
    for (const slot of given) missing.delete(slot)
    const isWhole = missing.size === 0 || !this.has(name)
    const buffer = this.#allocate(name)
    try {
      if (isWhole && (name === 'weights' || name === 'frozen')) drawInitial(buffer, this.table, missing, this.seed)
      await fillBank(this.device, buffer, given, dict)
      return { name, buffer, given, replacesAll: missing.size === 0, isWhole }
    } catch (error) {
      buffer.release()
      throw error
    }
  }

  #install({ name, buffer, given, replacesAll, isWhole }: Made): void {
    if (replacesAll) this.#kept.delete(name)
    if (isWhole && !this.has(name)) {
      this.#banks.set(name, buffer)
      return
    }
    // The same buffer as before: others are bound to it.
    const bank = this.bank(name)
    if (replacesAll) bank.copyFrom(buffer)
    else for (const slot of given) copySlot(bank, buffer, slot)
    buffer.release()
  }

  /** On the device, in order. An average starts with `copy('weights', 'ema')`. */
  copy(from: Bank, to: Bank): void {
    this.#require(this.missing(from)! + (this.missing(to) ?? 0), to)
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

  /** The same for good: what is being read into them takes no memory any more. */
  dispose(): void {
    this.#disposed = true
    this.release()
  }
}

const bankNames: readonly string[] = ['weights', 'frozen', 'grads', 'm', 'v', 'ema']

function isBank(name: string): name is Bank {
  return bankNames.includes(name)
}

function isWhole(name: Bank): name is Whole {
  return name === 'weights' || name.startsWith('ema')
}
