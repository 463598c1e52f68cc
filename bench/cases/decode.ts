/**
 * Images to samples of 64x64: items a second are images. 'one core' decodes one after another, in one thread; 'batch' as a training
 * does, eight at once on all cores.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Dataset } from '../../lib/data/dataset'
import { sharp } from '../../lib/data/load-sharp'
import type { Case, Prepared } from '../harness'

const size = 512
const count = 32

/** Waves of several lengths, so that there is something to pack. */
const pixels = (image: number) =>
  Uint8Array.from({ length: size * size * 3 }, (_, i) => {
    const [x, y, c] = [Math.floor(i / 3) % size, Math.floor(i / 3 / size), i % 3]
    return 127 + 60 * Math.sin(x / (3 + image + c)) + 60 * Math.cos((x * y) / (900 * (c + 1)))
  })

type Kind = 'jpeg' | 'png' | 'webp'

function decode(kind: Kind, oneCore: boolean): Case {
  return {
    name: `decode ${kind} ${size} to 64, ${oneCore ? 'one core' : `batch of ${count}`}`,
    items: count,
    async prepare(): Promise<Prepared> {
      const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-bench-'))
      for (let i = 0; i < count; i++) {
        const image = sharp()(pixels(i), { raw: { width: size, height: size, channels: 3 } })
        writeFileSync(path.join(folder, `${i}.${kind}`), await image.toFormat(kind, { quality: 90 }).toBuffer())
      }
      const data = await Dataset.open(folder, { size: 64, cacheBytes: 0, crop: 'random', flip: true })
      if (oneCore) sharp().concurrency(1)
      const oneByOne = async () => {
        for (let i = 0; i < count; i++) await data.batch(i, 1)
      }
      return {
        run: () => (oneCore ? oneByOne() : data.batch(0, count)),
        dispose: () => rmSync(folder, { recursive: true }),
      }
    },
  }
}

const kinds: readonly Kind[] = ['jpeg', 'png', 'webp']
export const decodeCases: readonly Case[] = kinds.flatMap((kind) => [decode(kind, true), decode(kind, false)])
