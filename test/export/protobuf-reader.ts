/** Reads Protocol Buffers' wire format into fields by number, knowing nothing of what was written. */
export type Fields = Record<number, (bigint | Buffer)[]>

export function decode(bytes: Buffer): Fields {
  const fields: Fields = {}
  let at = 0
  const varint = () => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = BigInt(bytes[at++])
      value |= (byte & 0x7fn) << shift
      if (byte < 0x80n) return value
    }
  }
  const take = (length: number) => {
    if (at + length > bytes.length) throw new Error(`${length} bytes at ${at} of ${bytes.length}`)
    at += length
    return bytes.subarray(at - length, at)
  }
  while (at < bytes.length) {
    const key = Number(varint())
    const field = key >> 3
    fields[field] ??= []
    if ((key & 7) === 0) fields[field].push(varint())
    else if ((key & 7) === 2) fields[field].push(take(Number(varint())))
    else if ((key & 7) === 5) fields[field].push(take(4))
    else throw new Error(`wire type ${key & 7} at ${at}`)
  }
  return fields
}

export const messages = (fields: Fields, field: number): Fields[] =>
  (fields[field] ?? []).map((v) => decode(v as Buffer))
export const strings = (fields: Fields, field: number): string[] => (fields[field] ?? []).map(String)
export const integers = (fields: Fields, field: number): number[] =>
  (fields[field] ?? []).map((v) => Number(BigInt.asIntN(64, v as bigint)))
