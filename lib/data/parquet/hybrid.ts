/**
 * Parquet's hybrid of run lengths and packed bits, which levels and indices of dictionaries are in
 * (https://parquet.apache.org/docs/file-format/data-pages/encodings/, RLE = 3).
 */

/** `count` numbers of `width` bits, at most 32; undefined where the bytes end before. */
export function readHybrid(bytes: Uint8Array, width: number, count: number): Uint32Array | undefined {
  const values = new Uint32Array(count)
  const wide = Math.ceil(width / 8)
  let at = 0
  for (let i = 0; i < count; ) {
    let head = 0
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length || scale > 2 ** 35) return undefined
      const byte = bytes[at++]
      head += (byte & 127) * scale
      if (byte < 128) break
    }
    if (head % 2 === 0) {
      if (at + wide > bytes.length) return undefined
      let value = 0
      for (let b = 0; b < wide; b++) value += bytes[at++] * 2 ** (8 * b)
      const end = Math.min(count, i + head / 2)
      values.fill(value, i, end)
      i = end
    } else {
      // Groups of eight; the last one may be longer than what is wanted, or cut off behind it.
      const end = Math.min(count, i + 8 * ((head - 1) / 2))
      if (at + Math.ceil(((end - i) * width) / 8) > bytes.length) return undefined
      unpackBits(bytes, at, width, values.subarray(i, end))
      at += ((head - 1) / 2) * width
      i = end
    }
  }
  return values
}

/** From the lowest bit of the first byte on. */
function unpackBits(bytes: Uint8Array, at: number, width: number, values: Uint32Array): void {
  let held = 0
  let bits = 0
  const size = 2 ** width
  for (let i = 0; i < values.length; i++) {
    while (bits < width) {
      held += bytes[at++] * 2 ** bits
      bits += 8
    }
    values[i] = held % size
    held = Math.floor(held / size)
    bits -= width
  }
}
