// Sets of images compared: of data, of a model, of a caller's own.
import assert from 'node:assert/strict'
import path from 'node:path'
import { Dataset } from '../../lib/data/dataset'
import { saveImages } from '../../lib/data/save-images'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { evaluateSamples, frechetDistance } from '../../lib/evaluate/evaluate-samples'
import { asSaved, type ImageSet, imagesOf, samplesOf } from '../../lib/evaluate/images'
import { imageStatistics } from '../../lib/evaluate/statistics'
import { Tensor } from '../../lib/tensor'
import { testDevice } from '../support/devices'
import { temporaryFolder, tinyModel, writeImages } from '../train/support'
import { features, LinearFeatures } from './support'

describe('evaluateSamples', () => {
  const folder = temporaryFolder()
  const photos = path.join(folder, 'photos')
  const extractor = new LinearFeatures()
  const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3 }
  const model = () => new DDPM({ ...tinyModel, unetConfig, device: testDevice, seed: 3 } as never)
  const images = async (o = {}) => imagesOf(await Dataset.open(photos, { size: 12 }), o)
  const noise = (count: number, size = 8, seed = 1): ImageSet => ({
    count,
    async *batches() {
      for (let i = 0; i < count; i += 5) {
        const all = await Tensor.randn([count, 3, size, size], { seed }).data()
        const n = Math.min(5, count - i)
        yield Tensor.from(all.map(Math.tanh).slice(i * 3 * size * size, (i + n) * 3 * size * size), [n, 3, size, size])
      }
    },
  })
  before(() => writeImages(photos, 20))

  it('of the same images: no distance, all precise', async () => {
    const reference = await imageStatistics(await images(), { extractor, keepFeatures: true })
    const metrics = ['fid', 'kid', 'pr', 'is'] as const
    const quality = await evaluateSamples(await images({ batchSize: 3 }), {
      extractor,
      reference,
      metrics,
      device: testDevice,
    })
    assert.equal(quality.images, 20)
    assert.ok(Math.abs(quality.fid!) < 1e-9, String(quality.fid))
    assert.deepEqual([quality.precision, quality.recall], [1, 1])
    assert.ok(quality.inceptionScore!.mean >= 1)
    assert.equal(quality.kid!.std < 1e-6, true)
  })

  it('of others: those of their moments, in any batches', async () => {
    const reference = await imageStatistics(await images(), { extractor })
    const quality = await evaluateSamples(noise(17), { extractor, reference })
    assert.deepEqual(Object.keys(quality), ['images', 'fid'])
    assert.equal(quality.fid, await frechetDistance(await imageStatistics(noise(17), { extractor }), reference))
    assert.ok(quality.fid! > 0.1)
  })

  it('of a model: the images of sample(), rounded as files are', async () => {
    using ddpm = model()
    const samples = samplesOf(ddpm, { count: 5, batchSize: 2, steps: 4, seed: 7 })
    const drawn: number[] = []
    for await (const batch of samples.batches()) drawn.push(...(await batch.data()))
    const whole = await ddpm.sample({ batchSize: 5, steps: 4, seed: 7 })
    for (const [i, v] of (await whole.data()).entries()) assert.ok(Math.abs(drawn[i] - v) < 1e-4)

    const file = path.join(folder, 'saved', '0.png')
    await writeImages(path.dirname(file), 1, 8)
    const one = Tensor.from((await whole.data()).slice(0, 3 * 64), [1, 3, 8, 8])
    await saveImages(file, one)
    const read = await (await Dataset.open(path.dirname(file), { size: 8 })).batch(0, 1)
    assert.deepEqual([...(await (await asSaved(one)).data())], [...read.images])
  })

  it('of grey images: three equal channels', async () => {
    const grey = await asSaved(Tensor.from([-1, 1, 0.5, 3], [1, 1, 2, 2]))
    assert.deepEqual(grey.shape, [1, 3, 2, 2])
    const values = [...(await grey.data())]
    assert.deepEqual(values.slice(0, 4), values.slice(4, 8))
    assert.deepEqual([values[0], values[1], values[3]], [-1, 1, 1])
    await assert.rejects(asSaved(Tensor.from([0, 0], [1, 2, 1, 1])), { code: 'invalid-argument' })
  })

  it('tells what is done, and ends when it is asked to', async () => {
    const reference = await imageStatistics(noise(10), { extractor, keepFeatures: true })
    const seen: string[] = []
    const metrics = ['fid', 'kid', 'pr'] as const
    const o = { extractor, reference, metrics, kidSubsets: 2, device: testDevice }
    await evaluateSamples(noise(7), {
      ...o,
      onProgress: ({ phase, done, total }) => seen.push(`${phase} ${done}/${total}`),
    })
    assert.deepEqual(seen, ['samples 5/7', 'samples 7/7', 'fid 0/1', 'kid 1/2', 'kid 2/2', 'pr 0/1'])
    for (const at of ['samples', 'kid', 'pr']) {
      const controller = new AbortController()
      const onProgress = ({ phase }: { phase: string }) => phase === at && controller.abort()
      await assert.rejects(evaluateSamples(noise(7), { ...o, signal: controller.signal, onProgress }), {
        code: 'aborted',
      })
    }
  })

  it('wrong use is refused before anything is drawn', async () => {
    let asked = 0
    const set: ImageSet = { count: 5, batches: () => [asked++] as never }
    const reference = await imageStatistics(noise(5), { extractor })
    const refuse = (options: object, argument: string, code = 'invalid-argument') =>
      assert.rejects(evaluateSamples(set, { extractor, ...options }), { code, argument })
    await refuse({ extractor: undefined }, 'extractor')
    await refuse({ extractor: {} }, 'extractor')
    await refuse({}, 'reference')
    await refuse({ reference, metrics: ['kid'] }, 'reference')
    await refuse({ reference: { mean: new Float64Array(2), covariance: new Float64Array(4) } }, 'reference')
    await refuse({ metrics: ['is'] }, 'samples')
    await refuse({ reference, metrics: ['fd'] }, 'metrics[0]')
    await refuse({ reference, samples: 5 }, 'samples', 'unknown-option')
    assert.equal(asked, 0)
  })

  it('features and sets that are not what they say are refused', async () => {
    const of = (extract: () => object) => ({ features, extract, release() {} }) as never
    const wrong = (extract: () => object, code = 'invalid-argument') =>
      assert.rejects(imageStatistics(noise(5), { extractor: of(extract) }), { code, argument: 'extractor' })
    await wrong(() => ({ features: Tensor.from(new Float32Array(features), [1, features]) }))
    await wrong(() => ({ features: Tensor.from(new Float32Array(5), [5, 1]) }))
    await wrong(
      () => ({ features: Tensor.from(new Float32Array(5 * features).fill(Number.NaN), [5, features]) }),
      'not-finite',
    )
    await assert.rejects(
      evaluateSamples(noise(5), {
        extractor: of(() => ({ features: Tensor.from(new Float32Array(5 * features), [5, features]) })),
        metrics: ['is'],
        splits: 1,
      }),
      { argument: 'extractor' },
    )
    for (const count of [4, 6])
      await assert.rejects(imageStatistics({ ...noise(5), count }, { extractor }), { code: 'invalid-argument' })
  })
})
