/** Compiled graphs, with the buffers that their inputs and outputs pass through, and a cache of them. */
import type { Device } from './device'
import { DiffusionError, invalidArgument } from './errors'
import { Graph, type Value } from './graph'
import type { NativeBuffer, NativeProgram, NativeRun, Precision, ProgramStep } from './native'
import { type ProgramUse, reserve, type WeightsMemory } from './program-memory'

/** What an input can be bound to: memory of the device, or numbers to be copied there. */
export type Binding = NativeBuffer | Float32Array | Int32Array
export type Bindings = Readonly<Record<string, Binding>>

export interface CompileOptions {
  /** Fix every algorithm whatever the batch size and the number of threads. */
  deterministic: boolean
  /** Default 'fp32'. Throws `unsupported` where the device does not have it. */
  precision?: Precision
  /** A convolution algorithm wherever it is possible, by its number in kernels/ops.h: for tests and benchmarks. */
  forceAlgo?: number
  /**
   * The most memory, in bytes, that goes into packed copies of weights beside them, of this program, which save time, on a backend that can
   * do without (the CPU). Fewer where the device's memoryLimit leaves no more. Default: 192 MiB.
   */
  packedBytes?: number
}

type Build = (graph: Graph) => Record<string, Value>

interface Built {
  readonly graph: Graph
  readonly outputs: Readonly<Record<string, Value>>
  readonly ids: Record<string, number>
}

function buildGraph(build: Build): Built {
  const graph = new Graph()
  const outputs = build(graph)
  return { graph, outputs, ids: Object.fromEntries(Object.entries(outputs).map(([name, { id }]) => [name, id])) }
}

export class Program {
  readonly #native: NativeProgram
  readonly #device: Device
  readonly #outputs: Readonly<Record<string, number>>
  readonly #rows: ReadonlyMap<string, number>
  readonly #constants: Readonly<Record<string, NativeBuffer>>
  /** Where numbers are copied to and results from, by name; allocated when first needed. */
  readonly #staging = new Map<string, NativeBuffer>()

