/** Where things are computed. */
import { DiffusionError, invalidArgument, markCopy } from './errors'
import { ownGpu } from './launch'
import { checkLimit, type MemoryLimit, type MemoryNeed, tooMuch } from './memory-limit'
import {
  type DeviceInfo,
  type NativeBuffer,
  type NativeDevice,
  native,
  type Precision,
  type WeightFormat,
} from './native'

/**
 * 'auto' is CUDA where it is, else the CPU. 'cuda:1' is the second GPU. 'cuda' is the first, or, of processes that were started together,
 * that of their number on the machine (LOCAL_RANK), where they see several. 'reference', 'cuda-host' and 'cuda-host-contracted' are for tests.
 */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | 'reference' | 'cuda-host' | 'cuda-host-contracted'

/** Of Device.open. */
export interface DeviceOptions {
  /** Threads of the CPU backend. Default: DDPM_NUM_THREADS or all cores. */
  threads?: number
  /**
   * The most bytes that buffers and programs may hold of it, or 'auto': what it has. One for all that this thread computes there: the last
   * that was given. What would take more is refused, with `out-of-memory`, before it begins. Default: what was given before, or 'auto'.
   */
  memoryLimit?: MemoryLimit
}

export interface MemoryInfo {
  /** Bytes held on the device by buffers and programs of this process's thread. */
  inUse: number
  /** Bytes that could still be allocated. */
  free: number
  /** Bytes that the device has. */
  total: number
  /** Bytes that may be held; see DeviceOptions.memoryLimit. */
  limit: number
}

/** What holds memory that it can do without. */
interface Keeper {
  /** Gives back what is not in use; says whether there was any. */
  releaseIdle(): boolean
}

/** Opened devices of this thread. A device is a thread and a memory pool, so that asking twice must not make two. */
const opened = new Map<string, Device>()

export class Device {
  readonly native: NativeDevice
  #memoryLimit: MemoryLimit = 'auto'
  #capacity: number | undefined
  #keepers: WeakRef<Keeper>[] = []

  private constructor(
    /** As it can be asked for again: 'cpu', 'cuda', 'cuda:1'. */
    readonly name: string,
    device: NativeDevice,
  ) {
    this.native = device
  }

  /**
   * Throws `device-unavailable` with what is missing when it can't be opened. 'auto' falls back to the CPU; with DDPM_DEBUG
   * set, to 'device' or whatever, it says on stderr what it chose and why.
   */
  static open(name: DeviceName | Device = 'auto', options: DeviceOptions = {}): Device {
    if (options.memoryLimit !== undefined) checkLimit(options.memoryLimit)
    const device = name instanceof Device ? name : Device.#openAny(name, options)
    if (options.memoryLimit !== undefined) device.#memoryLimit = options.memoryLimit
    return device
  }

  static #openAny(name: DeviceName, options: DeviceOptions): Device {
    const threads = options.threads ?? 0
    if (!Number.isInteger(threads) || threads < 0) throw invalidArgument('threads', 'an integer of at least 0', threads)
    if (name !== 'auto') return Device.#openNamed(name, threads)
    let device: Device
    let why = ''
    try {
      device = Device.#openNamed('cuda', threads)
    } catch (error) {
      if (ownGpu() > 0 && Device.#opens('cuda:0')) throw error // one of several processes would compute elsewhere than the others
      device = Device.#openNamed('cpu', threads)
      why = `; no CUDA: ${(error as Error).message}`
    }
    if (process.env.DDPM_DEBUG) {
      const { name: model, isa } = device.info()
      process.stderr.write(`ddpm-native: device 'auto' is ${device.name}, ${model} (${isa})${why}\n`)
    }
    return device
  }

