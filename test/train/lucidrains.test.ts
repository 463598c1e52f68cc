// Trainings of the other architecture: from nothing, resumed, from a model of it, and on the command line.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { loadModel } from '../../lib/convert/load-model'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import { Trainer } from '../../lib/trainer/trainer'
import { assertSameBits } from '../support/compare'
import { readMetrics, stopAt, temporaryFolder, tinyTraining, writeImages } from './support'

const model: TrainOptions['model'] = {
  timesteps: 20,
  unetConfig: {
    ...{ architecture: 'lucidrains', imageSize: 8, dim: 8, dimMults: [1, 2], attnHeads: 1, attnDimHead: 8 },
    ...{ dropout: 0.1, selfCondition: true },
  },
}

describe('a training of LucidrainsUNet', () => {
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  const at = (name: string) => path.join(folder, name)
  const plan = (out: string, o: Partial<TrainOptions> = {}) =>
    tinyTraining(data, at(out), {
      model,
      steps: 6,
      checkpointEvery: 3,
      sampleEvery: 3,
      sampleCount: 2,
      sampleSteps: 3,
      ...o,
    })
  const losses = (run: string) => readMetrics(at(run)).map(({ loss }) => loss)

  before(async () => {
    await writeImages(data, 9)
    await new Trainer(plan('whole')).run()
  })

  it('resumes to the bit, and writes a model that draws', async () => {
    await new Trainer(plan('parts')).run(stopAt(4))
    await new Trainer(plan('parts', { resume: true })).run()
    assert.deepEqual(losses('parts'), losses('whole'))
    const [ours, whole] = await Promise.all(
      ['parts', 'whole'].map(async (run) => readTrainingState(await openCheckpoint(at(run)))),
    )
    for (const [name, tensor] of Object.entries(whole.weights)) {
      assertSameBits(await ours.weights[name].data(), await tensor.data(), name)
    }
    using drawn = await loadModel(at('whole'), { device: 'cpu' })
    assert.deepEqual((await drawn.sample({ batchSize: 2, steps: 3 })).shape, [2, 3, 8, 8])
    await assert.rejects(
      new Trainer(
        plan('parts', { resume: true, model: { unetConfig: { architecture: 'lucidrains', dim: 16 } } }),
      ).run(),
      { code: 'invalid-argument', argument: 'model.unetConfig.dim' },
    )
  })

  it('starts from a model of the same architecture, whose options it has', async () => {
    await new Trainer(tinyTraining(data, at('tuned'), { from: at('whole'), model: undefined, steps: 1 })).run()
    using tuned = await loadModel(at('tuned'), { device: 'cpu' })
    using start = await loadModel(at('whole'), { device: 'cpu' })
    assert.deepEqual(tuned.config.unetConfig, start.config.unetConfig)
    await assert.rejects(
      new Trainer(plan('other', { from: at('whole'), model: { unetConfig: { modelChannels: 32 } } })).run(),
      { code: 'unknown-option', argument: 'modelChannels' },
    )
  })

  it('has no classes, and levels that buckets must go through', async () => {
    const wrong = (o: Partial<TrainOptions>, argument: string) =>
      assert.rejects(async () => new Trainer(plan('wrong', o)).run(), { code: 'invalid-argument', argument })
    await wrong({ buckets: [[8, 9]] }, 'buckets')
    await wrong({ classes: 'folders' }, 'classes')
    await wrong({ augment: 0.1 }, 'augment')
    await wrong({ model: { unetConfig: { architecture: 'other' as 'lucidrains' } } }, 'model.unetConfig.architecture')
  })

  it('is asked for by --architecture', () => {
    const cli = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')
    const run = (...args: string[]) =>
      execFileSync(
        process.execPath,
        [cli, 'train', data, '--out', at('cli'), '--architecture', 'lucidrains', ...args],
        {
          encoding: 'utf8',
          stdio: 'pipe',
        },
      )
    assert.throws(() => run('--heads', '2'), /--heads: nothing with --architecture lucidrains/)
    assert.throws(() => run('--size', '8x16'), /--size: a square/)
    run(
      ...'--size 8 --model-channels 8 --channel-mult 1,2 --timesteps 20 --batch 2 --steps 2 --sample-every 0'.split(
        ' ',
      ),
    )
    assert.equal(losses('cli').length, 2)
  })
})
