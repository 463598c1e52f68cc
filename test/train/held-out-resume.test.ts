// Held-out losses in a resumed training, on every backend.
import assert from 'node:assert/strict'
import path from 'node:path'
import { openCheckpoint } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import { heldOutScalars } from '../../lib/train/scalars'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import { testedBackends } from '../support/devices'
import { heldOutOf, numbers, stepsOf, stopAt, temporaryFolder, tinyModel, tinyTraining, writeImages } from './support'

describe('held-out losses', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)
  const plan = { steps: 9, validation: 0.3, validationEvery: 3, monitor: 'val/loss_ema', checkpointEvery: 4 }
  /** What is emulated is slow. */
  const short = { steps: 3, validationEvery: 1, validationCount: 1, batchSize: 1, checkpointEvery: 2 }
  const shortModel = { ...tinyModel, unetConfig: { ...tinyModel.unetConfig, imageSize: 4 } }

  before(() => writeImages(data, 21))

  for (const device of testedBackends) {
    it(`are those of the unbroken one, to the bit (${device})`, async () => {
      const own = { ...plan, ...(device === 'cpu' ? {} : { ...short, model: shortModel }), device }
      const run = (name: string) => path.join(folder, `${name}-${device}`)
      await train(tinyTraining(data, run('unbroken'), own))
      const losses = heldOutOf(run('unbroken'))
      assert.deepEqual(
        losses.map(({ step }) => step),
        [1, 2, 3].map((k) => k * own.validationEvery),
      )
      assert.deepEqual(Object.keys(losses[0]).sort(), [...heldOutScalars, 'step'].sort())
      for (const step of device === 'cpu' ? [2, 3, 7] : [2]) {
        const { stopped } = await train(tinyTraining(data, run('broken'), { ...own, resume: true }), stopAt(step))
        assert.equal(stopped, 'signal')
      }
      const result = await train({ data, out: run('broken'), resume: true, device })
      assert.deepEqual(heldOutOf(run('broken')), losses)
      assert.deepEqual(numbers(stepsOf(run('broken'))), numbers(stepsOf(run('unbroken'))))
      const monitorOf = async (name: string) => (await openCheckpoint(run(name))).state.monitor
      assert.deepEqual(await monitorOf('broken'), await monitorOf('unbroken'))
      const best = losses.reduce((a, b) => (b['val/loss_ema'] < a['val/loss_ema'] ? b : a))
      assert.deepEqual([result.best?.step, result.best?.value], [best.step, best['val/loss_ema']])
    })
  }
})
