/** metrics.jsonl: one JSON object a line, one line a training step, and one of its own for the losses of held-out images. */
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { ioError } from '../file-errors'
import type { Scalars } from './scalars'

const { O_RDWR, O_APPEND, O_CREAT, O_NONBLOCK } = constants

/** What a step of any training reports. */
export interface CommonMetrics {
  /** Completed optimizer steps, this one included. */
  readonly step: number
  /** The mean over the accumulated batches, as the others. */
  readonly loss: number
  /** Global L2 norm of the gradients before clipping; null where they overflowed in fp16 and the step changed nothing. */
  readonly gradNorm: number | null
  readonly lr: number
  readonly imagesPerSecond: number
  /** ISO 8601. */
  readonly time: string
}

/** What a training step reports. Losses are means over the accumulated batches, by the keys of ddpm.py's loss dictionary. */
export interface StepMetrics extends CommonMetrics {
  readonly loss_simple: number
  readonly loss_vlb: number
  /** With fp16: what the loss was multiplied by for its gradients. */
  readonly lossScale?: number
}

/** What is logged of a step, by ddpm.py's names where it has one. */
export function scalarsOf(metrics: StepMetrics): Scalars {
  return {
    'train/loss': metrics.loss,
    'train/loss_simple': metrics.loss_simple,
    'train/loss_vlb': metrics.loss_vlb,
    ...(metrics.gradNorm !== null && { 'train/grad_norm': metrics.gradNorm }),
    ...(metrics.lossScale !== undefined && { 'train/loss_scale': metrics.lossScale }),
    lr_abs: metrics.lr,
    images_per_second: metrics.imagesPerSecond,
  }
}

export class MetricsLog {
  readonly #file: string
  readonly #fd: number
  /** Of the whole lines. */
  #bytes: number
  /** Lines that could not be written so far. */
  #pending = ''

  private constructor(file: string, fd: number, bytes: number) {
    this.#file = file
    this.#fd = fd
    this.#bytes = bytes
  }

  /**
   * Appends to `file`, after cutting off what a killed run wrote beyond `step`: those steps will be taken again. What comes before
   * is not touched. Throws `io`.
   */
  static open(file: string, step: number): MetricsLog {
    let fd: number | undefined
    try {
      fd = openSync(file, O_RDWR | O_APPEND | O_CREAT | (O_NONBLOCK ?? 0)) // a pipe does not make it wait
      const stats = fstatSync(fd)
      if (!stats.isFile()) throw new Error('it is not a regular file')
      const { end, newline } = endOf(fd, step)
      if (end < stats.size) ftruncateSync(fd, end)
      const log = new MetricsLog(file, fd, end)
      if (newline) log.#pending = '\n'
      return log
    } catch (error) {
      if (fd !== undefined) closeSync(fd)
      throw ioError(`cannot open ${file}`, error, { path: file })
    }
  }

  /** Throws `io`. The line is then written by the next call that succeeds, `flush` or this one. */
  write(metrics: CommonMetrics | Readonly<{ step: number; time: string; [name: string]: number | string }>): void {
    this.#pending += `${JSON.stringify(metrics)}\n`
    this.flush()
  }

  /** Writes what an earlier call could not, completely or not at all. Throws `io`. */
  flush(): void {
    const lines = Buffer.from(this.#pending)
    try {
      for (let at = 0; at < lines.length; ) at += writeSync(this.#fd, lines, at)
      this.#bytes += lines.length
      this.#pending = ''
    } catch (error) {
      this.#cutBack()
      throw ioError(`cannot write ${this.#file}`, error, { path: this.#file, kept: 'its lines so far are kept' })
    }
  }

  /** Makes the lines durable. Throws `io`. */
  sync(): void {
    this.flush()
    try {
      fsyncSync(this.#fd)
    } catch (error) {
      throw ioError(`cannot write ${this.#file}`, error, { path: this.#file })
    }
  }

  close(): void {
    closeSync(this.#fd)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #cutBack(): void {
    try {
      ftruncateSync(this.#fd, this.#bytes)
    } catch {
      // half a line at the end is cut off when the training is resumed
    }
  }
}

const chunkBytes = 1 << 20
/** Longer ones are none of ours, and are not kept in memory. */
const maxLineBytes = 1 << 16
/** {"step":1} */
const shortestLine = 10

/**
 * Where the lines up to `step` end: behind the last whole one before the first that is beyond it. `newline`: that one has none.
 * The file is read in pieces: a long training's has more bytes than a string can.
 */
function endOf(fd: number, step: number): { end: number; newline: boolean } {
  const chunk = Buffer.alloc(chunkBytes)
  let carried = Buffer.alloc(0)
  let end = 0
  let position = 0 // of the first byte after `carried`
  for (;;) {
    const length = readSync(fd, chunk, 0, chunkBytes, position)
    const bytes = Buffer.concat([carried, chunk.subarray(0, length)])
    const start = position - carried.length
    let from = 0
    for (let to = bytes.indexOf(10); to >= 0; to = bytes.indexOf(10, from)) {
      const found = to - from < shortestLine ? Number.NaN : stepOf(bytes.subarray(from, to))
      if (found > step) return { end, newline: false }
      from = to + 1
      if (found <= step) end = start + from
    }
    if (length === 0) {
      const whole = stepOf(bytes.subarray(from)) <= step
      return whole ? { end: start + bytes.length, newline: true } : { end, newline: false }
    }
    position += length
    // The start of an overlong line is not needed: without it, it is no line of ours either.
    carried = Buffer.from(bytes.subarray(Math.max(from, bytes.length - maxLineBytes)))
  }
}

/** NaN for a line torn by a kill, or by somebody else. */
function stepOf(line: Buffer): number {
  const text = line.toString('latin1')
  const short = /^\{"step":(\d+),.*\}$/.exec(text)
  if (short) return Number(short[1])
  if (text[0] !== '{') return Number.NaN
  try {
    const { step } = JSON.parse(line.toString())
    return typeof step === 'number' ? step : Number.NaN
  } catch {
    return Number.NaN
  }
}
