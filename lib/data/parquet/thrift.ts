/**
 * Thrift's compact protocol, as far as Parquet's headers use it
 * (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
 */
import type { DiffusionError } from '../../errors'

export interface ThriftOptions {
  readonly bad: (problem: string) => DiffusionError
  /** Called with the bytes that are about to be allocated; may throw. */
  readonly charge: (bytes: number) => void
}

type Field = boolean | number | Uint8Array | readonly Field[] | Struct

/** What V8 takes, roughly. */
const structCost = 256
const fieldCost = 40
/** Of structs within one another. */
const maxDepth = 32

/** Fields by their numbers. Those of another type than is asked for are an error. */
export class Struct {
  readonly #fields = new Map<number, Field>()

  constructor(readonly bad: ThriftOptions['bad']) {}

  set(id: number, value: Field): void {
    this.#fields.set(id, value)
  }

  flag(id: number): boolean | undefined {
    return this.#get(id, (v) => typeof v === 'boolean')
  }

  /** An integer from 0 on: sizes, counts, places and enumerations. */
  size(id: number): number | undefined {
    return this.#get(id, (v) => Number.isSafeInteger(v) && (v as number) >= 0)
  }

  bytes(id: number): Uint8Array | undefined {
    return this.#get(id, (v) => v instanceof Uint8Array)
  }

  text(id: number): string | undefined {
    const bytes = this.bytes(id)
    return bytes && Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString()
  }

  texts(id: number): readonly string[] | undefined {
    return this.#get<Uint8Array[]>(id, (v) => isList(v, Uint8Array))?.map((b) => Buffer.from(b).toString())
  }

  struct(id: number): Struct | undefined {
    return this.#get(id, (v) => v instanceof Struct)
  }

  structs(id: number): readonly Struct[] {
    return this.#get(id, (v) => isList(v, Struct)) ?? []
  }

  /** What must be there. */
  need<T>(value: T | undefined, what: string): T {
    if (value === undefined) throw this.bad(`a header in it says no ${what}`)
    return value
  }

  #get<T>(id: number, is: (value: Field) => boolean): T | undefined {
    const value = this.#fields.get(id)
    if (value !== undefined && !is(value)) throw this.bad('a header in it is damaged')
    return value as T | undefined
  }
}

const isList = (value: Field, Kind: typeof Uint8Array | typeof Struct) =>
  Array.isArray(value) && value.every((item) => item instanceof Kind)

/** The bytes end within the struct. */
export class EndsEarly extends Error {}

/** The struct at `at`, and where it ends. Binary fields are views of the bytes. Throws EndsEarly and `bad(problem)`. */
export function readStruct(bytes: Uint8Array, at: number, o: ThriftOptions): { struct: Struct; end: number } {
  const reader = new Reader(bytes, at, o)
  return { struct: reader.struct(0), end: reader.at }
}

class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at: number,
    readonly o: ThriftOptions,
  ) {}

  struct(depth: number): Struct {
    if (depth > maxDepth) throw this.o.bad('a header in it is nested too deeply')
    this.o.charge(structCost)
    const struct = new Struct(this.o.bad)
    for (let id = 0; ; ) {
      const head = this.#byte()
      if (head === 0) return struct
      const step = head >> 4
      id = step > 0 ? id + step : this.#integer()
      const type = head & 15
      struct.set(id, type === 1 || type === 2 ? type === 1 : this.#value(type, depth))
    }
  }

  #value(type: number, depth: number): Field {
    this.o.charge(fieldCost)
    switch (type) {
      case 1: // in lists
      case 2:
        return this.#byte() === 1
      case 3:
        return this.#byte()
      case 4:
      case 5:
      case 6:
        return this.#integer()
      case 7:
        this.#view(8)
        return Number.NaN // none of ours is a double
      case 8:
        return this.#view(this.#varint())
      case 9:
      case 10:
        return this.#list(depth)
      case 12:
        return this.struct(depth + 1)
      default:
        throw this.o.bad('a header in it is damaged')
    }
  }

  #list(depth: number): Field {
    const head = this.#byte()
    const count = head >> 4 === 15 ? this.#varint() : head >> 4
    const items: Field[] = []
    if (depth > maxDepth) throw this.o.bad('a header in it is nested too deeply')
    // Each has a byte at least, so that the bytes bound them.
    for (let i = 0; i < count; i++) items.push(this.#value(head & 15, depth + 1))
    return items
  }

  #byte(): number {
    if (this.at >= this.bytes.length) throw new EndsEarly()
    return this.bytes[this.at++]
  }

  #view(length: number): Uint8Array {
    if (length > this.bytes.length - this.at) throw new EndsEarly()
    this.at += length
    return this.bytes.subarray(this.at - length, this.at)
  }

  /** Beyond 2^53 roughly: nothing that is right is so large. */
  #varint(): number {
    let value = 0
    for (let scale = 1; scale < 2 ** 70; scale *= 128) {
      const byte = this.#byte()
      value += (byte & 127) * scale
      if (byte < 128) return value
    }
    throw this.o.bad('a number in a header of it is damaged')
  }

  /** Zigzag: 0, -1, 1, -2. */
  #integer(): number {
    const value = this.#varint()
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }
}
