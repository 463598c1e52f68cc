/** A child process that opens hostile files, one after the other, watched for memory, time and an end of its own. */
import { type ChildProcess, fork } from 'node:child_process'
import { MiB, resident } from './memory'

/** What a reader made of a file. */
export interface Opened {
  readonly outcome: 'read' | 'refused' | 'thrown'
  /** Of a DiffusionError. */
  readonly code?: string
  readonly message?: string
  /** Bytes above what the process held before. */
  readonly memory: number
  /** Of all its threads' time: another process's work does not count. */
  readonly milliseconds: number
}

export interface Bounds {
  readonly memory: number
  /** Of the clock, after which the process is ended. */
  readonly hang: number
}

/** Or what was wrong with the process itself: it died, or went beyond a bound so far that it was ended. */
export type Answer = Opened | { readonly outcome: 'died'; readonly message: string }

export class ReaderPool implements Disposable {
  #child: ChildProcess | undefined
  #stderr = ''
  #fresh = 0
  #opened = 0

  constructor(readonly script: string) {}

  /**
   * Opens a file in the child, or in a new one where files before it have left more than `hidden` bytes in that one, in which
   * this file's memory would not show.
   */
  async open(reader: string, file: string, bounds: Bounds, hidden: number): Promise<Answer> {
    if (this.#child && this.#isUsedUp(hidden)) this.#end()
    const child = this.#child ?? (await this.#start())
    this.#opened++
    const before = resident(child.pid!)?.now ?? 0
    return new Promise((resolve) => {
      const start = performance.now()
      const done = (answer: Answer) => {
        clearInterval(watch)
        child.removeAllListeners('message').removeAllListeners('exit')
        if (answer.outcome === 'died') this.#end()
        resolve(answer)
      }
      const died = (message: string) => done({ outcome: 'died', message })
      const watch = setInterval(() => {
        const memory = (resident(child.pid!)?.now ?? 0) - before
        // Generous: the exact bounds are checked with what the child says, if it comes to that.
        if (memory > 2 * bounds.memory + 256 * MiB) died(`held ${Math.round(memory / MiB)} MiB when it was ended`)
        else if (performance.now() - start > bounds.hang) died(`busy after ${bounds.hang / 1000} s`)
      }, 20)
      child.once('message', (opened: Opened) => done(opened))
      child.once('exit', (code, signal) => {
        died(`the process ended: ${signal ?? `exit code ${code}`} ${this.#stderr.slice(-500).trim()}`)
      })
      child.send({ reader, file })
    })
  }

  #isUsedUp(hidden: number): boolean {
    const held = resident(this.#child!.pid!)?.now ?? 0
    return this.#opened >= 1000 || held > this.#fresh + hidden
  }

  #start(): Promise<ChildProcess> {
    const child = fork(this.script, { execArgv: ['--expose-gc'], stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    this.#child = child
    this.#stderr = ''
    this.#opened = 0
    child.stderr!.on('data', (data) => {
      this.#stderr += data
    })
    return new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (code) => reject(new Error(`${this.script} ended with ${code}: ${this.#stderr}`)))
      child.once('message', () => {
        child.removeAllListeners('exit')
        this.#fresh = resident(child.pid!)?.now ?? 0
        resolve(child)
      })
    })
  }

  #end(): void {
    this.#child?.kill('SIGKILL')
    this.#child = undefined
  }

  [Symbol.dispose](): void {
    this.#end()
  }
}
