// FID in a training: when, of what, the best checkpoint by it, and resumed as if never stopped.
import assert from 'node:assert/strict'
import path from 'node:path'
import { loadModel } from '../../lib/convert/load-model'
import { evaluateSamples } from '../../lib/evaluate/evaluate-samples'
import { imagesOf, samplesOf } from '../../lib/evaluate/images'
import { openReference } from '../../lib/evaluate/reference'
import { imageStatistics } from '../../lib/evaluate/statistics'
import { openCheckpoint } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import { LinearFeatures } from '../evaluate/support'
import { numbers, readMetrics, stepsOf, stopAt, temporaryFolder, tinyModel, tinyTraining, writeImages } from './support'

describe('FID in a training', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const data = at('images')
  const own = process.env.DDPM_CACHE
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)
  const plan = () => ({ steps: 6, fidEvery: 2, fidCount: 9, fidSteps: 3, inception: new LinearFeatures() })
  const fidsOf = (run: string) =>
    readMetrics(run)
      .filter((line) => 'fid' in line)
      .map((line) => ({ ...line, time: undefined }) as unknown as Record<string, number>)
  const refused = (options: TrainOptions, argument: string, pattern: RegExp) =>
    assert.rejects(
      async () => train(options),
      (error: Error & { argument?: string }) => {
        assert.equal(error.argument, argument, error.message)
        assert.match(error.message, pattern)
        return true
      },
    )

  before(async () => {
    process.env.DDPM_CACHE = at('cache')
    await writeImages(data, 10)
  })
  after(() => {
    if (own === undefined) delete process.env.DDPM_CACHE
    else process.env.DDPM_CACHE = own
  })

  it('is that of evaluateSamples, and keeps the best checkpoint', async () => {
    const run = at('run')
    const seen: string[] = []
    const given = tinyTraining(data, run, { ...plan(), checkpointEvery: 2 })
    const { best } = await train(given, {
      onProgress: ({ step, what, done, total }) => seen.push(`${step} ${what} ${done}/${total}`),
    })
    const fids = fidsOf(run)
    assert.deepEqual(
      fids.map(({ step }) => step),
      [2, 4, 6],
    )
    const lowest = fids.reduce((a, b) => (b.fid < a.fid ? b : a))
    assert.deepEqual([best?.step, best?.value], [lowest.step, lowest.fid])
    assert.deepEqual(
      seen.slice(0, 6),
      ['reference 4/10', 'reference 8/10', 'reference 10/10', 'samples 4/9', 'samples 8/9', 'samples 9/9'].map(
        (s) => `2 ${s}`,
      ),
    )
    assert.deepEqual(seen.filter((s) => s.includes('reference')).length, 3)

    using ddpm = await loadModel(`${run}@best`, { device: 'cpu' })
    const extractor = new LinearFeatures()
    const reference = await imageStatistics(imagesOf(await openReference(data, { size: 8 })), { extractor })
    const { fid } = await evaluateSamples(samplesOf(ddpm, { count: 9, steps: 3, batchSize: 4 }), {
      extractor,
      reference,
    })
    assert.ok(Math.abs(fid! - lowest.fid) < 1e-6 * lowest.fid, `${fid} ${lowest.fid}`)
  })

  it('changes nothing in the training, and a resumed one goes on with the same', async () => {
    const [plain, whole, broken] = [at('plain'), at('whole'), at('broken')]
    const both = { validation: 0.3, validationEvery: 3 }
    await train(tinyTraining(data, plain, { ...both, steps: 6 }))
    await train(tinyTraining(data, whole, { ...plan(), ...both, monitor: 'fid' }))
    assert.deepEqual(numbers(stepsOf(whole)), numbers(stepsOf(plain)))
    const given = tinyTraining(data, broken, { ...plan(), ...both, monitor: 'fid', resume: true })
    await train(given, stopAt(1))
    // in the middle of an evaluation, which the resumed run makes
    const controller = new AbortController()
    const onProgress = ({ what, done }: { what: string; done: number }) =>
      void (what === 'samples' && done === 8 && controller.abort())
    assert.equal((await train(given, { signal: controller.signal, onProgress })).stopped, 'signal')
    assert.deepEqual(fidsOf(broken), [])
    await train(given, stopAt(5))
    await train({ data, out: broken, resume: true, inception: new LinearFeatures(), device: 'cpu' })
    const lines = (run: string) =>
      readMetrics(run)
        .map((line): object => ({ ...line, time: '' }))
        .filter((line) => !('loss' in line))
    assert.deepEqual(lines(broken), lines(whole))
    assert.equal(lines(whole).filter((line) => 'val/loss' in line && 'fid' in line).length, 1)
    const monitorOf = async (run: string) => (await openCheckpoint(run)).state.monitor
    assert.deepEqual(await monitorOf(broken), await monitorOf(whole))
  })

  it('of a class-conditional model, and of batches of a caller', async () => {
    for (const n of ['a', 'b']) await writeImages(at('classes', n), 3)
    await train(
      tinyTraining(at('classes'), at('with-classes'), { ...plan(), classes: 'folders', augment: 0.5, steps: 2 }),
    )
    assert.equal(fidsOf(at('with-classes')).length, 1)
    const batch = (first: number, count: number) => ({
      images: Float32Array.from({ length: count * 3 * 64 }, (_, i) => Math.sin(first + i)),
    })
    const given = tinyTraining('', at('with-batches'), { ...plan(), steps: 2, flip: false })
    await train({ ...given, data: { batch } } as TrainOptions)
    assert.equal(fidsOf(at('with-batches')).length, 1)
  })

  it('what does not fit is refused', async () => {
    const run = at('refused')
    await refused(tinyTraining(data, run, { inception: 'inception.pth' }), 'inception', /nothing without fidEvery/)
    await refused(tinyTraining(data, run, { monitor: 'fid' }), 'monitor', /expected/)
    await refused(tinyTraining(data, run, { fidEvery: 2, inception: at('none') }), 'inception', /pytorch-fid/)
    const model = { ...tinyModel, unetConfig: { ...tinyModel.unetConfig, inChannels: 2, outChannels: 2 } }
    await refused(tinyTraining(data, run, { ...plan(), model }), 'fidEvery', /1 or 3 channels/)

    await train(tinyTraining(data, run, { ...plan(), steps: 2 }))
    const again = { data, out: run, resume: true, device: 'cpu', steps: 4 }
    await refused(again, 'inception', /must be given again/)
    await refused({ ...again, inception: new LinearFeatures('other weights') }, 'inception', /other weights/)
    await refused({ ...again, inception: new LinearFeatures(), fidCount: 20 }, 'fidCount', /can't become/)
    await train({ ...again, inception: new LinearFeatures() })
    assert.equal(fidsOf(run).length, 2)
  })
})
