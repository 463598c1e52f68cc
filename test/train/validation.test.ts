// Held-out images: their losses, the best checkpoint, and early stopping.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { loadModel } from '../../lib/convert/load-model'
import type { Dataset } from '../../lib/data/dataset'
import { ImageFolder } from '../../lib/data/image-folder'
import { openTrainingData } from '../../lib/data/open-data'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { DiffusionError } from '../../lib/errors'
import { openBest, openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import { Monitor } from '../../lib/train/monitor'
import type { TrainOptions } from '../../lib/train/options'
import { heldOutScalars } from '../../lib/train/scalars'
import { heldOutLosses } from '../../lib/trainer/held-out-losses'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import {
  ended,
  heldOutOf,
  numbers,
  readMetrics,
  runCli,
  startCli,
  stepsOf,
  stopAt,
  temporaryFolder,
  tinyFlags,
  tinyModel,
  tinyTraining,
  writeImages,
} from './support'

describe('held-out images', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const data = at('images')
  const other = at('held-out')
  let runs = 0
  const newRun = () => at(`run${runs++}`)
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)
  const rejects = (promise: Promise<unknown>, argument: string, pattern: RegExp) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.equal(error.argument, argument, error.message)
      assert.match(error.message, pattern)
      return true
    })
  before(async () => {
    await writeImages(data, 21)
    await writeImages(other, 6, 10)
  })

  describe('losses', () => {
    const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3 }
    const open = async (options = {}) => {
      const ddpm = new DDPM({ ...tinyModel, unetConfig, device: 'cpu', seed: 1, ...options } as never)
      ddpm.configureOptimizers({ lr: 1e-2 })
      const images = await ImageFolder.open(data, { size: 8 })
      const { images: x } = await images.batch(0, 4)
      for (let step = 0; step < 3; step++) await ddpm.trainBatch(x) // so that averaged and trained weights differ
      return ddpm
    }

    it('are those of validationStep at one timestep in each quarter, with the same noise in any batch', async () => {
      using ddpm = await open()
      const images = await ImageFolder.open(other, { size: 8 })
      const losses = await heldOutLosses(ddpm, images, { limit: 5, batchSize: 5, seed: 3 })
      assert.deepEqual(Object.keys(losses).sort(), [...heldOutScalars].sort())
      assert.notEqual(losses['val/loss'], losses['val/loss_ema'])
      for (const suffix of ['', '_ema']) {
        const quarters = [0, 1, 2, 3].map((q) => losses[`val/loss_q${q}${suffix}`])
        const mean = quarters.reduce((a, b) => a + b) / 4
        assert.ok(Math.abs(mean - losses[`val/loss${suffix}`]) < 1e-12 * mean)
        assert.ok(quarters[0] > 1.1 * quarters[3], `${quarters}`) // little noise is the hardest to see
      }
      const near = (a: number, b: number) => assert.ok(Math.abs(a - b) <= 1e-6 * Math.abs(b), `${a} is not ${b}`)
      const split = await heldOutLosses(ddpm, images, { limit: 5, batchSize: 2, seed: 3 })
      for (const [name, loss] of Object.entries(losses)) near(split[name], loss)
      assert.deepEqual(await heldOutLosses(ddpm, images, { limit: 5, batchSize: 5, seed: 3 }), losses)
      const another = await heldOutLosses(ddpm, images, { limit: 5, batchSize: 5, seed: 4 })
      assert.ok(Math.abs(another['val/loss'] - losses['val/loss']) > 1e-4 * losses['val/loss'])
      const averages = (await ddpm.trainingState()).draws
      assert.equal(averages, 0, 'no seed of the model was used')
    })

    it('of a model without averages are evaluated once', async () => {
      using ddpm = await open({ useEma: false })
      const images = await ImageFolder.open(other, { size: 8 })
      const losses = await heldOutLosses(ddpm, images, { limit: 3, batchSize: 2, seed: 3 })
      assert.equal(losses['val/loss'], losses['val/loss_ema'])
    })

    it('end with their signal', async () => {
      using ddpm = await open()
      const images = await ImageFolder.open(other, { size: 8 })
      const signal = AbortSignal.abort()
      await assert.rejects(heldOutLosses(ddpm, images, { signal }), { code: 'aborted' })
      await assert.rejects(heldOutLosses(ddpm, images, { limits: 3 } as never), { code: 'unknown-option' })
    })

    it('of few timesteps have fewer quarters', async () => {
      using ddpm = await open({ timesteps: 3 })
      const images = await ImageFolder.open(other, { size: 8 })
      const losses = await heldOutLosses(ddpm, images, { limit: 2, batchSize: 2, seed: 3 })
      const own = Object.keys(losses).filter((name) => /_q\d$/.test(name))
      assert.deepEqual(own, ['val/loss_q0', 'val/loss_q1', 'val/loss_q2'])
    })
  })

  describe('a fraction', () => {
    const parts = async (validation: number, o: { seed?: number; of?: string } = {}) => {
      const { data: kept, heldOut } = await openTrainingData(o.of ?? data, { size: 8, seed: o.seed ?? 0, validation })
      const names = ({ source }: Dataset) => Array.from({ length: source.length }, (_, i) => source.nameOf(i))
      return { kept: names(kept as Dataset), heldOut: names(heldOut as Dataset) }
    }

    it('parts the images by seed and name alone', async () => {
      const { kept, heldOut } = await parts(0.3)
      assert.deepEqual([...kept, ...heldOut].sort(), (await ImageFolder.open(data, { size: 8 })).files)
      assert.ok(heldOut.length > 1 && heldOut.length < 13, `${heldOut.length}`)
      assert.notDeepEqual((await parts(0.3, { seed: 1 })).heldOut, heldOut)
      const more = at('more')
      await writeImages(more, 30)
      writeFileSync(path.join(more, '0004.png'), 'damaged')
      const expected = heldOut.filter((file) => file !== '0004.png')
      const again = (await parts(0.3, { of: more })).heldOut.filter((file) => file < '0021')
      assert.deepEqual(again, expected)
    })

    it('of an object of the caller parts its items', async () => {
      const items = { length: 20, get: (i: number) => new Float32Array(3 * 8 * 8).fill(i / 20) }
      const run = newRun()
      await train({ ...tinyTraining(data, run, { validation: 0.3, validationEvery: 3 }), data: items })
      assert.deepEqual(
        heldOutOf(run).map(({ step }) => step),
        [3, 6],
      )
      await rejects(train({ out: run, resume: true } as never), 'data', /given an object of yours/)
    })

    it('is about that of many', async () => {
      const many = at('many')
      await writeImages(many, 400, 4)
      const { length } = (await parts(0.1, { of: many })).heldOut
      assert.ok(Math.abs(length - 40) < 4 * Math.sqrt(36), `${length} of 400`)
    })

    it('that leaves nothing on one side is refused', async () => {
      await rejects(train(tinyTraining(data, newRun(), { validation: 1e-6 })), 'validation', /21 images, .*holds none/)
      await rejects(train(tinyTraining(data, newRun(), { validation: 0.999999 })), 'validation', /leaves none/)
    })
  })

  describe('in a training', () => {
    const plan = { steps: 9, validation: 0.3, validationEvery: 3, monitor: 'val/loss_ema', checkpointEvery: 4 }

    it('a folder of them leaves the training as it is', async () => {
      const [plain, evaluated] = [newRun(), newRun()]
      await train(tinyTraining(data, plain))
      await train(tinyTraining(data, evaluated, { validation: other, validationEvery: 2, validationCount: 5 }))
      assert.deepEqual(numbers(stepsOf(evaluated)), numbers(readMetrics(plain)))
      assert.equal(heldOutOf(evaluated).length, 3)
    })

    it('an evaluation that was interrupted is made when the run is resumed', async () => {
      const unbroken = newRun()
      await train(tinyTraining(data, unbroken, plan))
      const broken = newRun()
      // Stopped by the hook of step 6, so that its evaluation is not begun; then one that ends right after it.
      await train(tinyTraining(data, broken, plan), stopAt(6))
      assert.equal((await openCheckpoint(broken)).state.evaluated, 3)
      const controller = new AbortController()
      await train(
        { data, out: broken, resume: true },
        { signal: controller.signal, onEvaluation: () => controller.abort() },
      )
      const { step, evaluated } = (await openCheckpoint(broken)).state
      assert.deepEqual([step, evaluated], [6, 6])
      await train({ data, out: broken, resume: true })
      assert.deepEqual(heldOutOf(broken), heldOutOf(unbroken))
    })

    it('may be begun with on resume, and not changed', async () => {
      const run = newRun()
      await train(tinyTraining(data, run, { steps: 2 }))
      await rejects(train({ data, out: run, resume: true, validation: 0.3 }), 'validation', /can't become 0.3/)
      const more = { data, out: run, resume: true, validation: other, validationEvery: 2 }
      await train({ ...more, steps: 4 })
      assert.deepEqual(
        heldOutOf(run).map(({ step }) => step),
        [2, 4],
      )
      await rejects(train({ ...more, validationEvery: 3, steps: 5 }), 'validationEvery', /is 2 in the checkpoint/)
      await rejects(train({ ...more, validation: data, steps: 5 }), 'validation', /evaluated on: 6 readable images/)
      await rejects(train({ ...more, monitor: 'train/loss', steps: 5 }), 'monitor', /is 'val\/loss' in the checkpoint/)
    })

    it('wrong options are refused', () => {
      const wrong = (options: object, argument: string, pattern: RegExp) =>
        assert.throws(
          () => new Trainer({ data, out: newRun(), ...options }),
          (e) => e instanceof DiffusionError && e.argument === argument && pattern.test(e.message),
        )
      wrong({ validation: 1 }, 'validation', /what data can be, or a fraction between 0 and 1/)
      wrong({ monitor: 'val/loss' }, 'monitor', /a scalar of the training where there is no validation/)
      wrong({ validation: 0.5, monitor: 'val/los' }, 'monitor', /val\/loss_simple/)
      wrong({ patience: 3 }, 'patience', /no patience without a monitor/)
      wrong({ validation: 0.5, model: { monitor: 'val/rec_loss' } }, 'monitor', /'val\/rec_loss'/)
    })

    it('classes are matched by their names', async () => {
      for (const name of ['left', 'right']) await writeImages(at('classes', name), 3)
      await writeImages(at('one-class', 'right'), 3)
      const run = newRun()
      const classes = { classes: 'folders', steps: 2, validation: at('one-class'), validationEvery: 2 }
      await train(tinyTraining(at('classes'), run, classes))
      assert.equal(heldOutOf(run).length, 1)
      await writeImages(at('no-class', 'middle'), 3)
      const wrong = tinyTraining(at('classes'), newRun(), { ...classes, validation: at('no-class') })
      await rejects(train(wrong), 'classes', /classes of the model: left, right/)
    })
  })

  describe('the monitor', () => {
    const look = (monitor: Monitor, values: readonly number[]) =>
      values.map((value, i) => monitor.look(i + 1, { 'val/loss': value }))

    it('keeps the lowest, and counts what is not lower by minDelta', () => {
      const monitor = new Monitor({ name: 'val/loss', patience: 2, minDelta: 0.1 })
      assert.deepEqual(look(monitor, [1, 0.95, 0.8]), [true, true, true])
      assert.deepEqual([monitor.best, monitor.state.score, monitor.state.wait], [{ step: 3, value: 0.8 }, 0.8, 0])
      assert.deepEqual(look(monitor, [0.75, Number.NaN]), [true, false])
      assert.match(monitor.over!, /^val\/loss was not lower by more than 0\.1 in 2 evaluations/)
    })

    it('takes the mean of a training scalar since the evaluation before', () => {
      const monitor = new Monitor({ name: 'train/loss', minDelta: 0 })
      for (const loss of [4, 2]) monitor.add({ 'train/loss': loss })
      assert.ok(monitor.look(2, {}))
      assert.equal(monitor.best!.value, 3)
      const again = new Monitor({ name: 'train/loss', minDelta: 0 }, JSON.parse(JSON.stringify(monitor.state)))
      again.add({ 'train/loss': 5 })
      assert.ok(!again.look(3, {}))
      assert.deepEqual([again.best, again.state.wait, again.over], [{ step: 2, value: 3 }, 1, undefined])
    })

    it('looks at training scalars without held-out images', async () => {
      const run = newRun()
      const result = await train(tinyTraining(data, run, { monitor: 'train/loss', validationEvery: 2, steps: 4 }))
      const losses = readMetrics(run).map(({ loss }) => loss)
      const means = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
      assert.equal(result.best!.value, Math.min(...means))
      assert.equal(heldOutOf(run).length, 0)
    })
  })

  describe('a training that overfits eight images', () => {
    const few = at('few')
    const run = at('overfit')
    const plan = {
      ...{ steps: 4000, batchSize: 8, lr: 5e-3, warmup: 10, flip: false, seed: 1 },
      ...{ validation: other, validationEvery: 10, monitor: 'val/loss', patience: 3, keep: 1 },
    }
    const model = { ...tinyModel, unetConfig: { ...tinyModel.unetConfig, dropout: 0 } }
    let stoppedAt = 0

    before(() => writeImages(few, 8))

    it('is stopped by its monitor, and keeps its best checkpoint', async () => {
      const result = await train({ ...tinyTraining(few, run, plan), model })
      assert.equal(result.stopped, 'early')
      assert.match(result.why!, /^val\/loss was not lower in 3 evaluations since it was .* \(the best: step \d+\)$/)
      stoppedAt = result.step
      const losses = heldOutOf(run)
      const learned = stepsOf(run).slice(-40)
      const mean = learned.reduce((sum, { loss }) => sum + loss / learned.length, 0)
      assert.ok(losses.at(-1)!['val/loss'] > 1.2 * mean, `${losses.at(-1)!['val/loss']} is not above ${mean}`)
      const { best } = result
      assert.deepEqual([losses.at(-1)!.step, best!.step], [stoppedAt, stoppedAt - 30])
      assert.equal(best!.value, Math.min(...losses.map((line) => line['val/loss'])))
      const names = readdirSync(path.join(run, 'checkpoints')).sort()
      const name = (step: number) => `step-${String(step).padStart(8, '0')}`
      assert.deepEqual(names, ['best', 'latest', name(best!.step), name(stoppedAt)])
      assert.equal(readFileSync(path.join(run, 'checkpoints', 'best'), 'utf8'), `${name(best!.step)}\n`)
    })

    it('has its best as the model, and as run@best', async () => {
      const { ema } = await readTrainingState(await openBest(run))
      for (const source of [path.join(run, 'model.safetensors'), `${run}@best`]) {
        using ddpm = await loadModel(source, { device: 'cpu' })
        const { weights } = await ddpm.trainingState()
        for (const [name, tensor] of Object.entries(ema!))
          assert.deepEqual(await weights[name].data(), await tensor.data(), `${source} ${name}`)
      }
      const plain = newRun()
      await train(tinyTraining(data, plain, { steps: 1 }))
      await assert.rejects(loadModel(`${plain}@best`), { code: 'not-found', message: /without a monitor/ })
    })

    it('stops at the same step when it is resumed on the way, and goes on only with more patience', async () => {
      const broken = newRun()
      await train({ ...tinyTraining(few, broken, plan), model }, stopAt(stoppedAt - 15))
      const result = await train({ data: few, out: broken, resume: true })
      assert.deepEqual([result.stopped, result.step], ['early', stoppedAt])
      assert.deepEqual(heldOutOf(broken), heldOutOf(run))
      const again = await train({ data: few, out: broken, resume: true })
      assert.deepEqual([again.stopped, again.step, again.metrics], ['early', stoppedAt, undefined])
      const more = { data: few, out: broken, resume: true, patience: 4 }
      assert.ok((await train(more, stopAt(stoppedAt + 1))).step > stoppedAt)
    })
  })

  it('killed at any moment, a training goes on to the same evaluations and the same best checkpoint', async () => {
    const flags = [
      ...tinyFlags,
      '--validation',
      '0.3',
      '--validation-every',
      '2',
      '--validation-count',
      '3',
      '--keep',
      '1',
    ]
    const args = (run: string) => ['train', data, '--out', run, ...flags, '--steps', '16', '--json', '--resume']
    const [unbroken, killed] = [newRun(), newRun()]
    assert.equal((await runCli(args(unbroken))).code, 0)
    for (const checkpoints of [1, 2]) {
      const child = startCli(args(killed))
      await ended(child, (stdout) => {
        if ((stdout.match(/"event":"checkpoint"/g) ?? []).length < checkpoints) return
        setTimeout(() => child.kill('SIGKILL'), Math.random() * 40)
      })
      const { monitor, step } = (await openCheckpoint(killed)).state
      cutTornLine(path.join(killed, 'metrics.jsonl'))
      const logged = heldOutOf(killed).filter((line) => line.step <= step)
      const lowest = Math.min(...logged.map((line) => line['val/loss']))
      assert.equal(monitor!.best!.value, lowest)
      await readTrainingState(await openBest(killed))
    }
    assert.equal((await runCli(args(killed))).code, 0)
    assert.deepEqual(heldOutOf(killed), heldOutOf(unbroken))
    const [a, b] = [await openBest(killed), await openBest(unbroken)]
    assert.equal(path.basename(a.folder), path.basename(b.folder))
    const bytes = (folder: string) => readFileSync(path.join(folder, 'ema.safetensors'))
    assert.ok(bytes(a.folder).equals(bytes(b.folder)))
    const { stdout } = await runCli(['info', killed])
    assert.match(stdout, /^best +val\/loss: \d\.\d+ +step: \d+$/m)
  })

  it('on the command line', async () => {
    const run = newRun()
    const args = ['train', data, '--out', run, ...tinyFlags, '--steps', '6', '--validation', '0.3']
    const { code, stdout, stderr } = await runCli([
      ...args,
      '--validation-every',
      '1',
      '--patience',
      '1',
      '--min-delta',
      '9',
    ])
    assert.equal(code, 0, stderr)
    assert.match(stdout, /^stopped early at step 2: val\/loss was not lower by more than 9 in 1 evaluations/m)
    assert.match(stdout, /^14 images, 7 held out, /)
    assert.match(stderr, /^step 1: val\/loss \d\.\d{4}, the best so far$/m)
    assert.match(stdout, /model\.safetensors is of step [12]$/m)
    assert.ok(existsSync(path.join(run, 'model.safetensors')))
    const sample = await runCli([
      'sample',
      '--checkpoint',
      `${run}@best`,
      '--count',
      '1',
      '--steps',
      '2',
      '-o',
      at('s.png'),
    ])
    assert.equal(sample.code, 0, sample.stderr)
  })
})

/** What a kill left of its last line. */
function cutTornLine(file: string): void {
  const text = readFileSync(file, 'utf8')
  writeFileSync(file, text.slice(0, text.lastIndexOf('\n') + 1))
}
