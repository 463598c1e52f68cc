// Features that were computed before, in parts or not, are compared as images are.
import assert from 'node:assert/strict'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Dataset } from '../../lib/data/dataset'
import { mergeParts, openParts } from '../../lib/data/parts/merge-parts'
import { partName } from '../../lib/data/parts/part-file'
import { DiffusionError } from '../../lib/errors'
import { evaluateSamples } from '../../lib/evaluate/evaluate-samples'
import { hasFeatures, openFeatures, writeFeatures } from '../../lib/evaluate/features-file'
import { imagesOf } from '../../lib/evaluate/images'
import { imageStatistics } from '../../lib/evaluate/statistics'
import { writeStatistics } from '../../lib/evaluate/statistics-file'
import { shardOf } from '../../lib/shard'
import { testDevice } from '../support/devices'
import { temporaryFolder, writeImages } from '../train/support'
import { LinearFeatures } from './support'

describe('features in a file', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const extractor = new LinearFeatures()
  const looks = { size: [12, 12], channels: 3 } as const
  const count = 600 // more than are read at once
  let data: Dataset

  before(async () => {
    await writeImages(at('photos'), 20)
    data = await Dataset.open(at('photos'), { size: 12 })
    await writeFeatures(at('whole.npz'), images(0, count), { extractor, looks })
  })

  /** The same 20, again and again. */
  const images = (first: number, n: number) => ({
    count: n,
    async *batches() {
      for (let i = first; i < first + n; i += 20)
        yield* imagesOf(data, { first: i % 20, count: Math.min(20, first + n - i) }).batches()
    },
  })

  it('give what the images give, to the bit', async () => {
    const reference = await imageStatistics(imagesOf(data, { first: 3 }), { extractor, keepFeatures: true })
    const metrics = ['fid', 'kid', 'pr', 'is'] as const
    const options = { extractor, reference, metrics, device: testDevice, kidSubsets: 3 }
    const calls = extractor.calls
    const kept = await openFeatures(at('whole.npz'))
    assert.deepEqual([kept.count, kept.features, kept.size, kept.channels], [count, 6, [12, 12], 3])
    const quality = await evaluateSamples(kept, options)
    assert.equal(extractor.calls, calls) // nothing was computed again
    assert.deepEqual(quality, await evaluateSamples(images(0, count), options))
    assert.ok(quality.fid! > 0 && quality.inceptionScore!.mean > 1)
  })

  it('are put together of parts to the same bytes', async () => {
    const files: string[] = []
    for (const shard of ['3/3', '1/3', '2/3']) {
      const { index, total, first, count: n } = shardOf({ shard, count, batchSize: 20 })
      const part = { shard: { index, total }, first, count: n, whole: {} }
      files.push(partName(at('parts.npz'), part.shard))
      await writeFeatures(files.at(-1)!, images(first, n), { extractor, looks, part })
    }
    await mergeParts(await openParts(files), at('merged.npz'))
    assert.ok(readFileSync(at('merged.npz')).equals(readFileSync(at('whole.npz'))))
    await assert.rejects(openFeatures(files[0]), /it is a part of a whole, which ddpm merge makes/)

    const part = { shard: { index: 3, total: 3 }, first: 400, count: 200, whole: {} }
    const other = new LinearFeatures('another')
    await writeFeatures(at('other.npz'), images(400, 200), { extractor: other, looks, part })
    await assert.rejects(openParts([...files.slice(1), at('other.npz')]), /not parts of one whole: 'about'/)
  })

  it('are refused where they are of another extractor, or damaged', async () => {
    const kept = await openFeatures(at('whole.npz'))
    const reference = await imageStatistics(imagesOf(data), { extractor })
    await assert.rejects(
      evaluateSamples(kept, { extractor: new LinearFeatures('another'), reference }),
      (error) => error instanceof DiffusionError && /^samples: expected features of this extractor/.test(error.message),
    )
    const bytes = readFileSync(at('whole.npz'))
    for (const array of ['features', 'logits']) {
      const place = bytes.indexOf(`${array}.npy`) + 200
      writeFileSync(at('damaged.npz'), bytes.with(place, bytes[place] ^ 1))
      const damaged = await openFeatures(at('damaged.npz'))
      await assert.rejects(evaluateSamples(damaged, { extractor, reference }), /damaged\.npz: '\w+' is damaged/)
    }
    writeFileSync(at('damaged.npz'), bytes)
    truncateSync(at('damaged.npz'), bytes.length - 30)
    await assert.rejects(openFeatures(at('damaged.npz')), /damaged\.npz is not a file of features/)
  })

  it('are told from statistics', async () => {
    await writeStatistics(at('moments.npz'), await imageStatistics(imagesOf(data), { extractor, keepFeatures: true }))
    assert.deepEqual([await hasFeatures(at('whole.npz')), await hasFeatures(at('moments.npz'))], [true, false])
  })
})
