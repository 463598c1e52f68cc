/**
 * The wire format of Protocol Buffers, for writing (https://protobuf.dev/programming-guides/encoding). A message knows
 * its length before its large fields exist, so that a file is written in order while these are made one at a time.
 */

/** Bytes that are made when their turn to be written has come. */
export interface LazyBytes {
  readonly length: number
  make(): Uint8Array | Promise<Uint8Array>
}

const wireType = { varint: 0, fixed64: 1, lengthDelimited: 2, fixed32: 5 } as const

/** Fields are written in the order of the calls; a field added twice is a repeated one. */
export class Message {
  readonly #parts: (Uint8Array | LazyBytes)[] = []
  #length = 0

  /** In bytes. */
  get length(): number {
    return this.#length
  }

  /** int32, int64, bool or an enum. */
  int(field: number, value: number): this {
    return this.#append(tag(field, wireType.varint)).#append(varint(value))
  }

  /** float. */
  float(field: number, value: number): this {
    const bytes = Buffer.alloc(4)
    bytes.writeFloatLE(value)
    return this.#append(tag(field, wireType.fixed32)).#append(bytes)
  }

  double(field: number, value: number): this {
    const bytes = Buffer.alloc(8)
    bytes.writeDoubleLE(value)
    return this.#append(tag(field, wireType.fixed64)).#append(bytes)
  }

  string(field: number, value: string): this {
    return this.bytes(field, Buffer.from(value))
  }

  bytes(field: number, value: Uint8Array | LazyBytes): this {
    return this.#append(tag(field, wireType.lengthDelimited)).#append(varint(value.length)).#append(value)
  }

  /** `value` must be complete: what is added to it later is not part of this message. */
  message(field: number, value: Message): this {
    this.#append(tag(field, wireType.lengthDelimited)).#append(varint(value.length))
    for (const part of value.#parts) this.#append(part)
    return this
  }

  #append(part: Uint8Array | LazyBytes): this {
    this.#parts.push(part)
    this.#length += part.length
    return this
  }

  /** The encoded message in order: lazy parts one by one, and what lies between them as a whole. */
  *chunks(): Generator<Uint8Array | LazyBytes> {
    let pending: Uint8Array[] = []
    for (const part of this.#parts) {
      if (part instanceof Uint8Array) {
        pending.push(part)
        continue
      }
      yield Buffer.concat(pending)
      pending = []
      yield part
    }
    yield Buffer.concat(pending)
  }

  /** The encoded message, which has no lazy parts. */
  encode(): Uint8Array {
    return Buffer.concat(this.#parts.map((part) => part as Uint8Array))
  }
}

function tag(field: number, type: number): Uint8Array {
  return varint(field * 8 + type)
}

/** Seven bits a byte, the lowest first; a negative number as its 64-bit two's complement. */
function varint(value: number): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value))
  const bytes: number[] = []
  while (rest >= 0x80n) {
    bytes.push(Number(rest & 0x7fn) | 0x80)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return Uint8Array.from(bytes)
}
