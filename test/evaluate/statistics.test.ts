// Reference statistics: files of this and of other tools, and what is kept on the disk.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeNpz } from '../../lib/data/npz'
import type { DiffusionError } from '../../lib/errors'
import { referenceStatistics } from '../../lib/evaluate/reference'
import { readStatistics, writeStatistics } from '../../lib/evaluate/statistics-file'
import { Random } from '../support/random'
import { temporaryFolder, writeImages } from '../train/support'
import { covariance, features, LinearFeatures } from './support'

describe('reference statistics', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const photos = at('photos')
  const own = process.env.DDPM_CACHE
  const cached = () => readdirSync(path.join(at('cache'), 'statistics'))
  const statistics = {
    mean: Float64Array.from(new Random(1).normals(features)),
    covariance: covariance(new Random(2), features),
  }

  before(async () => {
    process.env.DDPM_CACHE = at('cache')
    await writeImages(photos, 12)
  })
  after(() => {
    if (own === undefined) delete process.env.DDPM_CACHE
    else process.env.DDPM_CACHE = own
  })

  it('come back from a file as they were', async () => {
    const whole = { ...statistics, count: 3, features: new Random(3).normals(3 * features) }
    await writeStatistics(at('whole.npz'), whole)
    assert.deepEqual(await readStatistics(at('whole.npz')), whole)
    await writeStatistics(at('plain.npz'), statistics)
    assert.deepEqual(await referenceStatistics(at('plain.npz'), { extractor: new LinearFeatures() }), statistics)
  })

  it('of numpy, in float32 and packed, too', async function () {
    const script = `
import numpy, sys
mu, sigma = numpy.arange(2.), numpy.eye(2)
numpy.savez(sys.argv[1], mu=mu, sigma=sigma)
numpy.savez_compressed(sys.argv[2], mu=mu.astype('f4'), sigma=sigma.astype('f4'), arr_0=numpy.zeros((4, 8, 8, 3), 'u1'))
loaded = numpy.load(sys.argv[3])
assert loaded['mu'].shape == (${features},) and loaded['sigma'].dtype == numpy.float64
`
    await writeStatistics(at('plain.npz'), statistics)
    const files = [at('numpy.npz'), at('packed.npz'), at('plain.npz')]
    if (spawnSync('python3', ['-c', 'import numpy']).status !== 0) {
      console.log('      Not tested: python3 has no numpy')
      return this.skip()
    }
    const { status, stderr } = spawnSync('python3', ['-c', script, ...files], { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    for (const file of files.slice(0, 2)) {
      const { mean, covariance } = await readStatistics(file)
      assert.deepEqual(
        [[...mean], [...covariance]],
        [
          [0, 1],
          [1, 0, 0, 1],
        ],
      )
    }
  })

  it('of data are computed once', async () => {
    const extractor = new LinearFeatures()
    const of = (o = {}) => referenceStatistics(photos, { extractor, batchSize: 5, ...o })
    const first = await of()
    assert.equal(first.count, 12)
    assert.equal(extractor.calls, 3)
    assert.deepEqual(await of(), first)
    assert.equal(extractor.calls, 3)
    assert.equal(cached().length, 1)

    const whole = await of({ keepFeatures: true }) // is more than is there
    assert.equal(whole.features?.length, 12 * features)
    assert.equal(extractor.calls, 6)
    assert.deepEqual(await of({ keepFeatures: true }), whole)
    assert.deepEqual((await of()).covariance, first.covariance)
    assert.equal(extractor.calls, 6)

    await of({ limit: 10 })
    await of({ size: 8 })
    assert.equal(extractor.calls, 11)
    const other = new LinearFeatures('another')
    await referenceStatistics(photos, { extractor: other })
    await referenceStatistics(photos, { extractor: new LinearFeatures(undefined) })
    assert.equal(other.calls, 1)
    assert.equal(cached().length, 4)
  })

  it('are computed again where an image has changed', async () => {
    const extractor = new LinearFeatures('changing')
    await referenceStatistics(photos, { extractor })
    utimesSync(path.join(photos, '0003.png'), new Date(), new Date(2020, 1, 1))
    await referenceStatistics(photos, { extractor })
    assert.equal(extractor.calls, 2)
  })

  it('are computed again, and said to be, where what was kept is damaged', async () => {
    const extractor = new LinearFeatures('damaged')
    rmSync(at('cache'), { recursive: true })
    const first = await referenceStatistics(photos, { extractor })
    const file = path.join(at('cache'), 'statistics', cached()[0])
    const bytes = readFileSync(file)
    const flipped = Buffer.from(bytes)
    flipped[flipped.indexOf('sigma') + 200] ^= 1
    for (const damaged of [flipped, bytes.subarray(0, bytes.length / 2), Buffer.alloc(0), Buffer.from('no zip')]) {
      writeFileSync(file, damaged)
      const warnings: DiffusionError[] = []
      const again = await referenceStatistics(photos, { extractor, onWarning: (w) => warnings.push(w) })
      assert.deepEqual(again, first)
      assert.deepEqual(
        warnings.map(({ code }) => code),
        ['bad-file'],
      )
      assert.deepEqual(readFileSync(file), bytes)
    }
  })

  it('are computed where nothing can be kept', async () => {
    const extractor = new LinearFeatures('nowhere')
    process.env.DDPM_CACHE = path.join(photos, '0001.png')
    const warnings: DiffusionError[] = []
    const { count } = await referenceStatistics(photos, { extractor, onWarning: (w) => warnings.push(w) })
    process.env.DDPM_CACHE = at('cache')
    assert.equal(count, 12)
    assert.ok(warnings.length > 0)
  })

  it('that are aborted are not kept', async () => {
    rmSync(at('cache'), { recursive: true })
    const extractor = new LinearFeatures('aborted')
    const controller = new AbortController()
    const o = { extractor, batchSize: 2, signal: controller.signal, onProgress: () => controller.abort() }
    await assert.rejects(referenceStatistics(photos, o), { code: 'aborted' })
    assert.throws(cached, { code: 'ENOENT' })
  })

  it('beside images, as guided-diffusion writes them: moments of the file, features of the images', async () => {
    const images = Uint8Array.from({ length: 5 * 4 * 4 * 3 }, (_, i) => (i * 37) % 256)
    await writeNpz(at('batch.npz'), {
      arr_0: { data: images, shape: [5, 4, 4, 3] },
      mu: { data: statistics.mean, shape: [features] },
      sigma: { data: statistics.covariance, shape: [features, features] },
    })
    const found = await referenceStatistics(at('batch.npz'), { extractor: new LinearFeatures(), keepFeatures: true })
    assert.deepEqual([found.mean, found.covariance], [statistics.mean, statistics.covariance])
    assert.equal(found.features?.length, 5 * features)
  })

  it('of the wrong kind are refused', async () => {
    const extractor = new LinearFeatures()
    const refused = (file: string, error: object, o = {}) =>
      assert.rejects(referenceStatistics(at(file), { extractor, ...o }), error)
    const write = (name: string, mu: Float64Array, sigma: Float64Array, shape: number[]) =>
      writeNpz(at(name), { mu: { data: mu, shape: [mu.length] }, sigma: { data: sigma, shape } })
    await write('three.npz', new Float64Array(3), new Float64Array(9), [3, 3])
    await refused('three.npz', {
      code: 'invalid-argument',
      message: /statistics of 3 features, and the extractor has 6/,
    })
    await write('shape.npz', new Float64Array(3), new Float64Array(6), [3, 2])
    await refused('shape.npz', { code: 'bad-file', message: /sigma of \[3, 2\]/ })
    await write('nan.npz', new Float64Array(6).fill(Number.NaN), new Float64Array(36), [6, 6])
    await refused('nan.npz', { code: 'bad-file', message: /mu is not finite/ })
    await writeStatistics(at('plain.npz'), statistics)
    await refused(
      'plain.npz',
      { code: 'invalid-argument', message: /no images and no features/ },
      { keepFeatures: true },
    )
    await refused('plain.npz', { code: 'invalid-argument', argument: 'limit' }, { limit: 3 })
    await refused('photos', { code: 'unknown-option' }, { sizes: 8 })
    await refused('photos', { code: 'invalid-argument', argument: 'crop' }, { crop: 'random' })
    await refused('none.npz', { code: 'not-found' })
    await refused('none', { code: 'not-found' })
  })
})
