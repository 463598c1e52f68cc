/** Snappy's raw format (https://github.com/google/snappy/blob/main/format_description.txt). */

/** Snappy's own compressor, and those after it, refer to nothing across these. */
export const blockBytes = 2 ** 16

/** The length that the data says at its beginning, and where they go on; undefined where that is damaged. */
export function readLength(bytes: Uint8Array): { length: number; at: number } | undefined {
  let length = 0
  for (let i = 0; i < Math.min(5, bytes.length); i++) {
    length += (bytes[i] & 127) * 128 ** i
    if (bytes[i] < 128) return { length, at: i + 1 }
  }
  return undefined
}

/**
 * Fills all of `out` from what begins at `at`, which must end with it. Undefined where the data are damaged.
 *
 * @returns where in `bytes` each block of `blockBytes` begins; none where one needs those before it
 */
export function unpackSnappy(bytes: Uint8Array, at: number, out: Uint8Array): { blocks?: Uint32Array } | undefined {
  const blocks = new Uint32Array(Math.ceil(out.length / blockBytes))
  let independent = true
  let to = 0
  while (at < bytes.length) {
    if (to % blockBytes === 0 && to < out.length) blocks[to / blockBytes] = at
    const start = to - (to % blockBytes)
    const tag = bytes[at++]
    const kind = tag & 3
    let length = (tag >> 2) + 1
    if (kind === 0) {
      const extra = Math.max(0, length - 60)
      if (extra > 0) {
        length = 1
        for (let b = 0; b < extra; b++) length += bytes[at + b] * 2 ** (8 * b)
        at += extra
      }
      // Not the other way round: a length from beyond the end is NaN.
      if (!(at + length <= bytes.length && to + length <= out.length)) return undefined
      copy(bytes, at, out, to, length)
      at += length
    } else {
      const extra = kind === 3 ? 4 : kind
      let offset = 0
      for (let b = 0; b < extra; b++) offset += bytes[at + b] * 2 ** (8 * b)
      at += extra
      if (kind === 1) {
        offset += (tag >> 5) * 256
        length = ((tag >> 2) & 7) + 4
      }
      if (!(offset > 0 && offset <= to && to + length <= out.length)) return undefined
      if (offset > to - start) independent = false
      for (let i = to; i < to + length; i++) out[i] = out[i - offset]
    }
    if (to + length > start + blockBytes) independent = false
    to += length
  }
  if (to !== out.length) return undefined
  return independent ? { blocks } : {}
}

function copy(from: Uint8Array, at: number, out: Uint8Array, to: number, length: number): void {
  if (length > 32) out.set(from.subarray(at, at + length), to)
  else for (let i = 0; i < length; i++) out[to + i] = from[at + i]
}
