/**
 * A network that computes by itself, beside the one that is sampled: a first stage, a text encoder, a classifier. It has weights
 * and programs of its own on one device, which are there from its first use until they are given back.
 */
import { Device, type DeviceName } from '../device'
import { DiffusionError, markCopy } from '../errors'
import type { Graph, Value } from '../graph'
import { type Precision, type WeightFormat, weightFormats } from '../native'
import type { LoadResult, ParameterTable } from '../nn/parameters'
import type { TextContext } from '../nn/text/network'
import { type StateDict, Weights } from '../nn/weights'
import { boolean, oneOf, type SchemaOf, type Seed, seed, value } from '../options'
import { type Bindings, type CompileOptions, type Program, ProgramCache } from '../program'

/** What every stage's constructor takes beside the options of its network. */
export interface StageOptions {
  /** Where it is computed. Default 'auto'. */
  device?: DeviceName | Device
  /** What it is computed in; see ComputeOptions. Default 'fp32'. */
  precision?: Precision
  /** What weights of convolutions and linear layers are held in; see ComputeOptions. Default 'fp32'. */
  weightFormat?: WeightFormat
  /** Of the initial weights. Default 0. */
  seed?: Seed
  /** Fix every algorithm, so that results are the same bit for bit in any batch. Default false. */
  deterministic?: boolean
}

/** Its fields, for the schema of a stage's options. */
export const stageSchema = {
  device: value<DeviceName | Device>('a device name', (v) => typeof v === 'string' || v instanceof Device),
  precision: oneOf<Precision>(['fp32', 'fp16', 'bf16'], 'fp32'),
  weightFormat: oneOf(weightFormats, 'fp32'),
  seed: seed(0),
  deterministic: boolean(false),
} satisfies SchemaOf<StageOptions>

/** Of a stage's loadStateDict. */
export interface StageLoadOptions {
  /** Missing and unexpected names are errors. Default true. */
  strict?: boolean
}

/** Options as `stageSchema` gives them back. */
type ParsedStageOptions = Pick<StageOptions, 'device'> & Required<Omit<StageOptions, 'device'>>

/** What a stage's `encode` computes of one input, to become part of a graph: its own program's, or that of a training step. */
export interface StageNodes {
  /** Names everything that `build` depends on. */
  readonly key: string
  /** What the graph's inputs are, by names that a training step has no others of. */
  readonly bindings: Bindings
  /** Tokens [n, 1, length, channels], or a map [n, h, w, channels]. */
  build(context: TextContext): Value
}

/** Reads a stage's weights: when it is first used, and again after `offload()`. */
export type WeightsSource = () => Promise<StateDict>

export abstract class Stage {
  readonly device: Device
  readonly precision: Precision
  readonly weightFormat: WeightFormat
  /** Of the initial weights. */
  readonly seed: Seed
  readonly deterministic: boolean
  protected readonly weights: Weights
  readonly #programs: ProgramCache
  readonly #owner: string
  /** Undefined where the weights are drawn, or are no longer those of the source. */
  #source?: WeightsSource
  #loading?: Promise<void>
  #loaded = false
  /** Calls on their way, and all there have been. */
  #calls = { now: 0, begun: 0 }
  /** Told when no call is on its way. */
  #idle: (() => void)[] = []
  #disposed = false
  #trained?: { readonly weights: Weights; readonly offset: number }
  /** The training has changed them since they were copied. */
  #outdated = false

  /**
   * `owner` is named in messages, e.g. 'AutoencoderKL'. Nothing takes memory of the device yet. Throws `device-unavailable`, and
   * `unsupported` for a precision or a format of weights that the device has not got.
   */
  protected constructor(owner: string, parameters: ParameterTable, o: ParsedStageOptions, source?: WeightsSource) {
    this.#owner = owner
    this.#source = source
    this.device = Device.open(o.device)
    this.device.checkPrecision(o.precision)
    this.device.checkWeightFormat(o.weightFormat)
    this.precision = o.precision
    this.weightFormat = o.weightFormat
    this.seed = o.seed
    this.deterministic = o.deterministic
    parameters.hold(o.weightFormat)
    this.weights = new Weights(this.device, parameters, o.seed)
    this.#programs = new ProgramCache(this.device, undefined, this.weights)
  }

  /** True while its weights take memory of the device. */
  get loaded(): boolean {
    return this.weights.resident
  }

  /** Reads the weights now, where the first use would. Throws what reading them throws. */
  prepare(): Promise<void> {
    return this.call(() => {})
  }

  /** The weights by the names of the network's state_dict. Loads them where they are not. */
  stateDict(): Promise<StateDict> {
    return this.call(() => this.weights.read('weights'))
  }

  /**
   * Replaces the weights. Throws `state-mismatch` for wrong shapes and, with `strict` (default), for missing and unexpected names, before
   * anything is changed; without it, weights that are missing stay.
   */
  async loadStateDict(
    dict: StateDict,
    { strict = true }: StageLoadOptions = {},
  ): Promise<Pick<LoadResult, 'missing' | 'unexpected'>> {
    const isWhole = this.parameters.slots.every(({ name }) => Object.hasOwn(dict, name))
    // Those of the source are not read only to be replaced.
    return this.call(() => this.replaceWeights(dict, { strict }), { load: !strict && !isWhole })
  }

