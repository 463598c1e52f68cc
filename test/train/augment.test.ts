// Trainings with non-leaking augmentation: the network is told, resumes are exact, samples know nothing of it.
import assert from 'node:assert/strict'
import path from 'node:path'
import { loadModel } from '../../lib/convert/load-model'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import { testedBackends } from '../support/devices'
import {
  heldOutOf,
  numbers,
  runCli,
  stepsOf,
  stopAt,
  temporaryFolder,
  tinyFlags,
  tinyModel,
  tinyTraining,
  writeImages,
} from './support'

describe('a training with augmentation', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  const at = (name: string) => path.join(folder, name)
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)
  const weightsOf = async (run: string) => (await readTrainingState(await openCheckpoint(run))).weights

  before(() => writeImages(data, 12))

  for (const device of testedBackends) {
    it(`resumes to the bit, with held-out losses (${device})`, async () => {
      const short = { steps: 3, batchSize: 1, validationCount: 1, model: { ...tinyModel } }
      const plan = {
        augment: 0.5,
        lr: 1e-2,
        validation: 0.3,
        validationEvery: 2,
        ...(device !== 'cpu' && short),
        device,
      }
      const [whole, broken] = [at(`whole-${device}`), at(`broken-${device}`)]
      await train(tinyTraining(data, whole, plan))
      await train(tinyTraining(data, broken, plan), stopAt(2))
      await train({ data, out: broken, resume: true, device })
      assert.deepEqual(numbers(stepsOf(broken)), numbers(stepsOf(whole)))
      assert.deepEqual(heldOutOf(broken), heldOutOf(whole))
      const layer = await (await weightsOf(whole))['map_augment.weight'].data()
      assert.ok(layer.some((v) => v !== 0))
      assert.deepEqual(await (await weightsOf(broken))['map_augment.weight'].data(), layer)
    })
  }

  it('is another training than without, and than one that is not told', async () => {
    const losses = async (name: string, augment?: number) => {
      await train(tinyTraining(data, at(name), { augment }))
      return numbers(stepsOf(at(name)))
    }
    const [none, flips, all] = [await losses('none'), await losses('flips', 0), await losses('all', 0.9)]
    assert.notDeepEqual(all, flips)
    // The layer is zero at first, so that the first step is that of the mirrored images alone.
    assert.equal(flips[0][1], none[0][1])
    assert.notDeepEqual(flips.at(-1), none.at(-1))
  })

  it('its model samples without being told', async () => {
    const { model } = await train(tinyTraining(data, at('model'), { augment: 0.12 }))
    using ddpm = await loadModel(model!, { device: 'cpu' })
    assert.deepEqual([ddpm.network?.vectorDim, ddpm.network?.vectorIsOptional], [9, true])
    assert.deepEqual((await ddpm.sample({ batchSize: 1, seed: 1 })).shape, [1, 3, 8, 8])
  })

  it('starts from a model that was told nothing', async () => {
    await train(tinyTraining(data, at('base'), { steps: 2 }))
    const from = { data, from: at('base'), steps: 2, batchSize: 4, sampleEvery: 0, device: 'cpu', augment: 0.5 }
    await train({ ...from, out: at('tuned'), lr: 1e-2 })
    const layer = await (await weightsOf(at('tuned')))['map_augment.weight'].data()
    assert.ok(layer.some((v) => v !== 0))
    const frozen = train({ ...from, out: at('frozen'), model: { lora: { rank: 2 } } })
    await assert.rejects(frozen, { code: 'invalid-argument', argument: 'augment' })
    await train({ ...from, from: at('tuned'), out: at('lora'), model: { lora: { rank: 2 } } })
  })

  it('what does not go with it is refused', () => {
    const rejects = (options: Partial<TrainOptions>, argument: string) =>
      assert.throws(() => new Trainer(tinyTraining(data, at('no'), { augment: 0.1, ...options })), {
        name: 'DiffusionError',
        code: 'invalid-argument',
        argument,
      })
    const unet = (change: object) => ({ model: { ...tinyModel, unetConfig: { ...tinyModel.unetConfig, ...change } } })
    rejects({ augment: 1.5 }, 'augment')
    rejects(unet({ vectorEmbedding: 'identity' }), 'model.unetConfig.vectorEmbedding')
    rejects(unet({ vectorDim: 6 }), 'model.unetConfig.vectorDim')
    rejects({ data: { batch: () => new Float32Array(0) } as never, flip: false }, 'augment')
  })

  it('ddpm train --augment', async () => {
    const run = ['train', data, '--out', at('cli'), '--steps', '2', '--augment', '0.25', ...tinyFlags]
    const { code, stdout, stderr } = await runCli(run)
    assert.equal(code, 0, stderr)
    assert.match(stdout + stderr, /augmented \(each kind 25%\)/)
    assert.equal((await openCheckpoint(at('cli'))).state.options.augment, 0.25)
    const sampled = await runCli([
      'sample',
      '--checkpoint',
      at('cli'),
      '--count',
      '1',
      '--steps',
      '2',
      '--output',
      at('a.png'),
      '--device',
      'cpu',
    ])
    assert.equal(sampled.code, 0, sampled.stderr)
    const other = await runCli(['train', '--resume', '--out', at('cli'), '--augment', '0.5', '--steps', '4'])
    assert.notEqual(other.code, 0)
    assert.match(other.stderr, /--augment is 0.25 in the checkpoint/)
  })
})
