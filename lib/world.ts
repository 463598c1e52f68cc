/** The processes that compute together: started by mpirun or srun, each a rank. */
import { isMainThread } from 'node:worker_threads'
import { DiffusionError } from './errors'
import { type NativeBuffer, type NativeWorld, native } from './native'

/** What processes exchange numbers by. */
export type Distributed = 'auto' | 'mpi' | 'off'
export const distributedModes: readonly Distributed[] = ['auto', 'mpi', 'off']

/** How many a launcher of MPI started together; undefined where none did. */
function launched(): number | undefined {
  const { OMPI_COMM_WORLD_SIZE, PMI_SIZE, SLURM_STEP_NUM_TASKS, SLURM_PROCID } = process.env
  const slurm = SLURM_PROCID === undefined ? undefined : SLURM_STEP_NUM_TASKS
  const size = Number(OMPI_COMM_WORLD_SIZE ?? PMI_SIZE ?? slurm)
  return Number.isInteger(size) && size > 0 ? size : undefined
}

export class World {
  static #joined: World | undefined

  /**
   * The world of this process, joined when first asked for; undefined where it computes alone: with 'off', and with 'auto' (default)
   * where no launcher started several. Throws `device-unavailable` where there should be one and the library is not there, and
   * `rank-failed` where not all have joined within DDPM_DISTRIBUTED_TIMEOUT seconds.
   */
  static of(mode: Distributed = 'auto'): World | undefined {
    if (mode === 'off' || (mode === 'auto' && (launched() ?? 1) === 1)) return undefined
    World.#joined ??= new World()
    return World.#joined
  }

  readonly #native: NativeWorld
  /** That others may take to join, and to come to an operation. */
  readonly #seconds: number = 600

  private constructor() {
    // A worker may end, and with it the library, which a process can begin once.
    if (!isMainThread) {
      throw new DiffusionError('unsupported', "a worker thread trains alone: distributed: 'off'", {
        argument: 'distributed',
        expected: "the main thread, or 'off'",
        received: 'a worker thread',
      })
    }
    // UCX, by which some MPIs send, otherwise intercepts what takes and gives back memory, under V8's feet.
    process.env.UCX_MEM_EVENTS ??= 'no'
    const seconds = process.env.DDPM_DISTRIBUTED_TIMEOUT
    if (seconds !== undefined) this.#seconds = timeoutOf(seconds)
    try {
      this.#native = native.joinWorld('mpi', this.#seconds)
    } catch (error) {
      throw DiffusionError.from(error)
    }
    this.#native.setTimeout(this.#seconds)
    // In order, others wait for this one; otherwise the launcher ends them.
    process.on('exit', (code) => this.#native.leave(code === 0))
  }

  /** From 0 to size - 1. */
  get rank(): number {
    return this.#native.rank
  }

  get size(): number {
    return this.#native.size
  }

  /** Which library, with its version: 'Open MPI v4.1.4'. */
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

  /**
   * The numbers of all ranks, as many of each, in the order of the ranks. `patient` (default false): however long others take to come
   * to it.
   */
  async gather(numbers: readonly number[], { patient = false }: { patient?: boolean } = {}): Promise<number[][]> {
    const own = new Uint8Array(Float64Array.from(numbers).buffer)
    if (patient) this.#native.setTimeout(Number.POSITIVE_INFINITY)
    try {
      const bytes = await this.#call(() => this.#native.gather(own))
      const all = new Float64Array(Uint8Array.from(bytes).buffer)
      return Array.from({ length: this.size }, (_, r) => [
        ...all.subarray(r * numbers.length, (r + 1) * numbers.length),
      ])
    } finally {
      if (patient) this.#native.setTimeout(this.#seconds)
    }
  }

  /** The texts of all ranks, in their order. */
  async gatherTexts(text: string, o: { patient?: boolean } = {}): Promise<string[]> {
    const own = new TextEncoder().encode(text)
    const lengths = (await this.gather([own.length], o)).map(([length]) => length)
    const most = Math.max(...lengths, 1)
    const padded = new Uint8Array(most)
    padded.set(own)
    const all = await this.#call(() => this.#native.gather(padded))
    return lengths.map((length, r) => new TextDecoder().decode(all.subarray(r * most, r * most + length)))
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