  /** Within a call. From then on they are kept, not read again. */
  protected async replaceWeights(dict: StateDict, options?: Parameters<Weights['write']>[2]) {
    const report = await this.weights.write('weights', dict, options)
    this.#source = undefined
    this.#handOver()
    return report
  }

  // ---- trained with a model ----------------------------------------------------------------------------------------

  /** @internal */
  get parameters(): ParameterTable {
    return this.weights.table
  }

  /**
   * @internal Has its weights trained as a part of a model's, from `offset` on in their banks: they go there now and whenever they are
   * replaced, and are what they have become there once `outdated` was called.
   */
  async follow(weights: Weights, offset: number): Promise<void> {
    await this.call(() => {
      this.#source = undefined
      this.#trained = { weights, offset }
      this.#handOver()
    })
  }

  /** @internal The training has changed the weights. */
  outdated(): void {
    this.#outdated = true
  }

  #handOver(): void {
    if (!this.#trained) return
    const { weights, offset } = this.#trained
    weights.bank('weights').copyFrom(this.weights.bank('weights'), 0, offset, this.parameters.count)
    this.#outdated = false
  }

  #catchUp(): void {
    if (!this.#trained || !this.#outdated) return
    const { weights, offset } = this.#trained
    this.weights.bank('weights').copyFrom(weights.bank('weights'), offset, 0, this.parameters.count)
    this.#outdated = false
  }

  /**
   * Gives the device's memory back when the calls on their way have ended; the next use takes it again. Weights that were read from
   * a file are read from it again, others are kept on the host.
   */
  async offload(): Promise<void> {
    for (;;) {
      while (this.#calls.now > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
      const { begun } = this.#calls
      const keep = this.#source ? undefined : await this.weights.copies()
      if (this.#disposed) return
      if (begun !== this.#calls.begun) continue // it was used meanwhile, and may have changed
      this.#programs.clear()
      this.weights.release(keep)
      this.#loaded = false
      return
    }
  }

  /** Bytes: what the device has, and what the stage's weights and programs take of it. */
  memoryInfo() {
    const programs = this.#programs.memory()
    const programBytes = Object.values(programs).reduce((sum, memory) => sum + memory.total, 0)
    return { device: this.device.memoryInfo(), programs, programBytes, weightBytes: this.weights.bytes }
  }

  /** Gives all memory back. Using it afterwards throws `disposed`. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#programs.release()
    this.weights.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /**
   * @internal Its memory stays on the device until the function returned is called: for those that use its programs and weights
   * beyond one call of it. Throws `disposed`.
   */
  hold(): () => void {
    this.alive()
    this.#calls.now++
    this.#calls.begun++
    const number = this.#programs.begin()
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#programs.end(number)
      if (--this.#calls.now > 0) return
      for (const tell of this.#idle.splice(0)) tell()
    }
  }

  /** Runs what a call of the user's does, with the weights loaded. Throws `disposed`, and what reading the weights throws. */
  protected async call<T>(fn: () => T | Promise<T>, { load = true } = {}): Promise<T> {
    const release = this.hold()
    try {
      await (load ? this.#load() : this.#loading)
      this.#catchUp()
      return await fn()
    } catch (error) {
      throw DiffusionError.ofAddon(error)
    } finally {
      release()
    }
  }

  /**
   * @internal One run of a program with the weights bound, as a call of its own: the outputs that `inputs` does not have. `key` must
   * name everything that `build` depends on.
   */
  compute(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
    inputs: Bindings,
  ): Promise<Record<string, Float32Array>> {
    return this.call(async () => {
      const program = await this.program(kind, key, build)
      return program.run({ ...this.weights.bindings('weights'), ...inputs })
    })
  }

  /** @internal A call of a training of it: from then on the weights are kept, not read again from where they came. */
  trained<T>(fn: (weights: Weights) => T | Promise<T>): Promise<T> {
    this.parameters.requireWide('training')
    return this.call(() => {
      this.#source = undefined
      return fn(this.weights)
    })
  }

  /** Within a call. `key` must name everything that `build` depends on. */
  protected program(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
  ): Promise<Program> {
    this.alive()
    const options: CompileOptions = { deterministic: this.deterministic, precision: this.precision }
    return this.#programs.getBeside(kind, key, build, options)
  }

  protected alive(): void {
    if (this.#disposed) throw new DiffusionError('disposed', `${this.#owner} was used after dispose()`)
  }

  async #load(): Promise<void> {
    if (!this.#source || this.#loaded) return
    this.#loading ??= this.#read(this.#source).finally(() => {
      this.#loading = undefined
    })
    await this.#loading
    this.alive()
  }

  async #read(source: WeightsSource): Promise<void> {
    const dict = await source()
    this.alive()
    await this.weights.write('weights', dict)
    this.#loaded = true
  }
}

markCopy(Stage)
