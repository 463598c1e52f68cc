/** Damage: small changes of a file. */
import type { Random } from '../support/random'

/** One to four changes: a bit, a byte, a number that lies, a piece cut out, doubled or put in, an early end. */
export function mutate(original: Uint8Array, snippets: readonly string[], random: Random): Buffer {
  const pick = (n: number) => Math.floor(random.uniform() * n)
  let bytes = Buffer.from(original)
  for (let edits = 1 + pick(4); edits > 0; edits--) {
    // Half of the changes where the structure is: at either end.
    const at = pick(2) ? pick(bytes.length) : pick(2) ? pick(Math.min(400, bytes.length)) : lastOf(bytes, pick)
    switch (pick(7)) {
      case 0:
        bytes[at] ^= 1 << pick(8)
        break
      case 1:
        bytes[at] = pick(256)
        break
      case 2:
        lie(bytes, at, pick)
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + pick(20))])
        break
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at + 1 + pick(40)), bytes.subarray(at)])
        break
      case 5:
        Buffer.from(snippets[pick(snippets.length)], 'latin1').copy(bytes, at)
        break
      default:
        if (pick(10) === 0) bytes = bytes.subarray(0, at)
        else bytes = Buffer.concat([bytes.subarray(0, at), snippet(snippets, pick), bytes.subarray(at)])
    }
    if (bytes.length === 0) return Buffer.alloc(1)
  }
  return bytes
}

const lastOf = (bytes: Uint8Array, pick: (n: number) => number) => bytes.length - 1 - pick(Math.min(400, bytes.length))

function snippet(snippets: readonly string[], pick: (n: number) => number): Buffer {
  return Buffer.from(snippets[pick(snippets.length)].repeat(1 + pick(3) ** 6), 'latin1')
}

/** Overwrites a number of 1, 2, 4 or 8 bytes by one that is near 0 or near the largest of a kind. */
function lie(bytes: Buffer, at: number, pick: (n: number) => number): void {
  const size = 1 << pick(4)
  const [top, small] = [BigInt(8 * [1, 2, 4, 8, 3.875, 7.875][pick(6)]), BigInt(pick(3))]
  const value = pick(2) ? small : BigInt.asUintN(64, (1n << top) - small)
  const number = Buffer.alloc(8)
  number.writeBigUInt64LE(BigInt.asUintN(64, value))
  number.copy(bytes, at, 0, size)
}
