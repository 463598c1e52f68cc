/**
 * The parameters of a network: names and shapes as in the PyTorch state_dict, their places in one flat bank, how they
 * are initialised, and the way between the two layouts. A bank holds [out, kh, kw, in]; PyTorch has [out, in, kh, kw]; others: `Stored`.
 * What is multiplied may be held narrow (`hold`).
 */
import { DiffusionError, quote } from '../errors'
import type { ParameterSlot } from '../graph'
import type { WeightFormat } from '../native'
import type { Seed } from '../options'
import { pauses } from '../pause'
import { normal, Purpose, words } from '../rng'
import { sameShape, sizeOf, Tensor } from '../tensor'
import { type BankLayout, layOut } from './bank-layout'
import { reorder, type Stored } from './layout'

export type { Stored } from './layout'

/** Tensors by their state_dict names, in PyTorch's shapes. */
export type StateDict = Record<string, Tensor>

/** PyTorch's defaults; `fanIn`: U(-1/sqrt(fanIn), 1/sqrt(fanIn)), which is kaiming_uniform_ with a = sqrt(5). */
export type Initializer =
  | { readonly kind: 'zeros' | 'ones' }
  | { readonly kind: 'constant'; readonly value: number }
  | { readonly kind: 'normal'; readonly std: number; readonly mean: number }
  | { readonly kind: 'uniform'; readonly fanIn: number }

export const zeros: Initializer = { kind: 'zeros' }
export const ones: Initializer = { kind: 'ones' }
export const normalOf = (std: number, mean = 0): Initializer => ({ kind: 'normal', std, mean })
export const standardNormal = normalOf(1)
export const uniformFanIn = (fanIn: number): Initializer => ({ kind: 'uniform', fanIn })

/** What a weight is multiplied in. Biases, norms and tables are of none. */
export type LayerKind = 'linear' | 'conv2d'

export interface Parameter extends ParameterSlot {
  readonly stored?: Stored
  readonly initializer: Initializer
  readonly layer?: LayerKind
  readonly frozen: boolean
  readonly format: WeightFormat
}

export interface CheckOptions {
  /**
   * True (default): missing and unexpected names are errors, as in torch's load_state_dict. Wrong shapes always are.
   */
  strict?: boolean
  /** The dict is of what is trained only. Default false. */
  trainedOnly?: boolean
}

export interface LoadOptions extends CheckOptions {
  /** Banks whose values stay where the dict has no entry; they are not changed. Default: zeros. */
  into?: Float32Array
  frozenInto?: Float32Array
}

export interface CheckResult {
  /** The parameters that the dict has. */
  readonly given: readonly Parameter[]
  readonly missing: readonly string[]
  readonly unexpected: readonly string[]
}

/** The trained parameters' bank, and that of the frozen ones. */
export interface Banks {
  readonly flat: Float32Array
  readonly frozen: Float32Array
}

/** With new banks. */
export interface LoadResult extends Banks, Pick<CheckResult, 'missing' | 'unexpected'> {}

export class ParameterTable {
  readonly #slots: Parameter[] = []
  readonly #byName = new Map<string, Parameter>()
  /** By each of their members. */
  readonly #groups = new Map<Parameter, readonly Parameter[]>()
  readonly #frozen = new Set<Parameter>()
  /** Of those that are not float32. */
  readonly #formats = new Map<Parameter, WeightFormat>()
  /** The first slot of each table that was appended. */
  readonly #parts = new Set<Parameter>()
  /** Made when the first offset is asked for. */
  #layout?: BankLayout<Parameter>

  get slots(): readonly Parameter[] {
    return this.#slots
  }

  /** Elements, of four bytes, of a bank of what is trained, the gaps between slots included: a multiple of 16. */
  get count(): number {
    return this.#layOut().count
  }

  /** Elements of the bank of what is frozen, in the same way. */
  get frozenCount(): number {
    return this.#layOut().frozenCount
  }

