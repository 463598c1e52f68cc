/** The processes that compute together: started by mpirun, srun or torchrun, each a rank. */
import { isMainThread } from 'node:worker_threads'
import { Device, type DeviceName } from './device'
import { DiffusionError } from './errors'
import { meeting, mpiSize, notTold } from './launch'
import { type NativeBuffer, type NativeWorld, native } from './native'
import { meet } from './rendezvous'

/** What processes exchange numbers by. */
export type Distributed = 'auto' | 'mpi' | 'nccl' | 'off'
export const distributedModes: readonly Distributed[] = ['auto', 'mpi', 'nccl', 'off']

type Library = 'mpi' | 'nccl'

/** By which processes that were started together join, where nothing else was asked for; undefined where this one is alone. */
function automatic(): Library | undefined {
  if ((mpiSize() ?? 1) > 1) return 'mpi'
  return (meeting()?.size ?? 1) > 1 ? 'nccl' : undefined
}

export class World {
  static #joined: World | undefined

  /**
   * The world of this process, joined when first asked for; undefined where it computes alone: with 'off', and with 'auto' (default)
   * where nobody started several. 'auto' is 'mpi' under a launcher of MPI, else 'nccl' where MASTER_ADDR, MASTER_PORT, RANK and
   * WORLD_SIZE say that there are several. `device` (default 'auto'): the one that computes, which NCCL reaches the others' from. Throws
   * `device-unavailable` where there should be a library and is not, `unsupported` for a device that NCCL does not serve, and `rank-failed`
   * where not all have joined within DDPM_DISTRIBUTED_TIMEOUT seconds.
   */
  static of(mode: Distributed = 'auto', device: DeviceName | Device = 'auto'): World | undefined {
    if (mode === 'off') return undefined
    const joined = World.#joined
    const library = mode === 'auto' ? (joined?.by ?? automatic()) : mode
    if (library === undefined) return undefined
    if (joined && joined.by !== library) {
      throw new DiffusionError('unsupported', `this process has joined the others by ${joined.by}`, {
        argument: 'distributed',
        expected: `'${joined.by}'`,
        received: `'${library}'`,
      })
    }
    World.#joined ??= new World(library, device)
    return World.#joined
  }

  readonly #native: NativeWorld
  /** That others may take to join, and to come to an operation: DDPM_DISTRIBUTED_TIMEOUT, default 600. */
  readonly seconds: number

