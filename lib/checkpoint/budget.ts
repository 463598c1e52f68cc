/**
 * What the reading of one file may cost, by the file's size. A small file can ask for anything: to be unpacked to gigabytes, to
 * have one piece read a million times. Every reader charges here what it is about to do.
 */
import type { DiffusionError } from '../errors'

const MiB = 2 ** 20

/** Beyond what is said of the file's size below, for small files. V8's own garbage has to fit beside it in 64 MiB. */
const freeMemory = 48 * MiB
/** Weights in half precision become float32. */
const memoryOfByte = 2
const freeWork = 64 * MiB
const workOfByte = 4
const freeItems = 4_000_000
/** Seconds: far more than any file takes that is worth its size; a stalled network drive is no attack. */
const freeTime = 60
const bytesPerSecond = MiB

export class Budget {
  #memory: number
  #work: number
  #items: number
  readonly #deadline: number

  constructor(
    readonly fileSize: number,
    /** The error that ends the reading. */
    readonly bad: (problem: string) => DiffusionError,
  ) {
    this.#memory = memoryOfByte * fileSize + freeMemory
    this.#work = workOfByte * fileSize + freeWork
    this.#items = freeItems + fileSize
    this.#deadline = performance.now() + 1000 * (freeTime + fileSize / bytesPerSecond)
  }

  /** Bytes that are about to be allocated; of objects, roughly what V8 makes of them. */
  memory(bytes: number): void {
    this.#memory -= bytes
    if (!(this.#memory >= 0)) throw this.bad('it unfolds to far more memory than a file of this size may take')
  }

  /** Bytes that were charged and are not held any more. */
  release(bytes: number): void {
    this.#memory += bytes
  }

  /** Bytes that are about to be read, unpacked or looked through. */
  work(bytes: number): void {
    this.#work -= bytes
    if (!(this.#work >= 0)) throw this.bad('reading it takes far more work than a file of this size is worth')
    if (performance.now() > this.#deadline) throw this.bad('reading it takes far more time than it is worth')
  }

  /** Steps of an interpreter, entries, nodes: what takes time whatever its size. */
  items(count: number): void {
    this.#items -= count
    if (!(this.#items >= 0)) throw this.bad('it has far more items than a file of this size is worth')
  }
}
