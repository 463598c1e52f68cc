/** Trainings that start from another model. */
import assert from 'node:assert/strict'
import { mkdirSync, renameSync, statSync } from 'node:fs'
import path from 'node:path'
import { loadModel } from '../../lib/convert/load-model'
import { DiffusionError } from '../../lib/errors'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import { Trainer } from '../../lib/trainer/trainer'
import { assertCloseToScale } from '../support/compare'
import { numbers, readMetrics, temporaryFolder, tinyTraining, writeImages } from './support'

describe('a training that starts from a model', () => {
  const folder = temporaryFolder()
  const [data, base, classed] = ['images', 'base', 'classed'].map((name) => path.join(folder, name))
  let runs = 0
  const newRun = () => path.join(folder, `run${runs++}`)
  const plan = (out: string, options: Partial<TrainOptions> = {}): TrainOptions => {
    return { data, out, from: base, steps: 3, batchSize: 4, sampleEvery: 0, device: 'cpu', ...options }
  }
  const train = (options: TrainOptions) => new Trainer(options).run()
  const stateOf = async (run: string, step?: number) => {
    const at = step === undefined ? run : path.join(run, 'checkpoints', `step-${String(step).padStart(8, '0')}`)
    return readTrainingState(await openCheckpoint(at))
  }

  before(async () => {
    await writeImages(data, 8)
    await train(tinyTraining(data, base, { steps: 4, lr: 1e-3 }))
    await writeImages(path.join(classed, 'b'), 4)
    await writeImages(path.join(classed, 'c'), 4)
  })

  it('has its options, weights and averages, and resumes without it to the bit', async () => {
    const run = newRun()
    const still = { lr: 0, weightDecay: 0, model: { emaDecay: 1 } }
    await train(plan(run, { ...still, steps: 1 }))
    const [before, after] = [await stateOf(base), await stateOf(run)]
    for (const [name, tensor] of Object.entries(before.weights)) {
      assert.deepEqual(await after.weights[name].data(), await tensor.data(), name)
    }
    const { options } = (await openCheckpoint(run)).state
    assert.deepEqual([options.model.timesteps, options.model.unetConfig.modelChannels], [20, 32])
    assert.equal('precision' in options.model, false) // that is the training's own
    const [whole, broken] = [newRun(), newRun()]
    await train(plan(whole, { steps: 4, lrSchedule: 'constant', warmup: 1 }))
    await train(plan(broken, { steps: 2, lrSchedule: 'constant', warmup: 1 }))
    const moved = `${base}-moved`
    renameSync(base, moved)
    await train({ data, out: broken, resume: true, steps: 4 })
    renameSync(moved, base)
    assert.deepEqual(numbers(readMetrics(broken)), numbers(readMetrics(whole)))
  })

  it('freezes what is named', async () => {
    const run = newRun()
    await train(plan(run, { lr: 0.01, model: { freeze: ['input_blocks.*'] } }))
    const [before, after] = [await stateOf(base), await stateOf(run)]
    for (const [name, tensor] of Object.entries(before.ema!)) {
      const values = await tensor.data()
      const unchanged = (await after.weights[name].data()).every((v, i) => v === values[i])
      if (name.startsWith('input_blocks.')) assert.ok(unchanged, name) // the averaged ones
    }
    assert.ok(Object.keys(after.m).every((name) => !name.startsWith('input_blocks.')))
  })

  it('trains low-rank updates alone, and writes them and the merged model', async () => {
    const run = newRun()
    const result = await train(plan(run, { lr: 0.02, steps: 4, model: { lora: { rank: 2 }, emaDecay: 0.5 } }))
    const file = path.join(run, 'lora.safetensors')
    assert.ok(statSync(file).size < statSync(result.model!).size)
    const drawn = { batchSize: 2, steps: 5, seed: 1, sampler: 'ddim' } as const
    const draw = async (source: string, options = {}) => {
      using ddpm = await loadModel(source, { device: 'cpu', ...options })
      return (await ddpm.sample(drawn)).data()
    }
    const merged = await draw(result.model!)
    assertCloseToScale(await draw(run), merged, 1e-4, 'the run, beside')
    for (const mergeLoras of [true, false]) {
      assertCloseToScale(await draw(base, { loras: [{ path: file }], mergeLoras }), merged, 1e-4, `${mergeLoras}`)
    }
    assert.ok((await draw(base)).some((v, i) => Math.abs(v - merged[i]) > 1e-3))
    const again = newRun()
    await train(plan(again, { from: run, steps: 1, lr: 0, model: { emaDecay: 1 } }))
    assertCloseToScale(await draw(again, { weights: 'model' }), await draw(run, { weights: 'model' }), 1e-4, 'from it')
  })

  it('gives new classes rows after those that there are', async () => {
    const first = newRun()
    await train(plan(first, { data: classed, classes: 'folders', steps: 2, lr: 0, model: { emaDecay: 1 } }))
    const start = await stateOf(first)
    assert.ok(
      (await start.weights['label_emb.weight'].data()).every((v) => v === 0),
      'none of them changes anything',
    )
    const trained = newRun()
    await train(plan(trained, { from: first, data: classed, classes: 'folders', lr: 0.05, steps: 5 }))
    const more = path.join(folder, 'more')
    mkdirSync(more)
    await writeImages(path.join(more, 'a'), 4)
    await writeImages(path.join(more, 'c'), 4)
    const next = newRun()
    await train(plan(next, { from: trained, data: more, classes: 'folders', steps: 1, lr: 0, model: { emaDecay: 1 } }))
    const { model } = (await openCheckpoint(next)).state.options
    assert.deepEqual([model.classNames, model.nullClass, model.unetConfig.numClasses], [['b', 'c', 'a'], 3, 4])
    const table = async (run: string) => (await stateOf(run)).weights['label_emb.weight']
    const [old, now] = [await table(trained), await table(next)]
    const width = old.shape[1]
    const row = async (t: typeof old, i: number) => (await t.data()).slice(i * width, (i + 1) * width)
    assert.notDeepEqual(await row(old, 0), await row(old, 1))
    for (const [to, from] of [
      [0, 0],
      [1, 1],
      [2, 2], // a begins as no class
      [3, 2],
    ])
      assert.deepEqual(await row(now, to), await row(old, from), `row ${to}`)
  })

  it('refuses what does not fit', async () => {
    const refused = (options: Partial<TrainOptions>, code: string, message: RegExp) =>
      assert.rejects(train(plan(newRun(), options)), (error: DiffusionError) => {
        assert.ok(error instanceof DiffusionError, String(error))
        assert.deepEqual([error.code, message.test(error.message)], [code, true], error.message)
        return true
      })
    await refused({ from: path.join(folder, 'nothing') }, 'not-found', /nothing/)
    await refused({ model: { unetConfig: { modelChannels: 64 } } }, 'state-mismatch', /expected shape/)
    await refused({ model: { unetConfig: { numResBlocks: 2 } } }, 'state-mismatch', /starts from|expected shape/)
    await refused({ model: { freeze: ['nothing.*'] } }, 'invalid-argument', /matches/)
  })
})