  private constructor(
    readonly by: Library,
    device: DeviceName | Device,
  ) {
    // A worker may end, and with it the library, which a process can begin once.
    if (!isMainThread) {
      throw new DiffusionError('unsupported', "a worker thread trains alone: distributed: 'off'", {
        argument: 'distributed',
        expected: "the main thread, or 'off'",
        received: 'a worker thread',
      })
    }
    const seconds = process.env.DDPM_DISTRIBUTED_TIMEOUT
    this.seconds = seconds === undefined ? 600 : timeoutOf(seconds)
    try {
      this.#native = by === 'mpi' ? joinMpi(this.seconds) : joinNccl(Device.open(device), this.seconds)
    } catch (error) {
      throw DiffusionError.from(error)
    }
    this.#native.setTimeout(this.seconds)
    // In order, others wait for this one; otherwise the launcher ends them. Before devices are closed, by which NCCL leaves.
    process.prependListener('exit', (code) => this.#native.leave(code === 0))
  }

  /** From 0 to size - 1. */
  get rank(): number {
    return this.#native.rank
  }

  get size(): number {
    return this.#native.size
  }

  /** Which library, with its version: 'Open MPI v4.1.4', 'NCCL 2.23.4 in /usr/lib'. */
  get library(): string {
    return this.#native.library
  }

  /** Bytes that this rank has sent to others so far. */
  get bytesSent(): number {
    return this.#native.bytesSent()
  }

  /** Resolves when all ranks have come to it. Rejects with `rank-failed`. */
  async barrier(): Promise<void> {
    await this.#call(() => this.#native.barrier())
  }

  /** The numbers of all ranks, as many of each, in the order of the ranks. */
  async gather(numbers: readonly number[]): Promise<number[][]> {
    const own = new Uint8Array(Float64Array.from(numbers).buffer)
    const bytes = await this.#call(() => this.#native.gather(own))
    const all = new Float64Array(Uint8Array.from(bytes).buffer)
    return Array.from({ length: this.size }, (_, r) => [...all.subarray(r * numbers.length, (r + 1) * numbers.length)])
  }

  /** The bytes of all ranks, in their order. */
  async gatherBytes(own: Uint8Array): Promise<Uint8Array[]> {
    const lengths = (await this.gather([own.length])).map(([length]) => length)
    const most = Math.max(...lengths, 1)
    const padded = new Uint8Array(most)
    padded.set(own)
    const all = await this.#call(() => this.#native.gather(padded))
    return lengths.map((length, r) => all.subarray(r * most, r * most + length))
  }

  /** The texts of all ranks, in their order. */
  async gatherTexts(text: string): Promise<string[]> {
    const all = await this.gatherBytes(new TextEncoder().encode(text))
    return all.map((bytes) => new TextDecoder().decode(bytes))
  }

  /** Leaves without the others, which the launcher then ends: for a process that can't go on. */
  fail(): void {
    this.#native.leave(false)
  }

  /** @internal NativeWorld.sumBanks */
  async sumBanks(banks: readonly NativeBuffer[], share: number): Promise<void> {
    await this.#call(() => this.#native.sumBanks(banks, share))
  }

  /** @internal NativeWorld.ownParts */
  ownParts(count: number): { begin: number; length: number }[] {
    return this.#native.ownParts(count)
  }

  /** @internal NativeWorld.gatherParts */
  async gatherParts(bank: NativeBuffer): Promise<void> {
    await this.#call(() => this.#native.gatherParts(bank))
  }

  async #call<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }
}

function joinMpi(seconds: number): NativeWorld {
  // UCX, by which some MPIs send, otherwise intercepts what takes and gives back memory, under V8's feet.
  process.env.UCX_MEM_EVENTS ??= 'no'
  return native.joinWorld('mpi', seconds)
}

/** What NCCL needs is exchanged by MPI, or where there is no launcher of MPI, at the place where rank 0 is. */
function joinNccl(device: Device, seconds: number): NativeWorld {
  if (device.backend === 'cpu' || device.backend === 'reference') {
    const what = `NCCL joins processes on GPUs, and device is '${device.name}': mpirun starts those that compute on CPUs`
    throw new DiffusionError('unsupported', `${what}; distributed: 'off' trains each on its own`, {
      argument: 'distributed',
      expected: "device 'cuda'",
      received: `'${device.name}'`,
    })
  }
  if (mpiSize() !== undefined) {
    const launched = joinMpi(seconds)
    launched.setTimeout(seconds)
    return launched.joinDevices(device.native, seconds)
  }
  const place = meeting()
  if (!place) {
    const missing = notTold().join(', ')
    const what = `nccl: no launcher of MPI started this process, and ${missing} ${missing.includes(',') ? 'are' : 'is'} not set`
    throw new DiffusionError('device-unavailable', what, {
      argument: 'distributed',
      expected: 'MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE, or mpirun',
      received: 'neither',
    })
  }
  const own = place.rank === 0 ? native.worldId(device.native) : undefined
  return native.joinDevices(device.native, meet(place, seconds, own), place.rank, place.size, seconds)
}

function timeoutOf(text: string): number {
  const seconds = Number(text)
  if (text.trim() !== '' && seconds > 0 && Number.isFinite(seconds)) return seconds
  throw new DiffusionError('invalid-argument', `DDPM_DISTRIBUTED_TIMEOUT: expected seconds, received '${text}'`, {
    argument: 'DDPM_DISTRIBUTED_TIMEOUT',
    expected: 'a number above 0',
    received: text,
  })
}

/** Which of the processes that a launcher started together this one is. Alone: rank 0 of 1. */
export const world = {
  /** From 0 to size - 1. */
  get rank(): number {
    return World.of()?.rank ?? 0
  },
  get size(): number {
    return World.of()?.size ?? 1
  },
  /** Resolves when all ranks have come to it. Rejects with `rank-failed`. */
  async barrier(): Promise<void> {
    await World.of()?.barrier()
  },
}
