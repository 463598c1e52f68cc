// Each kind of data trains 20 steps and resumes to the bit.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import sharp from 'sharp'
import { Tensor, Trainer, type TrainOptions, type UserBatches, type UserItems } from '../../lib/index'
import { cifar, idx, npy, tar, zipped } from '../data/files'
import { parquet } from '../data/parquet-file'
import { numbers, readMetrics, temporaryFolder, writeImages } from './support'

const unetConfig = {
  ...{ imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 8, channelMult: [1, 1], numResBlocks: 1 },
  ...{ attentionResolutions: [], normGroups: 4 },
}

describe('kinds of data', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  let runs = 0

  const optionsOf = (o: Partial<TrainOptions>): TrainOptions => ({
    ...{ data: '', out: at(`run-${runs++}`), steps: 20, batchSize: 3, sampleEvery: 0, device: 'cpu' },
    ...o,
    model: { timesteps: 20, unetConfig: { ...unetConfig, ...o.model?.unetConfig } },
  })

  /** The losses of 20 steps at once; those of a run that is stopped after 9 and resumed must be the same. */
  async function trainsAndResumes(o: Partial<TrainOptions>): Promise<number[]> {
    const whole = optionsOf(o)
    await new Trainer(whole).run()
    const parts = optionsOf(o)
    const stop = new AbortController()
    await new Trainer(parts).run({ onStep: ({ step }) => step === 9 && stop.abort(), signal: stop.signal })
    const { out, data } = parts
    await new Trainer({ data, out, resume: true, prefetch: 1 }).run()
    assert.deepEqual(numbers(readMetrics(out)), numbers(readMetrics(whole.out)))
    const losses = readMetrics(out).map(({ loss }) => loss!)
    assert.equal(losses.length, 20)
    return losses
  }

  const items: UserItems = {
    length: 7,
    get: (i) =>
      Tensor.from(
        Float32Array.from({ length: 192 }, (_, p) => Math.sin(p * (i + 1))),
        [3, 8, 8],
      ),
  }

  it('an object with get()', async () => {
    const losses = await trainsAndResumes({ data: items })
    // The same images in the same order by a function that takes its time.
    const slow = { ...items, get: async (i: number) => items.get(i) }
    assert.deepEqual(await trainsAndResumes({ data: slow }), losses)
  })

  it('an object with classes', async () => {
    const data = { ...items, classNames: ['even', 'odd'], labels: [0, 1, 0, 1, 0, 1, 0] }
    await trainsAndResumes({ data })
  })

  it('an object with batch()', async () => {
    const asked: number[] = []
    const batch = (first: number, count: number) => {
      asked.push(first)
      return { images: Float32Array.from({ length: count * 192 }, (_, p) => Math.cos(p + first)), labels: [0, 1, 0] }
    }
    await trainsAndResumes({ data: { batch, classNames: ['a', 'b'] } })
    assert.ok(asked.includes(9 * 3) && asked.every((first) => first % 3 === 0))
  })

  it('an object that is not the one of the run, or is not given again, is refused on resume', async () => {
    const options = optionsOf({ data: { ...items, fingerprint: 'a' }, steps: 2 })
    await new Trainer(options).run()
    const resume = (data: unknown) => new Trainer({ data, out: options.out, resume: true } as TrainOptions).run()
    await assert.rejects(resume({ ...items, fingerprint: 'b' }), /data is not what this run was trained on/)
    await assert.rejects(resume(undefined), /an object of yours, which a resume must be given again/)
    await resume({ ...items, fingerprint: 'a' })
  })

  it('an object that gives batches takes no options of the order', () => {
    const data: UserBatches = { batch: () => ({ images: new Float32Array(576) }) }
    for (const o of [{ flip: true }, { crop: 'random' }, { buckets: [[8, 8]] }, { classes: 'labels' }] as const) {
      assert.throws(() => new Trainer(optionsOf({ data, ...o })), /nothing for an object with batch\(\)/)
    }
    assert.throws(() => new Trainer(optionsOf({ data: {} as never })), /data: expected a path, or an object/)
  })

  it('an object whose item is wrong in the middle keeps what was trained', async () => {
    let count = 0
    const get = (i: number) => (++count > 40 ? new Float32Array(3) : (items.get(i) as Tensor))
    const options = optionsOf({ data: { length: 7, get }, cacheBytes: 0, prefetch: 1 })
    await assert.rejects(new Trainer(options).run(), /expected 192 floats/)
    const saved = readMetrics(options.out).length
    assert.ok(saved >= 10 && saved < 20)
    assert.equal((await new Trainer({ data: items, out: options.out, resume: true }).run()).step, 20)
  })

  describe('files of many images', () => {
    const bytes = (n: number) => Uint8Array.from({ length: n }, (_, i) => (i * i * 37) % 256)
    const write = (name: string, data: Buffer | string) => {
      writeFileSync(at(name), data)
      return at(name)
    }
    const grey = { unetConfig: { inChannels: 1, outChannels: 1 } }
    const labels = 'labels'

    before(() => writeImages(at('pictures'), 5))

    it('.npy of five channels', async () => {
      const model = { unetConfig: { inChannels: 5, outChannels: 5 } }
      await trainsAndResumes({ data: write('a.npy', npy('|u1', [4, 5, 8, 8], bytes(1280))), model })
    })

    it('.npy of floats', async () => {
      const floats = Float32Array.from(bytes(256), (v) => v / 255)
      const data = write('floats.npy', npy('<f4', [4, 8, 8], floats))
      await trainsAndResumes({ data, model: grey, range: [0, 1] })
    })

    it('.npz with labels', async () => {
      const arrays = {
        'x.npy': npy('|u1', [4, 8, 8, 3], bytes(768)),
        'y.npy': npy('|u1', [4], Uint8Array.of(0, 1, 1, 0)),
      }
      await trainsAndResumes({ data: write('a.npz', zipped(arrays)), classes: labels })
    })

    it("CIFAR's binaries", async () => {
      await trainsAndResumes({ data: write('a.bin', cifar([[1], [9], [1], [0]])), classes: labels })
    })

    it("MNIST's idx files", async () => {
      write('a-labels-idx1-ubyte.gz', gzipSync(idx([4], [3, 4, 3, 4])))
      const data = write('a-images-idx3-ubyte.gz', gzipSync(idx([4, 10, 10], bytes(400))))
      await trainsAndResumes({ data, model: grey, classes: labels })
    })

    it('.tar in the form of WebDataset', async () => {
      const files = [0, 1, 2, 3].flatMap((i) => [
        [`${i}.png`, readFileSync(at('pictures', `000${i}.png`))],
        [`${i}.cls`, String(i % 2)],
      ])
      await trainsAndResumes({ data: write('a.tar', tar(Object.fromEntries(files))), classes: labels })
    })

    it('Parquet, in shards', async () => {
      mkdirSync(at('shards'))
      const png = (i: number) => readFileSync(at('pictures', `000${i}.png`))
      for (const shard of [0, 1]) {
        const columns = [
          { name: 'image.bytes', values: [png(2 * shard), png(2 * shard + 1)], codec: 'snappy' },
          { name: 'label', values: [0, 1] },
          { name: 'text', values: ['a disc', 'another'] },
        ] as const
        const features = { image: { _type: 'Image' }, label: { _type: 'ClassLabel', names: ['a', 'b'] } }
        write(`shards/train-0000${shard}-of-00002.parquet`, parquet({ columns, features, pageRows: 1 }))
      }
      await trainsAndResumes({ data: at('shards'), classes: labels })
    })

    it('.csv and .jsonl', async () => {
      const rows = [0, 1, 2, 3].map((i) => ({
        file_name: `pictures/000${i}.png`,
        label: `class ${i % 2}`,
        text: 'a disc',
      }))
      const csv = ['file_name,label,text', ...rows.map((row) => Object.values(row).join())].join('\n')
      const losses = await trainsAndResumes({ data: write('a.csv', csv), classes: labels })
      const jsonl = rows.map((row) => JSON.stringify(row)).join('\n')
      assert.deepEqual(await trainsAndResumes({ data: write('a.jsonl', jsonl), classes: labels }), losses)
    })
  })

  describe('images', () => {
    before(() => writeImages(at('images'), 5, 20))
    const data = () => at('images')

    it('that are not square, with random crops and both flips', async () => {
      const model = { unetConfig: { imageSize: 8, imageWidth: 12 } }
      await trainsAndResumes({ data: data(), model, crop: 'random', cropScale: 1.25, flipVertical: true })
    })

    it('in aspect buckets', async () => {
      mkdirSync(at('shapes'))
      for (const [i, width] of [16, 24, 16, 24, 30].entries()) {
        const image = sharp({ create: { width, height: 16, channels: 3, background: { r: 40 * i, g: 9, b: 99 } } })
        await image.toFile(at('shapes', `${i}.png`))
      }
      const losses = await trainsAndResumes({
        data: at('shapes'),
        buckets: [
          [8, 8],
          [8, 12],
        ],
      })
      assert.ok(losses.every(Number.isFinite))
      assert.throws(
        () => new Trainer(optionsOf({ data: at('shapes'), buckets: [[8, 9]] })),
        /buckets: expected multiples of 2/,
      )
    })

    for (const channels of [1, 2, 4]) {
      it(`of ${channels} channels, with pictures`, async () => {
        const model = { unetConfig: { inChannels: channels, outChannels: channels } }
        await trainsAndResumes({ data: data(), model, sampleEvery: 20, sampleSteps: 2, sampleCount: 2 })
      })
    }
  })
})
