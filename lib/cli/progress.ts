/** A progress bar with rate and time left, on a terminal; elsewhere a line of them now and then, if that is asked for. */

import { oneLine } from '../printable'

/** The part of a terminal stream that is used. */
export interface Terminal {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

const redrawMs = 100
/** Between lines where there is no terminal. */
const lineMs = 30_000
/** The rate is that of the last so many milliseconds, so that a slow start is forgotten. */
const windowMs = 20_000

export class Progress {
  readonly #out: Terminal
  readonly #total: number
  readonly #label: string
  readonly #rate: boolean
  readonly #lines: boolean
  #lastLine = performance.now()
  #marks: { time: number; done: number }[]
  #drawn = 0

  /**
   * `done`: how much of `total` there is before it starts; `rate`: whether to show how much that is a second (default true);
   * `lines`: whether to write lines where there is no terminal (default false).
   */
  constructor(out: Terminal, o: { label: string; total: number; done?: number; rate?: boolean; lines?: boolean }) {
    this.#rate = o.rate ?? true
    this.#lines = o.lines ?? false
    this.#out = out
    this.#label = o.label
    this.#total = o.total
    this.#marks = [{ time: performance.now(), done: o.done ?? 0 }]
  }

  /** `note` may be a function of the characters that are left for it. */
  update(done: number, note: string | ((room: number) => string) = ''): void {
    const now = performance.now()
    this.#marks.push({ time: now, done })
    while (this.#marks.length > 2 && now - this.#marks[1].time > windowMs) this.#marks.shift()
    if (!this.#out.isTTY) {
      this.#line(now, done, typeof note === 'string' ? note : note(Number.POSITIVE_INFINITY))
      return
    }
    if (now - this.#drawn < redrawMs && done < this.#total) return
    this.#drawn = now
    this.#out.write(`\r\x1b[K${oneLine(this.line(done, note))}`)
  }

  #line(now: number, done: number, note: string): void {
    if (!this.#lines || now - this.#lastLine < lineMs) return
    this.#lastLine = now
    const percent = Math.floor((100 * done) / this.#total)
    this.#out.write(`${this.#label} ${percent}% ${done}/${this.#total}  ETA ${this.eta}  ${oneLine(note)}\n`)
  }

  /** Text above the bar. */
  print(text: string): void {
    this.clear()
    this.#out.write(`${oneLine(text)}\n`)
  }

  clear(): void {
    if (this.#out.isTTY && this.#drawn > 0) this.#out.write('\r\x1b[K')
  }

  /** Time left, as at the last update. */
  get eta(): string {
    const rate = this.#perSecond
    return rate > 0 ? duration((this.#total - this.#marks[this.#marks.length - 1].done) / rate) : '--:--'
  }

  get #perSecond(): number {
    const first = this.#marks[0]
    const last = this.#marks[this.#marks.length - 1]
    return last.time > first.time ? (1000 * (last.done - first.done)) / (last.time - first.time) : 0
  }

  line(done: number, given: string | ((room: number) => string)): string {
    const fraction = this.#total > 0 ? done / this.#total : 1
    const rate = this.#rate ? `${this.#perSecond.toPrecision(3)}/s  ` : ''
    const columns = this.#out.columns ?? 80
    const left = `${String(Math.floor(100 * fraction)).padStart(3)}% ${done}/${this.#total}  ${rate}ETA ${this.eta}  `
    const note = typeof given === 'string' ? given : given(columns - 1 - this.#label.length - 1 - left.length)
    const right = left + note
    const room = columns - this.#label.length - right.length - 4
    const width = Math.max(0, Math.min(30, room))
    const full = Math.round(width * fraction)
    const bar = width > 3 ? `${'█'.repeat(full)}${'░'.repeat(width - full)} ` : ''
    return `${this.#label} ${bar}${right}`.slice(0, columns - 1)
  }
}

/** 75 -> '1:15', 3675 -> '1:01:15'. */
export function duration(seconds: number): string {
  const s = Math.round(seconds)
  const parts = s >= 3600 ? [Math.floor(s / 3600), Math.floor(s / 60) % 60, s % 60] : [Math.floor(s / 60), s % 60]
  return parts.map((part, i) => (i === 0 ? String(part) : String(part).padStart(2, '0'))).join(':')
}
