/** CIFAR-10 and CIFAR-100 in their binary version (https://www.cs.toronto.edu/~kriz/cifar.html): 32x32, planes of red, green, blue. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { type Source, withSource } from '../../checkpoint/source'
import { readImageBytes } from '../image-bytes'
import { numberedClasses, rawSource } from './raw'
import type { ImageSource, SourceOptions } from './source'

const pixels = 3 * 32 * 32
const layout = { height: 32, width: 32, channels: 3, type: 'u1', planar: true } as const

/** Labels before an image's pixels, of which the last one is its class; and the file of the classes' names. */
const kinds = [
  { labels: 1, classes: 10, names: 'batches.meta.txt' },
  { labels: 2, classes: 100, names: 'fine_label_names.txt' },
] as const

const pieceBytes = 2 ** 20
const maxNames = 2 ** 16

/**
 * Which of the two it is follows from its length. Classes are called as the file of names beside it says, else by their numbers.
 * Throws `bad-file` for another length and a label beyond the classes.
 */
export async function cifarSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const read = async (source: Source) => {
    const kind = kinds.find(({ labels }) => source.size > 0 && source.size % (pixels + labels) === 0)
    if (!kind)
      throw source.bad(
        `its ${source.size} bytes are no whole number of images, of 3073 bytes or of 3074: it is truncated`,
      )
    const stride = pixels + kind.labels
    const count = source.size / stride
    source.budget.memory(8 * count + pieceBytes)
    source.budget.items(count)
    const labels = new Int32Array(count)
    const perPiece = Math.floor(pieceBytes / stride)
    for (let first = 0; first < count; first += perPiece) {
      const n = Math.min(perPiece, count - first)
      const piece = new Uint8Array(n * stride)
      await source.read(piece, first * stride)
      for (let i = 0; i < n; i++) labels[first + i] = piece[i * stride + kind.labels - 1]
    }
    const names = (await namesBeside(file, kind.names, kind.classes)) ?? numbers(kind.classes)
    const classes = numberedClasses(labels, names, source.bad)
    return { ...layout, begin: kind.labels, stride, count, classes }
  }
  return rawSource({ ...(await withSource(file, "file of CIFAR's images", read, { argument: 'data' })), file }, o)
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => String(i))

/** Lines of a text file; undefined where there is none with so many different ones. */
async function namesBeside(file: string, name: string, count: number): Promise<readonly string[] | undefined> {
  const beside = path.join(path.dirname(file), name)
  if (!(await stat(beside).catch(() => undefined))?.isFile()) return undefined
  const text = await readImageBytes(beside, maxNames).catch(() => undefined)
  const names =
    text &&
    Buffer.from(text)
      .toString()
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean)
  return names && new Set(names).size === count && names.length === count ? names : undefined
}
