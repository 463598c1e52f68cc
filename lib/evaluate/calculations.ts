/** A thread for what takes seconds in float64. */
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { DiffusionError } from '../errors'
import type { Answer, Calls, Request } from './worker'

interface Waiting {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

export class Calculations {
  readonly #worker = new Worker(path.join(__dirname, 'worker.js'))
  /** In the order of the calls, which is that of the answers. */
  #waiting: Waiting[] = []
  #over: DiffusionError | undefined
  readonly #signal: AbortSignal | undefined

  /** `signal` ends what is being computed at once, with `aborted`. */
  constructor(signal?: AbortSignal) {
    this.#signal = signal
    this.#worker.on('message', (answer: Answer) => {
      const call = this.#waiting.shift() // none where it has ended meanwhile
      if ('result' in answer) call?.resolve(answer.result)
      else
        call?.reject(new DiffusionError(answer.error.code, answer.error.message, { argument: answer.error.argument }))
    })
    this.#worker.on('error', (error) => this.#end(DiffusionError.from(error)))
    this.#worker.on('exit', () => this.#end(new DiffusionError('internal', 'the thread of the calculations ended')))
    signal?.addEventListener('abort', this.#abort)
    if (signal?.aborted) this.#abort()
  }

  async call<Name extends keyof Calls>(name: Name, ...args: Parameters<Calls[Name]>): Promise<ReturnType<Calls[Name]>> {
    if (this.#over) throw this.#over
    return new Promise<unknown>((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#worker.postMessage({ name, args } satisfies Request)
    }) as Promise<ReturnType<Calls[Name]>>
  }

  async close(): Promise<void> {
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#end(new DiffusionError('disposed', 'the calculations were closed'))
    await this.#worker.terminate()
  }

  readonly #abort = (): void => {
    this.#end(aborted(this.#signal))
    void this.#worker.terminate()
  }

  #end(error: DiffusionError): void {
    this.#over ??= error
    for (const { reject } of this.#waiting.splice(0)) reject(this.#over)
  }
}

export function aborted(signal: AbortSignal | undefined): DiffusionError {
  return new DiffusionError('aborted', 'the evaluation was aborted', { cause: signal?.reason })
}
