/** What every part of a diffusion model works with: device, programs, schedule, denoiser. */
import type { Device } from '../../device'
import { DiffusionError, invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Seed } from '../../options'
import { type CompileOptions, type Program, ProgramCache } from '../../program'
import { SeedSequence } from '../../rng'
import { type Shape, sizeOf } from '../../tensor'
import type { Denoiser } from './denoiser'
import { LossScale } from './loss-scale'
import type { Schedule } from './schedule'
import type { Settings } from './settings'

/** Where a model has its core, for those that are given the model. */
export const coreOf = Symbol('core')

/** Samples as the ops see them: [n, 1, 1, d]. */
export interface Extent {
  readonly n: number
  readonly d: number
}

/** What all cores of a model share. */
interface Parts {
  readonly device: Device
  readonly denoiser: Denoiser
  readonly settings: Settings
  readonly seed: Seed
  readonly programs: ProgramCache
  readonly seeds: SeedSequence
  readonly lossScale?: LossScale
  disposed: boolean
}

/**
 * A model with one schedule, which never changes: another schedule is another core. A call takes the core of its start and so
 * keeps its schedule, whatever is registered meanwhile; see `call`.
 */
export class Core {
  readonly #parts: Parts
  readonly #tables: Map<string, NativeBuffer>
  /** Calls that are on their way. */
  #calls = 0
  /** Another schedule has taken this one's place. */
  #replaced = false

  private constructor(
    parts: Parts,
    readonly schedule: Schedule,
    readonly denoiser = parts.denoiser,
    tables = new Map<string, NativeBuffer>(),
  ) {
    const { numTimesteps: known = Infinity } = parts.denoiser.network?.module ?? {}
    if (schedule.betas.length > known) {
      throw invalidArgument('timesteps', `at most ${known}, which the network knows`, schedule.betas.length)
    }
    this.#parts = parts
    this.#tables = tables
  }

  static create(device: Device, denoiser: Denoiser, settings: Settings, schedule: Schedule, seed: Seed): Core {
    device.checkPrecision(settings.precision)
    const parts = {
      device,
      denoiser,
      settings,
      seed,
      programs: new ProgramCache(device, undefined, denoiser.network?.weights),
      seeds: new SeedSequence(seed),
      lossScale: settings.precision === 'fp16' ? new LossScale() : undefined,
      disposed: false,
    }
    return new Core(parts, schedule)
  }

  /** The core that takes this one's place. Tables of this one stay as long as calls use them. */
  withSchedule(schedule: Schedule): Core {
    this.#replaced = true
    if (this.#calls === 0) this.#releaseTables()
    return new Core(this.#parts, schedule)
  }

  /** This one with another denoiser in its place, for use within a call of this one. */
  withDenoiser(denoiser: Denoiser): Core {
    return new Core(this.#parts, this.schedule, denoiser, this.#tables)
  }

  get device(): Device {
    return this.#parts.device
  }

  get settings(): Settings {
    return this.#parts.settings
  }

  get seed(): Seed {
    return this.#parts.seed
  }

  get programs(): ProgramCache {
    return this.#parts.programs
  }

  /** For calls that are given none. */
  get seeds(): SeedSequence {
    return this.#parts.seeds
  }

  /** With fp16 only. */
  get lossScale(): LossScale | undefined {
    return this.#parts.lossScale
  }

  get numTimesteps(): number {
    return this.schedule.betas.length
  }

  /** Runs a call of the user's with this core, whose tables and programs stay until it ends. Throws `disposed`. */
  async call<T>(fn: (core: Core) => T | Promise<T>): Promise<T> {
    this.alive()
    this.#calls++
    const number = this.programs.begin()
    try {
      return await fn(this)
    } catch (error) {
      throw DiffusionError.ofAddon(error)
    } finally {
      this.programs.end(number)
      this.#calls--
      if (this.#replaced && this.#calls === 0) this.#releaseTables()
    }
  }

  /** A table that follows from the schedule, on the device. */
  table(name: string, make: () => Float32Array): NativeBuffer {
    this.alive()
    let buffer = this.#tables.get(name)
    if (!buffer) {
      buffer = this.device.upload(make())
      this.#tables.set(name, buffer)
    }
    return buffer
  }

  /** A buffer of the schedule on the device. */
  buffer(name: keyof Schedule): NativeBuffer {
    return this.table(name, () => this.schedule[name])
  }

  program(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
    deterministic = this.settings.deterministic,
  ): Program {
    this.alive()
    return this.programs.get(kind, this.#key(key), build, this.#options(deterministic))
  }

  /** The same for a program with the network in it, whose algorithms may be chosen by times, which takes seconds. */
  async networkProgram(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
    deterministic = this.settings.deterministic,
    more: Pick<CompileOptions, 'packedBytes'> = {},
  ): Promise<Program> {
    this.alive()
    return this.programs.getBeside(kind, this.#key(key), build, { ...this.#options(deterministic), ...more })
  }

  #key(key: Readonly<Record<string, string | number | boolean>>) {
    return { T: this.numTimesteps, own: this.denoiser === this.#parts.denoiser, ...key }
  }

  #options(deterministic: boolean): CompileOptions {
    return { deterministic, precision: this.settings.precision }
  }

  alive(): void {
    if (this.#parts.disposed) throw new DiffusionError('disposed', 'the model was used after dispose()')
  }

  memoryInfo() {
    const programs = this.programs.memory()
    const total = Object.values(programs).reduce((sum, memory) => sum + memory.total, 0)
    const weightBytes = this.denoiser.network?.weights.bytes ?? 0
    return { device: this.device.memoryInfo(), programs, programBytes: total, weightBytes }
  }

  #releaseTables(): void {
    for (const buffer of this.#tables.values()) buffer.release()
    this.#tables.clear()
  }

  dispose(): void {
    if (this.#parts.disposed) return
    this.#parts.disposed = true
    this.programs.release()
    this.#releaseTables()
    this.denoiser.release()
  }
}

/** Flat extents of a tensor of samples. Throws for a tensor without samples. */
export function extentOf(shape: Shape, argument: string): Extent {
  if (shape.length < 2 || sizeOf(shape) === 0) {
    throw invalidArgument(argument, 'a shape of at least 2 dimensions, samples first', shape)
  }
  return { n: shape[0], d: sizeOf(shape.slice(1)) }
}