  private constructor(device: Device, { graph, outputs }: Built, native: NativeProgram) {
    this.#device = device
    this.#native = native
    this.#rows = graph.rows
    this.#outputs = Object.fromEntries(
      Object.entries(outputs).map(([name, { dims }]) => [name, dims[0] * dims[1] * dims[2] * dims[3]]),
    )
    this.#constants = Object.fromEntries([...graph.constants].map(([name, data]) => [name, device.upload(data)]))
    if (process.env.DDPM_DEBUG?.split(',').includes('plan')) process.stderr.write(`${native.describe()}\n`)
  }

  /** `build` adds the nodes and returns the outputs by name. Takes seconds where algorithms are chosen by times. */
  static compile(device: Device, build: Build, options: CompileOptions, use: ProgramUse = {}): Program {
    try {
      const built = buildGraph(build)
      const compile = (more: Partial<CompileOptions>) =>
        built.graph.native.compile(device.native, built.ids, { ...options, ...more, reserve: false })
      const again = (packedBytes: number) => compile({ packedBytes })
      return new Program(device, built, reserve(device, compile({}), again, use))
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }

  /** The same without holding up JavaScript, where that takes seconds. */
  static async compileBeside(
    device: Device,
    build: Build,
    options: CompileOptions,
    use: ProgramUse = {},
  ): Promise<Program> {
    if (!device.native.timesAlgorithms || options.deterministic) return Program.compile(device, build, options, use)
    try {
      const { graph, outputs, ids } = buildGraph(build)
      const own = { ...options, reserve: false }
      const native = await graph.native.compileBeside(device.native, ids, own)
      const again = (packedBytes: number) => graph.native.compile(device.native, ids, { ...own, packedBytes })
      return new Program(device, { graph, outputs, ids }, reserve(device, native, again, use))
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }

  /**
   * Runs once. Outputs that `bindings` does not have are read back and returned by name. Copies, run and reads are asked
   * for before this returns, so that calls that overlap don't disturb each other and happen in the order they were made.
   * Throws `invalid-argument` for an Int32Array that picks rows which a table does not have.
   */
  async run(bindings: Bindings): Promise<Record<string, Float32Array>> {
    try {
      const bound: Record<string, NativeBuffer> = { ...this.#constants }
      for (const [name, binding] of Object.entries(bindings)) {
        if (!ArrayBuffer.isView(binding)) {
          bound[name] = binding
          continue
        }
        if (binding instanceof Int32Array) checkRows(name, binding, this.#rows.get(name))
        bound[name] = this.#stage(name, binding.length)
        bound[name].write(binding)
      }
      const wanted = Object.entries(this.#outputs).filter(([name]) => !(name in bound))
      for (const [name, elements] of wanted) bound[name] = this.#stage(name, elements)
      const [, ...results] = await Promise.all([
        this.#native.run(bound),
        ...wanted.map(([name, elements]) => bound[name].read(0, elements)),
      ])
      return Object.fromEntries(wanted.map(([name], i) => [name, results[i]]))
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }

  /** A run for a queue (run-queue.ts). */
  runWith(bindings: Readonly<Record<string, NativeBuffer>>): NativeRun {
    return { program: this.#native, bindings: { ...this.#constants, ...bindings } }
  }

  #stage(name: string, elements: number): NativeBuffer {
    let buffer = this.#staging.get(name)
    if (buffer && buffer.elements !== elements) {
      buffer.release()
      buffer = undefined
    }
    if (!buffer) {
      buffer = this.#device.allocate(elements)
      this.#staging.set(name, buffer)
    }
    return buffer
  }

  /** Bytes on the device, staging and constants included. */
  memory(): { arena: number; packed: number; scratch: number; staging: number; total: number } {
    const { arena, packed, scratch, total } = this.#native.memory()
    let staging = 0
    for (const buffer of [...this.#staging.values(), ...Object.values(this.#constants)]) staging += 4 * buffer.elements
    return { arena, packed, scratch, staging, total: total + staging }
  }

  /** How its runs were issued; see NativeProgram. */
  launches(): { direct: number; recorded: number; replayed: number } {
    return this.#native.launches()
  }

  describe(): string {
    return this.#native.describe()
  }

  /** The steps as data; see NativeProgram. */
  steps(): readonly ProgramStep[] {
    return this.#native.steps()
  }

  release(): void {
    this.#native.release()
    for (const buffer of [...this.#staging.values(), ...Object.values(this.#constants)]) buffer.release()
    this.#staging.clear()
  }
}

function checkRows(name: string, indices: Int32Array, rows: number | undefined): void {
  if (rows === undefined) return
  for (const index of indices)
    if (index < 0 || index >= rows) throw invalidArgument(name, `rows from 0 to ${rows - 1}`, index)
}

type ProgramKey = Readonly<Record<string, string | number | boolean>>

const nameOf = (kind: string, key: ProgramKey, options: CompileOptions) =>
  `${kind} ${JSON.stringify({ ...key, ...options })}`

/** Of a key that has it, or the shape. */
function batchOf({ n, shape }: ProgramKey): number | undefined {
  const batch = typeof n === 'number' ? n : Number.parseInt(String(shape), 10)
  return batch > 0 ? batch : undefined
}

/** A program, and the number of the first call that can't have it. */
interface Cached {
  readonly program: Program
  until: number
}

/**
 * The programs of one model, keyed by kind and shape; the least recently used one goes when there are too many: once the calls
 * that may have it, which are those that began before, have ended.
 */
export class ProgramCache {
  /** A Map keeps the order of insertion: the first key is the one not used for longest. */
  readonly #programs = new Map<string, Cached>()
  readonly #compiling = new Map<string, Promise<Program>>()
  #released = false
  /** Numbers of the calls on their way, in the order of their beginning. */
  readonly #calls = new Set<number>()
  #nextCall = 0
  #evicted: Cached[] = []

  /** `weights`: of the network that is in them. */
  constructor(
    readonly device: Device,
    readonly capacity = 16,
    readonly weights?: WeightsMemory,
  ) {
    device.addKeeper(this)
  }

  /** `key` must name everything that `build` depends on. */
  get(kind: string, key: ProgramKey, build: Build, options: CompileOptions): Program {
    const name = nameOf(kind, key, options)
    return this.#known(name) ?? this.#add(name, Program.compile(this.device, build, options, this.#use(kind, key)))
  }

  /** The same for what may take seconds to compile, during which JavaScript goes on. Those who ask meanwhile get the same one. */
  async getBeside(kind: string, key: ProgramKey, build: Build, options: CompileOptions): Promise<Program> {
    const name = nameOf(kind, key, options)
    const known = this.#known(name)
    if (known) return known
    let compiling = this.#compiling.get(name)
    if (!compiling) {
      compiling = this.#compileBeside(build, options, this.#use(kind, key))
        .then((program) => this.#add(name, program))
        .finally(() => this.#compiling.delete(name))
      this.#compiling.set(name, compiling)
    }
    return compiling
  }

  #use(kind: string, key: ProgramKey): ProgramUse {
    return { kind, batch: batchOf(key), weights: this.weights }
  }

  /** Where there is no memory, what is idle makes room. */
  async #compileBeside(build: Build, options: CompileOptions, use: ProgramUse): Promise<Program> {
    try {
      return await Program.compileBeside(this.device, build, options, use)
    } catch (error) {
      const lacks = error instanceof DiffusionError && error.code === 'out-of-memory'
      if (!lacks || !this.device.releaseIdle()) throw error
      await this.device.synchronize()
      return Program.compileBeside(this.device, build, options, use)
    }
  }

  /** Which is then the one that was used last. */
  #known(name: string): Program | undefined {
    const cached = this.#programs.get(name)
    if (!cached) return undefined
    this.#programs.delete(name)
    this.#programs.set(name, cached)
    cached.until = this.#nextCall
    return cached.program
  }

  /** Releases programs that no call has. */
  releaseIdle(): boolean {
    const [first = Infinity] = this.#calls
    const idle = [...this.#programs].filter(([, { until }]) => until <= first)
    for (const [name, { program }] of idle) {
      this.#programs.delete(name)
      program.release()
    }
    return idle.length > 0
  }

  #add(name: string, program: Program): Program {
    if (this.#released) {
      program.release()
      throw new DiffusionError('disposed', 'the model was disposed of while a program of it was compiled')
    }
    if (this.#programs.size >= this.capacity) this.#evict()
    this.#programs.set(name, { program, until: this.#nextCall })
    return program
  }

  /** A call that gets programs, and may use each of them until its `end`. */
  begin(): number {
    this.#calls.add(this.#nextCall)
    return this.#nextCall++
  }

  end(call: number): void {
    this.#calls.delete(call)
    this.#releaseEvicted()
  }

  #evict(): void {
    const [oldest] = this.#programs
    if (!oldest) return
    this.#programs.delete(oldest[0])
    this.#evicted.push({ program: oldest[1].program, until: this.#nextCall })
    this.#releaseEvicted()
  }

  #releaseEvicted(): void {
    const [first = Infinity] = this.#calls
    this.#evicted = this.#evicted.filter(({ program, until }) => {
      if (first < until) return true
      program.release()
      return false
    })
  }

  /** By program, its kind and key: Program.memory() in bytes, and how its runs were issued. */
  memory(): Record<string, ReturnType<Program['memory']> & { launches: ReturnType<Program['launches']> }> {
    return Object.fromEntries(
      [...this.#programs].map(([name, { program }]) => [name, { ...program.memory(), launches: program.launches() }]),
    )
  }

  release(): void {
    this.#released = true
    this.clear()
  }

  /** Releases the programs there are, while no call is on its way; those asked for from then on are compiled. */
  clear(): void {
    for (const { program } of [...this.#programs.values(), ...this.#evicted]) program.release()
    this.#programs.clear()
    this.#evicted = []
  }
}