  static #opens(name: string): boolean {
    try {
      Device.#openNamed(name, 0)
      return true
    } catch {
      return false
    }
  }

  static #openNamed(asked: string, threads: number): Device {
    const name = asked === 'cuda' && ownGpu() > 0 ? `cuda:${ownGpu()}` : asked
    const match = /^(cpu|reference|cuda-host|cuda-host-contracted|cuda)(?::(\d+))?$/.exec(name)
    if (!match || (match[2] && match[1] !== 'cuda')) {
      throw invalidArgument('device', "'auto', 'cpu', 'cuda' or 'cuda:<index>'", name)
    }
    const [, backend, index = '0'] = match
    const key = `${backend}:${index}:${threads}`
    let device = opened.get(key)
    if (!device) {
      try {
        device = new Device(name, native.openDevice(backend, Number(index), threads))
      } catch (error) {
        throw DiffusionError.from(error)
      }
      opened.set(key, device)
    }
    return device
  }

  /** The backend: 'cpu', 'cuda', ... */
  get backend(): string {
    return this.native.backend
  }

  info(): DeviceInfo {
    return this.native.info()
  }

  /** Throws `unsupported` where it does not compute in it. */
  checkPrecision(precision: Precision): void {
    const { precisions, lacks } = this.info()
    if (precisions.includes(precision)) return
    const expected = precisions.map((name) => `'${name}'`).join(' or ')
    const needs = lacks[precision] ? `, which needs ${lacks[precision]}` : ''
    throw new DiffusionError('unsupported', `precision: ${this.name} has ${expected}, not '${precision}'${needs}`, {
      argument: 'precision',
      expected,
      received: precision,
    })
  }

  /** Throws `unsupported` where it does not take weights in it. */
  checkWeightFormat(format: WeightFormat): void {
    const { weightFormats } = this.info()
    if (weightFormats.includes(format)) return
    const expected = weightFormats.map((name) => `'${name}'`).join(' or ')
    const has = `${expected}${this.backend === 'cpu' ? '' : ", device 'cpu' all"}`
    throw new DiffusionError('unsupported', `weightFormat: ${this.name} has ${has}, not '${format}'`, {
      argument: 'weightFormat',
      expected,
      received: format,
    })
  }

  /** Libraries of others that it uses ('cuDNN 9.5.1 in /usr/lib'), or why none; '' where it knows none. Opens them. */
  libraries(): string {
    return this.native.libraries()
  }

  /** What went another way than it should have since it was opened, although results are right; each once. */
  warnings(): string[] {
    return this.native.warnings()
  }

  memoryInfo(): MemoryInfo {
    const { freeBytes: free, memoryBytes: total } = this.native.info()
    return { inUse: this.native.memoryInUse(), free, total, limit: this.memoryLimit }
  }

  /** Bytes that may be held: what was given, or what the device, or this process's container, has. */
  get memoryLimit(): number {
    if (this.#memoryLimit !== 'auto') return this.#memoryLimit
    this.#capacity ||= this.#measure()
    // A device that can't tell now sets no limit.
    return this.#capacity || Number.MAX_SAFE_INTEGER
  }

  #measure(): number {
    const { memoryBytes } = this.native.info()
    const constrained = this.backend === 'cuda' ? 0 : process.constrainedMemory()
    return constrained > 0 && memoryBytes > 0 ? Math.min(constrained, memoryBytes) : memoryBytes
  }

  /** @internal How many bytes beyond the limit there would be with so many more. */
  excess(more: number): number {
    return this.native.memoryInUse() + more - this.memoryLimit
  }

  /** @internal Throws `out-of-memory` where that much may not be held: all that takes memory asks here before it does. */
  require(need: MemoryNeed): void {
    if (!(this.excess(need.more) > 0)) return
    const [inUse, limit, isGiven] = [this.native.memoryInUse(), this.memoryLimit, this.#memoryLimit !== 'auto']
    throw tooMuch(need, { name: this.name, inUse, limit, isGiven })
  }

  /** @internal */
  addKeeper(keeper: Keeper): void {
    this.#keepers = [...this.#keepers.filter((ref) => ref.deref()), new WeakRef(keeper)]
  }

  /** @internal Has programs released that no call uses; whether there were any. They are gone after `synchronize`. */
  releaseIdle(): boolean {
    return this.#keepers.map((ref) => ref.deref()?.releaseIdle() ?? false).includes(true)
  }

  /** Memory for `elements` numbers, zeroed. `what` it is for is named where it does not fit. */
  allocate(elements: number, what = 'a buffer'): NativeBuffer {
    try {
      this.require({ what, parts: { [what]: 4 * elements }, more: 4 * elements })
      return this.native.allocate(elements)
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }

  /** A new buffer with the data in it. */
  upload(data: Float32Array | Int32Array): NativeBuffer {
    const buffer = this.allocate(data.length)
    try {
      buffer.write(data)
      return buffer
    } catch (error) {
      buffer.release()
      throw DiffusionError.from(error)
    }
  }

  /** Resolves when everything asked for before is done. */
  synchronize(): Promise<void> {
    return this.native.synchronize()
  }
}

markCopy(Device)
