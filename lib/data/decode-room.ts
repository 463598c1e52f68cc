/** Memory of the images that are decoded at once, in all of the process: a batch of large ones waits for one another. */
import { maxDecodeBytes } from './image-limits'

let room = maxDecodeBytes
const waiting: { readonly bytes: number; readonly go: () => void }[] = []

/** Runs `decode` as soon as there is room for its bytes, at most maxDecodeBytes; in the order of the calls. */
export async function withDecodeRoom<T>(bytes: number, decode: () => Promise<T>): Promise<T> {
  if (waiting.length > 0 || bytes > room) await new Promise<void>((go) => waiting.push({ bytes, go }))
  else room -= bytes
  try {
    return await decode()
  } finally {
    room += bytes
    while (waiting.length > 0 && waiting[0].bytes <= room) {
      const { bytes, go } = waiting.shift()!
      room -= bytes
      go()
    }
  }
}
