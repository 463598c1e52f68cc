/**
 * The only writer to stdout and stderr (but addon-first.ts, which comes before it): results on stdout, everything else on stderr; with --json, JSON lines on stdout. What can't
 * be written any more (its reader has gone, the disk is full, the terminal is closed) is dropped from then on, and remembered.
 */
import { closeSync } from 'node:fs'
import { isatty } from 'node:tty'
import { reasonOf, systemCode } from '../file-errors'
import { jsonLine, oneLine } from '../printable'
import type { Terminal } from './progress'

export interface Output {
  readonly json: boolean
  /** A line for machines; nothing without --json. */
  event(name: string, fields: Record<string, unknown>): void
  /** A line for people; nothing with --json. */
  say(text: string): void
  /** A line for people on stderr; nothing with --json. */
  note(text: string): void
  /** Where progress is drawn. */
  readonly progress: Terminal
}

/** `silent`: nothing is written, as by a process of several that does not lead. */
export function createOutput(json: boolean, silent = false): Output {
  if (silent) return { json, event: () => {}, say: () => {}, note: () => {}, progress: { write: () => {} } }
  return {
    json,
    event: (name, fields) => void (json && stdout.write(`${jsonLine({ event: name, ...fields })}\n`)),
    say: (text) => void (json || stdout.write(`${oneLine(text)}\n`)),
    note: (text) => void (json || note(text)),
    progress: stderr,
  }
}

/** A line on stderr. */
export function note(text: string): void {
  stderr.write(`${oneLine(text)}\n`)
}

/** A line on stderr, or with --json an event. */
export function warn(output: Output, message: string): void {
  output.event('warning', { message })
  output.note(`warning: ${message}`)
}

/** An output that failed. */
export interface LostOutput {
  readonly name: 'stdout' | 'stderr'
  readonly reason: string
  /** Its reader has gone, as that of a pipe into `head` does. */
  readonly closed: boolean
}

/** Bytes that wait for a reader which takes nothing. */
const maxQueued = 64 * 2 ** 20

class Channel {
  lost: LostOutput | undefined
  readonly #name: LostOutput['name']

  constructor(name: LostOutput['name']) {
    this.#name = name
    this.stream.on('error', (error) => this.#lose(error))
  }

  get stream(): NodeJS.WriteStream {
    return process[this.#name]
  }

  get isTTY(): boolean {
    return this.stream.isTTY === true
  }

  get columns(): number | undefined {
    return this.stream.columns
  }

  /** As it is, control characters included. */
  write(text: string): void {
    if (this.lost) return
    try {
      this.stream.write(text)
      if (this.stream.writableLength > maxQueued) this.#lose(new Error('its reader takes nothing'))
    } catch (error) {
      this.#lose(error)
    }
  }

  #lose(error: unknown): void {
    if (this.lost) return
    this.lost = { name: this.#name, reason: reasonOf(error), closed: systemCode(error) === 'EPIPE' }
    for (const listener of listeners) listener(this.lost)
  }
}

/** When what was written has been taken. */
export async function flushed(): Promise<void> {
  const taken = ({ lost, stream }: Channel) =>
    new Promise<void>((done) => (lost ? done() : stream.write('', () => done())))
  await Promise.all([stdout, stderr].map(taken))
}

const listeners: ((lost: LostOutput) => void)[] = []
export const stdout = new Channel('stdout')
export const stderr = new Channel('stderr')

/** Called for each output that fails, also for one that has failed already. */
export function onLostOutput(listener: (lost: LostOutput) => void): void {
  listeners.push(listener)
  for (const { lost } of [stdout, stderr]) if (lost) listener(lost)
}

const terminals = [0, 1, 2].filter((fd) => isatty(fd))

/** For the end: Node then sets its terminals to their modes of before, and aborts where one has been closed by the other side. */
export function closeLostTerminals(): void {
  for (const fd of terminals) {
    if (isatty(fd)) continue
    try {
      closeSync(fd)
    } catch {
      // it is closed, which is what is wanted
    }
  }
}
