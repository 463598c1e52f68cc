/** Which code of the library has run, by V8's own block coverage: nothing is instrumented. */
import { Session } from 'node:inspector'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

interface ScriptCoverage {
  readonly url: string
  /** Outer before inner, of functions and of their ranges. */
  readonly functions: readonly {
    readonly ranges: readonly { readonly startOffset: number; readonly endOffset: number; readonly count: number }[]
  }[]
}

/** Of one script, a byte a character. */
interface Characters {
  readonly known: Uint8Array
  /** Of the last interval. */
  readonly ran: Uint8Array
}

/** To be made before the library is loaded: of what was compiled earlier, only whole functions are seen. */
export class Coverage {
  readonly #session = new Session()
  readonly #own = pathToFileURL(path.join(__dirname, '..', '..', 'lib') + path.sep).href
  readonly #scripts = new Map<string, Characters>()

  constructor() {
    this.#session.connect()
    this.#post('Profiler.enable')
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  /**
   * Characters of the library's scripts that ran since the last call and in no interval before. Unless `keep`, they stay new.
   * It takes a millisecond, longer than most files, and so is asked for several at a time.
   */
  take(keep: boolean): number {
    const { result } = this.#post('Profiler.takePreciseCoverage') as { result: readonly ScriptCoverage[] }
    return result.reduce((sum, script) => sum + (script.url.startsWith(this.#own) ? this.#add(script, keep) : 0), 0)
  }

  /** All characters that have run. */
  covered(): number {
    return [...this.#scripts.values()].reduce((sum, { known }) => sum + known.reduce((a, b) => a + b, 0), 0)
  }

  close(): void {
    this.#session.disconnect()
  }

  #add({ url, functions }: ScriptCoverage, keep: boolean): number {
    const end = Math.max(...functions.map(({ ranges }) => ranges[0].endOffset))
    const { known, ran } = this.#characters(url, end)
    ran.fill(0)
    for (const { ranges } of functions) {
      for (const { startOffset, endOffset, count } of ranges) ran.fill(count > 0 ? 1 : 0, startOffset, endOffset)
    }
    let fresh = 0
    for (let i = 0; i < end; i++) {
      if (ran[i] <= known[i]) continue
      fresh++
      if (keep) known[i] = 1
    }
    return fresh
  }

  #characters(url: string, length: number): Characters {
    const old = this.#scripts.get(url)
    if (old && old.known.length >= length) return old
    const grown = { known: new Uint8Array(length), ran: new Uint8Array(length) }
    if (old) grown.known.set(old.known)
    this.#scripts.set(url, grown)
    return grown
  }

  #post(method: string, parameters: object = {}): unknown {
    let result: unknown
    this.#session.post(method, parameters, (error, value) => {
      if (error) throw new Error(`${method}: ${error.message}`)
      result = value
    })
    return result
  }
}
