/** Runs of programs that JavaScript asks for together and waits for once. */
import type { Device } from './device'
import { DiffusionError } from './errors'
import type { NativeBuffer, NativeRun } from './native'
import type { Program } from './program'

export class RunQueue {
  readonly #device: Device
  readonly #signal: AbortSignal | undefined
  #runs: NativeRun[] = []

  /** An abort of `signal` lets no further run begin. */
  constructor(device: Device, signal?: AbortSignal) {
    this.#device = device
    // One of its own: many that listen to one signal would have Node warn of a leak.
    this.#signal = signal && AbortSignal.any([signal])
  }

  /** `bindings` are those of all inputs and outputs, and stay until the flush has ended. */
  add(program: Program, bindings: Readonly<Record<string, NativeBuffer>>): void {
    this.#runs.push(program.runWith(bindings))
  }

  /** Runs what was added, in that order, and resolves when all of it is done. An abort makes that earlier, and is no error. */
  async flush(): Promise<void> {
    const runs = this.#runs
    this.#runs = []
    if (runs.length === 0 || this.#signal?.aborted) return
    try {
      const { done, stop } = this.#device.native.runAll(runs)
      this.#signal?.addEventListener('abort', stop)
      try {
        await done
      } finally {
        this.#signal?.removeEventListener('abort', stop)
      }
    } catch (error) {
      throw DiffusionError.from(error)
    }
  }
}
