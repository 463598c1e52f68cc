/**
 * Values loaded ahead of their use: `load(start)`, `load(start + 1)`, ... with at most `ahead` of them under way or waiting.
 * Memory is bounded by `ahead` values; a failed load rejects the `next()` whose turn it is, and no earlier one.
 */
export class Prefetcher<T> {
  readonly #load: (index: number) => Promise<T>
  readonly #ahead: number
  readonly #queue: Promise<T>[] = []
  #index: number

  constructor(load: (index: number) => Promise<T>, start: number, ahead: number) {
    this.#load = load
    this.#index = start
    this.#ahead = Math.max(1, ahead)
  }

  next(): Promise<T> {
    this.#fill()
    const first = this.#queue.shift()!
    this.#fill()
    return first
  }

  /** Waits for what is under way and drops it. */
  async stop(): Promise<void> {
    await Promise.allSettled(this.#queue.splice(0))
  }

  #fill(): void {
    while (this.#queue.length < this.#ahead) {
      const loading = this.#load(this.#index++)
      loading.catch(() => {}) // reported by next(); until then it must not count as unhandled
      this.#queue.push(loading)
    }
  }
}