  /** How many numbers there are, frozen ones too, without gaps. */
  get size(): number {
    return this.#slots.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  }

  get(name: string): Parameter | undefined {
    return this.#byName.get(name)
  }

  add(
    name: string,
    shape: readonly number[],
    initializer: Initializer,
    { layer, stored }: { layer?: LayerKind; stored?: Stored } = {},
  ): Parameter {
    if (this.#byName.has(name)) throw new DiffusionError('internal', `parameter '${name}' is defined twice`)
    this.#checkOpen(name)
    const placeOf = (slot: Parameter) => this.#layOut().places.get(slot)!
    const formatOf = (slot: Parameter) => this.#formats.get(slot) ?? 'fp32'
    const isFrozen = (slot: Parameter) => this.#frozen.has(slot)
    const slot: Parameter = Object.freeze({
      name,
      shape: Object.freeze([...shape]),
      initializer,
      layer,
      stored,
      graphShape: stored?.graphShape,
      get offset() {
        return placeOf(this).offset
      },
      get format() {
        return formatOf(this)
      },
      get scales() {
        return placeOf(this).scales
      },
      get frozen() {
        return isFrozen(this)
      },
    })
    this.#slots.push(slot)
    this.#byName.set(name, slot)
    return slot
  }

  /** Whether it has been used, since when nothing can be added, placed or frozen. */
  get isLaidOut(): boolean {
    return this.#layout !== undefined
  }

  /** Has these lie side by side in a bank, in this order, with no gap between those of a multiple of 16 numbers. */
  place(group: readonly Parameter[]): void {
    for (const slot of group) {
      this.#checkOpen(slot.name)
      if (this.#groups.has(slot)) throw new DiffusionError('internal', `parameter '${slot.name}' is in two groups`)
      this.#groups.set(slot, group)
    }
  }

  /** Those of these names are not trained: they lie in a bank of their own, and there is none of their gradients. */
  freeze(isFrozen: (name: string) => boolean): void {
    for (const slot of this.#slots.filter(({ name }) => isFrozen(name))) {
      this.#checkOpen(slot.name)
      this.#frozen.add(slot)
    }
  }

  /**
   * Has the weights of layers, frozen or not, held in a format, all else in float32. Throws `invalid-argument` where they lie in
   * another already.
   */
  hold(format: WeightFormat): void {
    const layers = this.#slots.filter(({ layer }) => layer !== undefined)
    const others = layers.filter((slot) => slot.format !== format)
    if (others.length > 0 && this.#layout) {
      const received = `one whose weights are held in ${quote(others[0].format)}`
      const message = `model: expected a network of its own, which no other model has, with weightFormat: ${quote(format)}; got ${received}`
      throw new DiffusionError('invalid-argument', message, { argument: 'model', received })
    }
    for (const slot of others) format === 'fp32' ? this.#formats.delete(slot) : this.#formats.set(slot, format)
  }

  /** The format of what is held narrow; 'fp32' where nothing is. */
  get format(): WeightFormat {
    return [...this.#formats.values()][0] ?? 'fp32'
  }

  /** Throws `unsupported` where weights are held narrow, which are not trained, and of which no file is written: they are rounded. */
  requireWide(what: string): void {
    if (this.format === 'fp32') return
    const message = `${what} needs weights in 'fp32', and these are held in '${this.format}', rounded: open the model with weightFormat: 'fp32'`
    throw new DiffusionError('unsupported', message, {
      argument: 'weightFormat',
      expected: "'fp32'",
      received: `'${this.format}'`,
    })
  }

  /**
   * Adds those of another table, with `prefix` before their names. They lie among themselves as they do there, after what is here. Closes
   * the other one.
   */
  append(other: ParameterTable, prefix: string): void {
    const copies = new Map(
      other.#slots.map((slot) => [slot, this.add(prefix + slot.name, slot.shape, slot.initializer, slot)]),
    )
    for (const group of new Set(other.#groups.values())) this.place(group.map((slot) => copies.get(slot)!))
    for (const slot of other.#frozen) this.#frozen.add(copies.get(slot)!)
    for (const [slot, format] of other.#formats) this.#formats.set(copies.get(slot)!, format)
    for (const slot of [...other.#parts, ...other.#slots.slice(0, 1)]) this.#parts.add(copies.get(slot)!)
    other.#layOut()
  }

  #layOut(): BankLayout<Parameter> {
    if (this.#layout) return this.#layout
    const parts: Parameter[][] = [[]]
    for (const slot of this.#slots) {
      if (this.#parts.has(slot)) parts.push([])
      parts.at(-1)!.push(slot)
    }
    this.#layout = layOut(parts, this.#groups)
    return this.#layout
  }

  #checkOpen(name: string): void {
    if (this.#layout) throw new DiffusionError('internal', `parameter '${name}' comes after the bank was laid out`)
  }

  /** Initial weights, of which `flat` are those that are trained: `initialBanks`. */
  initialize(seed: Seed): Float32Array {
    return this.initialBanks(seed).flat
  }

  /**
   * Initial weights. Parameter i is drawn from stream (seed, Purpose.weights, i), so that it does not depend
   * on the others; elements are counted in the bank's layout.
   */
  initialBanks(seed: Seed): Banks {
    this.#checkHost()
    const banks = { flat: new Float32Array(this.count), frozen: new Float32Array(this.frozenCount) }
    this.#slots.forEach((slot, index) => {
      const bank = slot.frozen ? banks.frozen : banks.flat
      fill(bank.subarray(slot.offset, slot.offset + sizeOf(slot.shape)), slot.initializer, seed, index)
    })
    return banks
  }

  /** Copies of a bank's parameters; with `frozen` also of those that are. */
  toStateDict(flat: Float32Array, frozen?: Float32Array): StateDict {
    return Object.fromEntries(this.entries(flat, frozen))
  }

  /** The same one by one. */
  *entries(flat: Float32Array, frozen?: Float32Array): Generator<[string, Tensor]> {
    for (const slot of this.#slots) {
      const bank = slot.frozen ? frozen : flat
      if (bank) yield [slot.name, Tensor.wrap(this.toTorch(bank, slot), slot.shape)]
    }
  }

  /** A copy of one parameter of its bank, in the order of its shape. */
  toTorch(bank: Float32Array, slot: ParameterSlot & Pick<Parameter, 'stored'>): Float32Array {
    const { shape, offset, frozen } = slot
    this.#checkBank(bank, frozen ? this.frozenCount : this.count)
    const data = new Float32Array(sizeOf(shape))
    reorder(bank.subarray(offset, offset + data.length), data, slot, 'toTorch')
    return data
  }

  /** Whether a dict fits. Throws `state-mismatch`, which names missing, unexpected and wrongly shaped entries. */
  check(dict: StateDict, { strict = true, trainedOnly = false }: CheckOptions = {}): CheckResult {
    const slots = trainedOnly ? this.#slots.filter(({ frozen }) => !frozen) : this.#slots
    const missing = slots.map(({ name }) => name).filter((name) => !Object.hasOwn(dict, name))
    const unexpected = Object.keys(dict).filter((name) => !this.#byName.has(name))
    const mismatched = slots.filter(({ name, shape }) => {
      return Object.hasOwn(dict, name) && !(sameShape(dict[name].shape, shape) && dict[name].dtype === 'float32')
    })
    if (mismatched.length > 0 || (strict && (missing.length > 0 || unexpected.length > 0))) {
      throw mismatch(dict, strict ? missing : [], strict ? unexpected : [], mismatched)
    }
    return { given: slots.filter(({ name }) => Object.hasOwn(dict, name)), missing, unexpected }
  }

  /** New banks of a dict. Throws as `check` does. */
  async fromStateDict(dict: StateDict, options: LoadOptions = {}): Promise<LoadResult> {
    const { into, frozenInto } = options
    if (into) this.#checkBank(into, this.count)
    if (frozenInto) this.#checkBank(frozenInto, this.frozenCount)
    const { given, missing, unexpected } = this.check(dict, options)
    this.#checkHost()
    const banks = {
      flat: into ? into.slice() : new Float32Array(this.count),
      frozen: frozenInto ? frozenInto.slice() : new Float32Array(this.frozenCount),
    }
    const pause = pauses()
    for (const slot of given) {
      const { name, offset, frozen } = slot
      await pause()
      const data = (await dict[name].values()) as Float32Array
      const bank = frozen ? banks.frozen : banks.flat
      reorder(data, bank.subarray(offset, offset + data.length), slot, 'fromTorch')
    }
    return { ...banks, missing, unexpected }
  }

  /** Banks on the host are float32; narrow ones are filled and read on the device (fill-bank.ts, weights.ts). */
  #checkHost(): void {
    if (this.format !== 'fp32') throw new DiffusionError('internal', `a bank of ${this.format} weights on the host`)
  }

  #checkBank(bank: Float32Array, count: number): void {
    this.#checkHost()
    if (bank.length === count) return
    throw new DiffusionError('invalid-argument', `a bank has ${count} elements, got ${bank.length}`, {
      argument: 'flat',
      expected: `${count} elements`,
      received: String(bank.length),
    })
  }
}

/** Where a layer registers its parameters: a table, and the prefix of their names. */
export class Scope {
  constructor(
    readonly table: ParameterTable,
    readonly prefix: string = '',
  ) {}

  at(name: string): Scope {
    return new Scope(this.table, this.prefix ? `${this.prefix}.${name}` : name)
  }

  parameter(
    name: string,
    shape: readonly number[],
    initializer: Initializer,
    layer?: LayerKind,
    stored?: Stored,
  ): Parameter {
    return this.table.add(this.at(name).prefix, shape, initializer, { layer, stored })
  }
}

function fill(target: Float32Array, initializer: Initializer, seed: Seed, index: number): void {
  if (initializer.kind === 'ones') target.fill(1)
  else if (initializer.kind === 'constant') target.fill(initializer.value)
  else if (initializer.kind === 'normal') {
    const { std, mean } = initializer
    target.set(normal(seed, Purpose.weights, index, 0, target.length).map((v) => mean + v * std))
  } else if (initializer.kind === 'uniform') {
    const bound = 1 / Math.sqrt(initializer.fanIn)
    const raw = words(seed, Purpose.weights, index, 0, target.length)
    // 23 bits and half of the last place, as in kernels/philox.h uniform01.
    for (let i = 0; i < raw.length; i++) target[i] = bound * (((raw[i] >>> 9) + 0.5) * 2 ** -22 - 1)
  }
}

/** Lists at most a few of each kind: a wrong file has hundreds. */
function mismatch(
  dict: StateDict,
  missing: readonly string[],
  unexpected: readonly string[],
  mismatched: readonly Parameter[],
): DiffusionError {
  const some = (names: readonly string[]) =>
    names.length > 5 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} more` : names.join(', ')
  const wrong = mismatched.map(({ name, shape }) => {
    const { shape: got, dtype } = dict[name]
    return `${name} (expected float32 [${shape.join(', ')}], got ${dtype} [${got.join(', ')}])`
  })
  const parts = [
    missing.length > 0 ? `missing: ${some(missing)}` : '',
    unexpected.length > 0 ? `unexpected: ${some(unexpected)}` : '',
    wrong.length > 0 ? `wrong shape: ${some(wrong)}` : '',
  ].filter(Boolean)
  return new DiffusionError('state-mismatch', `the state dict does not fit the network; ${parts.join('; ')}`, {
    argument: mismatched[0]?.name ?? missing[0] ?? unexpected[0],
    expected: mismatched[0] && `float32 [${mismatched[0].shape.join(', ')}]`,
    received: mismatched[0] && `${dict[mismatched[0].name].dtype} [${dict[mismatched[0].name].shape.join(', ')}]`,
  })
}
