/** Where images go as they are drawn, so that what is done is there whenever the drawing ends, and can be gone on with. */
import type { PartHeader } from '../data/parts/part-file'
import type { Drawn, LabelOf, Span } from './draw'
import type { SampleRecord } from './sample-record'

export interface KeepOptions {
  readonly record: SampleRecord
  readonly span: Span
  /** Of an image: [height, width, channels]. */
  readonly shape: readonly [number, number, number]
  /** Which part of a sampling these images are. */
  readonly part?: PartHeader
  /** Go on with what is there. */
  readonly resume: boolean
  /** Replace what is there; otherwise another name is taken. */
  readonly overwrite: boolean
  /** The name that is taken for one that is asked for. */
  nameFor(wanted: string, taken: (name: string) => Promise<boolean>): Promise<string>
}

/** Where images are kept. */
export interface Keeper {
  /** The name that was asked for, and the one that was taken. */
  readonly wanted: string
  readonly name: string
  has(image: number): boolean
  add(drawn: Drawn): Promise<void>
  /** [height, width, channels] of an image that it has; undefined where it can't be read again. */
  read(image: number): Promise<Uint8Array | undefined>
  /** All images are there; the files. */
  finish(labelOf: LabelOf): Promise<string[]>
  close(): Promise<void>
}

export function numbersOf({ first, count }: Span): number[] {
  return Array.from({ length: count }, (_, i) => first + i)
}

export function sizeOf({ shape: [height, width, channels] }: KeepOptions): number {
  return height * width * channels
}
