/** Where things are computed. */
import { DiffusionError, invalidArgument, markCopy } from './errors'
import { type DeviceInfo, type NativeBuffer, type NativeDevice, native, type Precision } from './native'

/** 'auto' is CUDA where it is, else the CPU. 'cuda:1' is the second GPU; 'reference', 'cuda-host' and 'cuda-host-contracted' are for tests. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | 'reference' | 'cuda-host' | 'cuda-host-contracted'

/** Of Device.open. */
export interface DeviceOptions {
  /** Threads of the CPU backend. Default: DDPM_NUM_THREADS or all cores. */
  threads?: number
}

export interface MemoryInfo {
  /** Bytes held on the device by buffers and programs of this process's thread. */
  inUse: number
  /** Bytes that could still be allocated. */
  free: number
  /** Bytes that the device has. */
  total: number
}

/** Opened devices of this thread. A device is a thread and a memory pool, so that asking twice must not make two. */
const opened = new Map<string, Device>()

export class Device {
  readonly native: NativeDevice

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
    if (name instanceof Device) return name
    const threads = options.threads ?? 0
    if (!Number.isInteger(threads) || threads < 0) throw invalidArgument('threads', 'an integer of at least 0', threads)
    if (name !== 'auto') return Device.#openNamed(name, threads)
    let device: Device
    let why = ''
    try {
      device = Device.#openNamed('cuda', threads)
    } catch (error) {
      device = Device.#openNamed('cpu', threads)
      why = `; no CUDA: ${(error as Error).message}`
    }
    if (process.env.DDPM_DEBUG) {
      const { name: model, isa } = device.info()
      process.stderr.write(`ddpm-native: device 'auto' is ${device.name}, ${model} (${isa})${why}\n`)
    }
    return device
  }

  static #openNamed(name: string, threads: number): Device {
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
    const { precisions } = this.info()
    if (precisions.includes(precision)) return
    const expected = precisions.map((name) => `'${name}'`).join(' or ')
    throw new DiffusionError('unsupported', `precision: ${this.name} has ${expected}, not '${precision}'`, {
      argument: 'precision',
      expected,
      received: precision,
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
    return { inUse: this.native.memoryInUse(), free, total }
  }

  /** Memory for `elements` numbers, zeroed. */
  allocate(elements: number): NativeBuffer {
    try {
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
