/** A PNG for each image, and while not all are there a hidden file that says how they are drawn. */
import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { readJsonFile } from '../checkpoint/json'
import { encodeImage } from '../data/image-format'
import { imageAt } from '../data/image-grid'
import { sharp } from '../data/load-sharp'
import { partName } from '../data/parts/part-file'
import { DiffusionError } from '../errors'
import { makeFolder } from '../make-folder'
import type { Drawn, Span } from './draw'
import { type Keeper, type KeepOptions, numbersOf, sizeOf } from './keeper'
import { checkRecord } from './sample-record'

const wholeRecord = '.ddpm-sample.json'

/** Of all images, or of a shard's. */
function recordNameOf({ part }: Pick<KeepOptions, 'part'>): string {
  return part ? partName(wholeRecord, part.shard) : wholeRecord
}

const shardRecord = /^\.ddpm-sample-\d+-of-(\d+)\.json$/

export class SeparateFiles implements Keeper {
  private constructor(
    readonly wanted: string,
    readonly name: string,
    readonly o: KeepOptions,
    readonly there: Set<number>,
  ) {}

  static async open(wanted: string, o: KeepOptions): Promise<SeparateFiles> {
    const recordName = recordNameOf(o)
    if (o.part) await checkOtherShards(wanted, o)
    const found = async (folder: string) => {
      const names = new Set(await readdir(folder).catch(() => []))
      const images = numbersOf(o.span).filter((image) => names.has(fileName(image)))
      return { images, record: names.has(recordName) }
    }
    if (o.resume) {
      const { images, record } = await found(wanted)
      if (record)
        checkRecord(await readJsonFile(path.join(wanted, recordName), { argument: 'resume' }), o.record, wanted)
      else if (images.length > 0 && images.length < o.span.count) throw noRecord(wanted, recordName)
      const kept = new SeparateFiles(wanted, wanted, o, new Set(images))
      if (images.length < o.span.count) await kept.#begin()
      return kept
    }
    const taken = async (folder: string) => {
      const { images, record } = await found(folder)
      return images.length > 0 || record || (await stat(folder).catch(() => undefined))?.isFile() === true
    }
    const kept = new SeparateFiles(wanted, await o.nameFor(wanted, taken), o, new Set())
    await kept.#begin({ exclusive: !o.overwrite })
    return kept
  }

  /** `exclusive`: one of two commands that begin at the same moment fails. */
  async #begin(o: { exclusive?: boolean } = {}): Promise<void> {
    await makeFolder(this.name)
    await atomicWrite(path.join(this.name, recordNameOf(this.o)), `${JSON.stringify(this.o.record, null, 2)}\n`, o)
  }

  has(image: number): boolean {
    return this.there.has(image)
  }

  async add({ first, images }: Drawn): Promise<void> {
    for (let i = 0; i < images.shape[0]; i++) {
      if (this.has(first + i)) continue
      await atomicWrite(this.#file(first + i), await encodeImage(imageAt(images, i)))
      this.there.add(first + i)
    }
  }

  async read(image: number): Promise<Uint8Array> {
    const channels = this.o.shape[2]
    const picture = sharp()(this.#file(image)).toColourspace(channels === 1 ? 'b-w' : 'srgb')
    const data = await picture.raw().toBuffer()
    if (data.length === sizeOf(this.o)) return data
    throw new DiffusionError('bad-file', `${this.#file(image)} is not an image of this sampling`)
  }

  async finish(): Promise<string[]> {
    await rm(path.join(this.name, recordNameOf(this.o)), { force: true })
    return numbersOf(this.o.span).map((image) => this.#file(image))
  }

  async close(): Promise<void> {}

  #file(image: number): string {
    return fileOf(this.name, image)
  }
}

/** Of an image. */
export function fileOf(folder: string, image: number): string {
  return path.join(folder, fileName(image))
}

/** Whether a folder has some of the images, or some are being drawn into it by whomever. */
export async function hasSampling(folder: string, span: Span): Promise<boolean> {
  const names = new Set(await readdir(folder).catch(() => []))
  const isRecord = (name: string) => name === wholeRecord || shardRecord.test(name)
  if (numbersOf(span).some((image) => names.has(fileName(image))) || [...names].some(isRecord)) return true
  return (await stat(folder).catch(() => undefined))?.isFile() === true
}

function fileName(image: number): string {
  return `${String(image).padStart(5, '0')}.png`
}

/** Shards of one sampling write into a folder at the same time; those of two would be mixed in it. Throws `invalid-argument`. */
async function checkOtherShards(folder: string, { part, record }: KeepOptions): Promise<void> {
  const { shard } = part!
  const own = recordNameOf({ part })
  for (const name of await readdir(folder).catch(() => [])) {
    if (name === wholeRecord) {
      const message = `${folder} has images of a sampling without shards, which is not done (${name})`
      throw new DiffusionError('invalid-argument', message, { argument: 'separate', received: folder })
    }
    const [, total] = shardRecord.exec(name) ?? []
    if (total === undefined || name === own) continue
    const file = path.join(folder, name)
    if (Number(total) !== shard.total) {
      const message = `${folder} has images of shards of ${total} (${name}), and not of ${shard.total}`
      throw new DiffusionError('invalid-argument', message, { argument: 'separate', received: folder })
    }
    // One that is done meanwhile takes its record away.
    const saved = await readJsonFile(file, { argument: 'separate' }).catch((error) => {
      if (error instanceof DiffusionError && error.code === 'not-found') return undefined
      throw error
    })
    if (saved) checkRecord(saved, record, file)
  }
}

function noRecord(folder: string, recordName: string): DiffusionError {
  const message = `${folder} has some of the images, and no ${recordName} that says how they were drawn: they can't be gone on with`
  return new DiffusionError('not-found', message, { argument: 'resume', received: folder })
}
