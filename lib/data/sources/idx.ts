/** MNIST's idx files (http://yann.lecun.com/exdb/mnist), gzipped or not, with the labels in a file beside that of the images. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { type Source, withSource } from '../../checkpoint/source'
import { type ClassLabelling, labellingOfWords } from '../class-labels'
import { checkExtent, layoutOf, rawSource } from './raw'
import type { ImageSource, SourceOptions } from './source'

/** Beyond what bytes of pictures are packed to. */
const maxRatio = 100

interface Idx {
  readonly shape: readonly number[]
  /** Where its bytes begin, in the file or in `unpacked`. */
  readonly begin: number
  /** Where it was gzipped. */
  readonly unpacked?: Uint8Array
}

/** Throws `bad-file` for another magic number, a length that is not its shape's, and labels of another number than the images. */
export async function idxSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const raw = await withIdx(file, async (source) => {
    const { shape, ...place } = await readIdx(source)
    const layout = layoutOf(shape, o.channels, source.bad)
    checkExtent(layout, source.bad)
    return { ...layout, ...place, stride: layout.height * layout.width * layout.channels }
  })
  const labels = labelFileOf(file)
  const classes = labels && (await isThere(labels)) ? await readLabels(labels, raw.count) : undefined
  return rawSource({ ...raw, file, type: 'u1', ...(classes && { classes }) }, o)
}

const withIdx = <T>(file: string, use: (source: Source) => Promise<T>) =>
  withSource(file, 'file of bytes in the idx format', use, { argument: 'data' })

/** train-images-idx3-ubyte.gz has its labels in train-labels-idx1-ubyte.gz. */
function labelFileOf(file: string): string | undefined {
  const name = path.basename(file).replace('images', 'labels').replace('idx3', 'idx1')
  return name === path.basename(file) ? undefined : path.join(path.dirname(file), name)
}

const isThere = (file: string) =>
  stat(file).then(
    () => true,
    () => false,
  )

async function readIdx(source: Source): Promise<Idx> {
  const head = new Uint8Array(Math.min(20, source.size))
  await source.read(head, 0)
  if (head[0] !== 0x1f || head[1] !== 0x8b) return parseIdx(source, head, source.size)
  const unpacked = await gunzipped(source)
  return { ...parseIdx(source, unpacked, unpacked.length), unpacked }
}

function parseIdx({ bad }: Source, bytes: Uint8Array, length: number): Idx {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(20, bytes.length))
  const rank = head[3]
  const isIdx = head.length >= 8 && head.readUInt16BE(0) === 0 && head[2] === 8 && rank >= 1 && rank <= 4
  if (!isIdx) throw bad('it does not begin with the magic number of an idx file of bytes')
  const begin = 4 + 4 * rank
  if (length < begin) throw bad('it is truncated')
  const shape = Array.from({ length: rank }, (_, i) => head.readUInt32BE(4 + 4 * i))
  const size = shape.reduce((a, b) => a * b, 1)
  if (size !== length - begin)
    throw bad(`its shape is [${shape.join(', ')}], but ${length - begin} bytes follow: it is truncated`)
  return { shape, begin }
}

/** All of it; the last four bytes say how long it will be. */
async function gunzipped(source: Source): Promise<Uint8Array> {
  const { size, budget, bad } = source
  budget.memory(size)
  const packed = Buffer.alloc(size)
  await source.read(packed, 0)
  const length = size < 18 ? 0 : packed.readUInt32LE(size - 4)
  if (length > maxRatio * size)
    throw bad(`it would unpack to ${length} bytes: it is truncated, or to be unpacked by gunzip`)
  budget.memory(length)
  budget.work(length)
  try {
    const unpacked = gunzipSync(packed, { maxOutputLength: Math.max(1, length) })
    budget.release(size)
    return new Uint8Array(unpacked.buffer, unpacked.byteOffset, unpacked.length)
  } catch {
    throw bad("it can't be unpacked: it is truncated or damaged")
  }
}

function readLabels(file: string, count: number): Promise<ClassLabelling> {
  return withIdx(file, async (source) => {
    const { shape, begin, unpacked } = await readIdx(source)
    if (shape.length !== 1 || shape[0] !== count)
      throw source.bad(`its shape is [${shape.join(', ')}], and there are ${count} images`)
    source.budget.memory(count * 64)
    const bytes = unpacked ?? new Uint8Array(source.size)
    if (!unpacked) await source.read(bytes, 0)
    return labellingOfWords(Array.from(bytes.subarray(begin), String))
  })
}
