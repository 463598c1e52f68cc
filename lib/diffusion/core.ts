/** What every part of a diffusion model works with: device, programs, schedule, denoiser. */
import type { Device } from '../device'
import { DiffusionError, describe, invalidArgument } from '../errors'
import type { Graph, Value } from '../graph'
import type { NativeBuffer, Precision } from '../native'
import type { Seed } from '../options'
import { type Program, ProgramCache } from '../program'
import { SeedSequence } from '../rng'
import { type Shape, sameShape, sizeOf, Tensor } from '../tensor'
import type { Denoiser } from './denoiser'
import type { VarianceType } from './learned-variance'
import { LossScale } from './loss-scale'
import type { Parameterization, Schedule, TimestepSpacing } from './schedule'

/** Options that the formulas depend on. */
export interface Settings {
  readonly parameterization: Parameterization
  readonly lossType: 'l1' | 'l2'
  readonly vPosterior: number
  readonly lSimpleWeight: number
  readonly originalElboWeight: number
  readonly clipDenoised: boolean
  readonly logEveryT: number
  readonly timestepSpacing: TimestepSpacing
  readonly deterministic: boolean
  readonly precision: Precision
  readonly nullClass?: number
  readonly classDropout: number
  readonly minSnrGamma?: number
  readonly offsetNoise: number
  readonly varianceType: VarianceType
  readonly vlbWeight?: number
}

/** Samples as the ops see them: [n, 1, 1, d]. */
export interface Extent {
  readonly n: number
  readonly d: number
}

export class Core {
  readonly programs: ProgramCache
  readonly seeds: SeedSequence
  /** With fp16 only. */
  readonly lossScale?: LossScale
  readonly #tables = new Map<string, NativeBuffer>()
  #schedule: Schedule
  #disposed = false

  constructor(
    readonly device: Device,
    readonly denoiser: Denoiser,
    readonly settings: Settings,
    schedule: Schedule,
    readonly seed: Seed,
  ) {
    checkPrecision(device, settings.precision)
    if (settings.precision === 'fp16') this.lossScale = new LossScale()
    this.programs = new ProgramCache(device)
    this.seeds = new SeedSequence(seed)
    this.#schedule = schedule
  }

  get schedule(): Schedule {
    return this.#schedule
  }

  set schedule(schedule: Schedule) {
    this.#schedule = schedule
    this.#releaseTables()
  }

  get numTimesteps(): number {
    return this.#schedule.betas.length
  }

  /** A table that follows from the schedule, on the device. */
  table(name: string, make: () => Float32Array): NativeBuffer {
    let buffer = this.#tables.get(name)
    if (!buffer) {
      buffer = this.device.upload(make())
      this.#tables.set(name, buffer)
    }
    return buffer
  }

  /** A buffer of the schedule on the device. */
  buffer(name: keyof Schedule): NativeBuffer {
    return this.table(name, () => this.#schedule[name])
  }

  program(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
    deterministic = this.settings.deterministic,
  ): Program {
    this.alive()
    return this.programs.get(kind, { T: this.numTimesteps, ...key }, build, {
      deterministic,
      precision: this.settings.precision,
    })
  }

  alive(): void {
    if (this.#disposed) throw new DiffusionError('disposed', 'the model was used after dispose()')
  }

  memoryInfo() {
    const programs = this.programs.memory()
    const total = Object.values(programs).reduce((sum, memory) => sum + memory.total, 0)
    return { device: this.device.memoryInfo(), programs, programBytes: total }
  }

  #releaseTables(): void {
    for (const buffer of this.#tables.values()) buffer.release()
    this.#tables.clear()
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.programs.release()
    this.#releaseTables()
    this.denoiser.release()
  }
}

/** Throws `unsupported` where the device does not compute in it. */
function checkPrecision(device: Device, precision: Precision): void {
  const { precisions } = device.info()
  if (precisions.includes(precision)) return
  const expected = precisions.map((name) => `'${name}'`).join(' or ')
  throw new DiffusionError('unsupported', `precision: ${device.name} has ${expected}, not '${precision}'`, {
    argument: 'precision',
    expected,
    received: precision,
  })
}

/** Flat extents of a tensor of samples. Throws for a tensor without samples. */
export function extentOf(shape: Shape, argument: string): Extent {
  if (shape.length < 2 || sizeOf(shape) === 0) {
    throw invalidArgument(argument, 'a shape of at least 2 dimensions, samples first', shape)
  }
  return { n: shape[0], d: sizeOf(shape.slice(1)) }
}

/** Throws unless `tensor` is a float32 Tensor, of `shape` where that is given. */
export function checkTensor(tensor: unknown, argument: string, shape?: Shape): asserts tensor is Tensor {
  if (tensor instanceof Tensor && tensor.dtype === 'float32' && (!shape || sameShape(tensor.shape, shape))) return
  const dtype = tensor instanceof Tensor ? `${tensor.dtype} ` : ''
  const expected = `a float32 Tensor${shape ? ` of shape [${shape.join(', ')}]` : ''}`
  const received = `${dtype}${describe(tensor)}`
  throw new DiffusionError('invalid-argument', `${argument}: expected ${expected}, got ${received}`, {
    argument,
    expected,
    received,
  })
}
