/** The latents of a training's images: those of an earlier training where they are of the same images and first stage, else computed. */
import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Dataset } from '../../data/dataset'
import { LatentFile, type LatentHeader, type Moments, writeLatents } from '../../data/latents/latent-file'
import { type FirstStage, isPosterior } from '../../diffusion/latent/stages'
import { DiffusionError, invalidArgument } from '../../errors'
import { makeFolder } from '../../make-folder'
import { sizeOf, Tensor } from '../../tensor'

/** Images that are encoded at once. */
const batchSize = 8

export interface LatentSource {
  readonly stage: FirstStage
  readonly images: Dataset
  /** Where the file is, or will be. */
  readonly folder: string
  /** Each is encoded mirrored, too. */
  readonly flip: boolean
  /** A file of at most so many bytes is kept in memory. */
  readonly keepBytes: number
  readonly signal?: AbortSignal
  /** After each batch that was encoded. */
  onProgress?(o: { done: number; total: number }): unknown
}

/**
 * To be closed. A file that is damaged, or of other images, weights or sizes, is not used, and replaced where it has the same name. Throws
 * `aborted`, `io`, and what reading and encoding the images throw.
 */
export async function openLatents(o: LatentSource): Promise<LatentFile> {
  const { images, stage, flip } = o
  const files = await filesOf(images)
  const header: LatentHeader = {
    key: await keyOf(o, files),
    images: images.length,
    views: flip ? 2 : 1,
    ...(await formOf(stage, images)),
  }
  const file = path.join(o.folder, `${files ? header.key.slice(0, 16) : 'object'}.latents`)
  const known = await LatentFile.open(file, header, o.keepBytes)
  if (known) return known
  await makeFolder(o.folder)
  await writeLatents(file, header, (add) => encodeAll(o, header, add))
  const made = await LatentFile.open(file, header, o.keepBytes)
  if (made) return made
  throw new DiffusionError('io', `${file} is not as it was written`, { argument: 'latents', received: file })
}

/** Of a first image of nothing. */
async function formOf(stage: FirstStage, { channels, height, width }: Dataset) {
  using x = Tensor.wrap(new Float32Array(channels * height * width), [1, channels, height, width])
  const encoded = await stage.encode(x)
  const { shape } = isPosterior(encoded) ? await encoded.mode() : encoded
  return { shape: [shape[1], shape[2], shape[3]] as const, deviations: isPosterior(encoded) }
}

type Add = Parameters<Parameters<typeof writeLatents>[2]>[0]

async function encodeAll(o: LatentSource, header: LatentHeader, add: Add): Promise<void> {
  const { images: data, stage, signal } = o
  const total = data.length
  for (let first = 0; first < total; first += batchSize) {
    if (signal?.aborted) throw new DiffusionError('aborted', 'the training was aborted', { cause: signal.reason })
    const items = Array.from({ length: Math.min(batchSize, total - first) }, (_, i) => first + i)
    const shape = [items.length, data.channels, data.height, data.width]
    const pictures = await data.pictures(items, header.views === 2)
    const views: Moments[][] = []
    for (const images of pictures.views) {
      using x = Tensor.wrap(images, shape)
      views.push(await momentsOf(stage, x, header))
    }
    for (const [i, item] of pictures.items.entries())
      await add(
        views.map((view) => view[i]),
        item,
      )
    await o.onProgress?.({ done: first + items.length, total })
  }
}

async function momentsOf(stage: FirstStage, x: Tensor, { shape }: LatentHeader): Promise<Moments[]> {
  const encoded = await stage.encode(x)
  const size = sizeOf(shape)
  const rows = async (tensor: Tensor) => {
    const values = await tensor.data()
    return Array.from({ length: x.shape[0] }, (_, i) => values.subarray(i * size, (i + 1) * size))
  }
  if (!isPosterior(encoded)) return (await rows(encoded)).map((mean) => ({ mean }))
  const { mean, std } = encoded as unknown as { mean?: Tensor; std?: Tensor }
  if (!(mean instanceof Tensor && std instanceof Tensor)) {
    throw invalidArgument('firstStage', 'one whose posterior has mean and std', encoded)
  }
  const [means, deviations] = await Promise.all([rows(mean), rows(std)])
  return means.map((own, i) => ({ mean: own, std: deviations[i] }))
}

/** Of the images' names, sizes and times, how they are read, and the first stage's weights. */
async function keyOf({ stage, images }: LatentSource, files: unknown): Promise<string> {
  const hash = createHash('sha256')
  // Of an object of the caller's nothing is known: its latents are computed each time.
  const source = files ?? String(process.hrtime.bigint())
  hash.update(JSON.stringify([images.fingerprint, source, (stage as { config?: unknown }).config]))
  const dict = (await stage.stateDict?.()) ?? {}
  for (const [name, tensor] of Object.entries(dict)) {
    const values = await tensor.values()
    hash.update(JSON.stringify([name, tensor.shape]))
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  }
  return hash.digest('hex')
}

/** Sizes and times of the images' files; of one file with all images, or a folder of such, theirs; undefined of none. */
async function filesOf({ source }: Dataset): Promise<readonly unknown[] | undefined> {
  if (!path.isAbsolute(source.name)) return undefined // an object's name is no path, whatever lies in the working directory
  const about = async (file: string) => {
    const stats = await stat(file).catch(() => undefined)
    return stats && [stats.size, stats.mtimeMs]
  }
  const first = source.nameOf(0)
  for (const folder of [source.name, path.dirname(source.name)]) {
    if (!(await about(path.resolve(folder, first)))) continue
    const all: unknown[] = []
    for (let i = 0; i < source.length; i++) all.push(await about(path.resolve(folder, source.nameOf(i))))
    return all
  }
  const files = await readdir(source.name).catch(() => [''])
  const found = await Promise.all(files.sort().map(async (name) => [name, await about(path.join(source.name, name))]))
  return found.some(([, stats]) => stats) ? found : undefined
}
