import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { loadModel } from '../../lib/convert/load-model'
import { DiffusionError } from '../../lib/errors'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import { numbers, readMetrics, temporaryFolder, tinyModel, tinyTraining, writeImages } from './support'

describe('Trainer', () => {
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  let runs = 0
  const newRun = () => path.join(folder, `run${runs++}`)
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)

  const rejects = (promise: Promise<unknown>, code: string, pattern: RegExp) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.equal(error.code, code)
      assert.match(error.message, pattern)
      return true
    })

  /** The run that others are compared with: 12 steps without a stop. */
  const unstopped = path.join(folder, 'unstopped')
  const plan = {
    steps: 12,
    flip: true,
    accumulate: 2,
    checkpointEvery: 4,
    sampleEvery: 6,
    sampleCount: 4,
    sampleSteps: 5,
  }

  before(async () => {
    await writeImages(data, 21)
    await train(tinyTraining(data, unstopped, plan))
  })

  it('writes metrics, samples, checkpoints and a model', async () => {
    const metrics = readMetrics(unstopped)
    assert.deepEqual(
      metrics.map(({ step }) => step),
      Array.from({ length: 12 }, (_, i) => i + 1),
    )
    for (const m of metrics) {
      for (const key of ['loss', 'loss_simple', 'loss_vlb', 'gradNorm', 'lr', 'imagesPerSecond'] as const) {
        assert.ok(Number.isFinite(m[key]) && Number(m[key]) > 0, `${key} is ${m[key]}`)
      }
      assert.ok(Date.parse(m.time) > 0)
    }
    const kinds = ['denoise_row.png', 'diffusion_row.png', 'inputs.png', 'png']
    const names = [6, 12].flatMap((step) => kinds.map((kind) => `step-${String(step).padStart(8, '0')}.${kind}`))
    assert.deepEqual(readdirSync(path.join(unstopped, 'samples')).sort(), names)
    const sizes = [
      [2 + 3 * 10, 2 + 4 * 10], // noise, and what is left of it after the first and the last step
      [2 + 2 * 10, 2 + 2 * 10],
      [2 + 4 * 10, 2 + 10],
      [2 + 4 * 10, 2 + 10],
    ]
    for (const [i, kind] of kinds.entries()) {
      const picture = await sharp(path.join(unstopped, 'samples', `step-00000012.${kind}`)).metadata()
      assert.deepEqual([picture.width, picture.height, picture.channels], [...sizes[i], 3], kind)
    }
    const checkpoints = path.join(unstopped, 'checkpoints')
    assert.deepEqual(readdirSync(checkpoints).sort(), ['latest', 'step-00000008', 'step-00000012'])
    assert.equal(readFileSync(path.join(checkpoints, 'latest'), 'utf8'), 'step-00000012\n')
    assert.ok(!existsSync(path.join(unstopped, 'lock')))
  })

  it('learns', async () => {
    const run = newRun()
    await train(tinyTraining(data, run, { steps: 60, lr: 2e-3, batchSize: 8 }))
    const losses = readMetrics(run).map(({ loss_simple }) => loss_simple)
    const mean = (values: number[]) => values.reduce((sum, v) => sum + v) / values.length
    assert.ok(mean(losses.slice(-10)) < 0.8 * mean(losses.slice(0, 5)), losses.join(' '))
  })

  it('exports the averaged weights', async () => {
    const model = await loadModel(path.join(unstopped, 'model.safetensors'), { device: 'cpu', seed: 5 })
    const { ema } = await readTrainingState(await openCheckpoint(unstopped))
    const { weights } = await model.trainingState()
    for (const [name, tensor] of Object.entries(ema!))
      assert.deepEqual(await weights[name].data(), await tensor.data(), name)
    const samples = await model.sample({ batchSize: 2, steps: 3 })
    assert.deepEqual(samples.shape, [2, 3, 8, 8])
    model.dispose()
  })

  it('stops after the step under way when its signal fires, and resumes to the bit, with other memory too', async () => {
    const run = newRun()
    const stop = new AbortController()
    const onStep = ({ step }: { step: number }) => void (step === 5 && stop.abort())
    const result = await train(tinyTraining(data, run, plan), { signal: stop.signal, onStep })
    assert.deepEqual([result.step, result.stopped], [5, 'signal'])
    assert.equal(path.basename(result.checkpoint), 'step-00000005')
    const starts: number[] = []
    const model = { unetConfig: { useCheckpoint: true } } // changes no number, and so it can be changed
    const again = await train({ data, out: run, resume: true, model }, { onStart: ({ step }) => starts.push(step) })
    assert.deepEqual(starts, [5])
    assert.deepEqual([again.step, again.stopped], [12, false])
    assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(unstopped)))
    for (const file of ['model.safetensors', 'ema.safetensors', 'optimizer.safetensors']) {
      const bytes = (r: string) => readFileSync(path.join(r, 'checkpoints', 'step-00000012', file))
      assert.ok(bytes(run).equals(bytes(unstopped)), file)
    }
  })

  it('with Lion, whose checkpoints have one average, resumes to the bit', async () => {
    const [whole, run] = [newRun(), newRun()]
    await train(tinyTraining(data, whole, { steps: 6, optimizer: 'lion', lr: 5e-5 }))
    const stop = new AbortController()
    const hooks = { signal: stop.signal, onStep: ({ step }: { step: number }) => void (step === 3 && stop.abort()) }
    await train(tinyTraining(data, run, { steps: 6, optimizer: 'lion', lr: 5e-5 }), hooks)
    const change = { data, out: run, resume: true, optimizer: 'adamw' } as const
    await rejects(train(change), 'invalid-argument', /optimizer is 'lion' in the checkpoint and can't become 'adamw'/)
    await train({ data, out: run, resume: true })
    const bytes = (r: string) => readFileSync(path.join(r, 'checkpoints', 'step-00000006', 'optimizer.safetensors'))
    assert.ok(bytes(run).equals(bytes(whole)))
    assert.ok(!bytes(run).includes('exp_avg_sq'))
    assert.notDeepEqual(numbers(readMetrics(whole)), numbers(readMetrics(unstopped)).slice(0, 6))
  })

  it('takes a seed of 64 bits, and resumes with it', async () => {
    const seed = 6687881544318117707n
    const run = newRun()
    await train(tinyTraining(data, run, { steps: 2, seed }))
    const unbroken = newRun()
    await train(tinyTraining(data, unbroken, { steps: 4, seed }))
    await rejects(train({ data, out: run, resume: true, seed: 1 }), 'invalid-argument', /seed is 6687881544318117707n/)
    await train({ data, out: run, resume: true, steps: 4, seed })
    assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(unbroken)))
    const rounded = newRun()
    await train(tinyTraining(data, rounded, { steps: 1, seed: Number(seed) % 2 ** 53 }))
    assert.notEqual(readMetrics(rounded)[0].loss, readMetrics(run)[0].loss)
  })

  it('resumes after a kill: later metrics are dropped, leftovers removed', async () => {
    const run = newRun()
    cpSync(unstopped, run, { recursive: true })
    const checkpoints = path.join(run, 'checkpoints')
    cpSync(path.join(checkpoints, 'step-00000012'), path.join(checkpoints, '.writing-step-00000012-x'), {
      recursive: true,
    })
    rmSync(path.join(checkpoints, 'step-00000012'), { recursive: true })
    writeFileSync(path.join(run, 'metrics.jsonl'), '{"step":13,"lo', { flag: 'a' })
    await train({ data, out: run, resume: true })
    assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(unstopped)))
    assert.ok(readdirSync(checkpoints).every((name) => !name.startsWith('.')))
  })

  it('resumes longer, and has nothing to do when all steps are done', async () => {
    const run = newRun()
    cpSync(unstopped, run, { recursive: true })
    assert.equal((await train({ data, out: run, resume: true })).metrics, undefined)
    const { step } = await train({ data, out: run, resume: true, steps: 13 })
    assert.equal(step, 13)
  })

  it('starts from the beginning when there is nothing to resume', async () => {
    const result = await train(tinyTraining(data, newRun(), { steps: 1, resume: true }))
    assert.equal(result.step, 1)
  })

  it('refuses to resume with what would change the training', async () => {
    const resume = (options: Partial<TrainOptions>) => train({ data, out: unstopped, resume: true, ...options })
    await rejects(resume({ batchSize: 8 }), 'invalid-argument', /batchSize is 4 in the checkpoint and can't become 8/)
    await rejects(resume({ seed: 1 }), 'invalid-argument', /seed is 0/)
    await rejects(resume({ model: { timesteps: 50 } }), 'invalid-argument', /model\.timesteps is 20/)
    const unetConfig = { ...tinyModel.unetConfig, channelMult: [1, 2] }
    await rejects(resume({ model: { unetConfig } }), 'invalid-argument', /model\.unetConfig\.channelMult is \[1\]/)
    const other = path.join(folder, 'other-images')
    await writeImages(other, 5)
    await rejects(resume({ data: other }), 'invalid-argument', /21 readable images then, 5 now/)
  })

  it('takes an option that a checkpoint is too old to have for its default', async () => {
    const run = newRun()
    await train(tinyTraining(data, run, { steps: 2 }))
    const file = path.join(run, 'checkpoints', 'step-00000002', 'state.json')
    const { options, ...state } = JSON.parse(readFileSync(file, 'utf8'))
    const { precision, ...old } = options
    assert.equal(precision, 'fp32')
    writeFileSync(file, JSON.stringify({ ...state, options: old }))
    await rejects(
      train({ data, out: run, resume: true, precision: 'bf16' }),
      'invalid-argument',
      /precision is 'fp32' in the checkpoint/,
    )
    const { step } = await train({ data, out: run, resume: true, precision: 'fp32', steps: 3 })
    assert.equal(step, 3)
  })

  it('changes its length on resume as long as no learning rate depended on it', async () => {
    const stop = (at: number) => {
      const controller = new AbortController()
      return { signal: controller.signal, onStep: ({ step }: { step: number }) => step === at && controller.abort() }
    }
    const early = newRun()
    const trapezoid = { lrSchedule: 'trapezoid', warmup: 1 } as const
    await train(tinyTraining(data, early, { ...trapezoid, steps: 20 }), stop(6))
    await rejects(
      train({ data, out: early, resume: true, steps: 7 }),
      'invalid-argument',
      /steps is 20 in the checkpoint/,
    )
    await train({ data, out: early, resume: true, steps: 10 })
    const straight = newRun()
    await train(tinyTraining(data, straight, { ...trapezoid, steps: 10 }))
    assert.deepEqual(numbers(readMetrics(early)), numbers(readMetrics(straight)))
    const cosine = newRun()
    await train(tinyTraining(data, cosine, { lrSchedule: 'cosine', steps: 10 }), stop(5))
    await rejects(train({ data, out: cosine, resume: true, steps: 11 }), 'invalid-argument', /steps is 10/)
  })

  it('trains a class-conditional model from folders, which knows their names', async () => {
    const own = path.join(folder, 'classes')
    await writeImages(path.join(own, 'left'), 3)
    await writeImages(path.join(own, 'right'), 3)
    const run = newRun()
    const options = { classes: 'folders', steps: 4, sampleEvery: 4, sampleCount: 3, sampleSteps: 2 }
    await train(tinyTraining(own, run, options))
    assert.ok(existsSync(path.join(run, 'samples', 'step-00000004.png')))
    const { state } = await openCheckpoint(run)
    const { classNames, nullClass, classDropout, unetConfig } = state.options.model
    assert.deepEqual([classNames, nullClass, classDropout, unetConfig.numClasses], [['left', 'right'], 2, 0.1, 3])
    await train({ data: own, out: run, resume: true, steps: 5 })
    const straight = newRun()
    await train(tinyTraining(own, straight, { ...options, steps: 5 }))
    assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(straight)))
    using model = await loadModel(path.join(run, 'model.safetensors'), { device: 'cpu' })
    assert.equal(model.classLabel('right'), 1)
    await model.sample({ batchSize: 1, steps: 2, classLabels: model.classLabel('left'), guidanceScale: 2 })
    await rejects(train({ data, out: run, resume: true, classes: 'folders' }), 'invalid-argument', /no sub-folder/)
  })

  it('takes the labels that the images have', async () => {
    // The losses of the same images and noise differ only by the labels' embeddings, once the zero-initialised layers have moved.
    const own = path.join(folder, 'labels')
    await writeImages(path.join(own, 'a'), 4)
    await writeImages(path.join(own, 'b'), 4)
    const swapped = path.join(folder, 'swapped.json')
    const files = ['a', 'b'].flatMap((name) => [0, 1, 2, 3].map((i) => `${name}/000${i}.png`))
    const lossOf = async (classes: string) => {
      const run = newRun()
      await train(tinyTraining(own, run, { classes, steps: 5, lr: 0.01 }))
      return readMetrics(run)[4].loss
    }
    writeFileSync(swapped, JSON.stringify(Object.fromEntries(files.map((file) => [file, file[0]]))))
    const straight = await lossOf('folders')
    assert.equal(await lossOf(swapped), straight)
    writeFileSync(swapped, JSON.stringify(Object.fromEntries(files.map((file) => [file, file[0] === 'a' ? 'b' : 'a']))))
    assert.notEqual(await lossOf(swapped), straight)
  })

  it('refuses a run folder that is used: by an older training, or by one that runs', async () => {
    await rejects(train(tinyTraining(data, unstopped)), 'invalid-argument', /holds a training already/)
    const run = newRun()
    await train(tinyTraining(data, run, { steps: 1 }), {
      onStep: () => rejects(train(tinyTraining(data, run)), 'busy', /in use by another training/),
    })
  })

  it('refuses wrong options before anything is written', async () => {
    const run = newRun()
    const wrong = (options: object) => () => new Trainer({ data, out: run, ...options } as TrainOptions)
    const is = (code: string, pattern: RegExp) => (error: DiffusionError) =>
      error.code === code && pattern.test(error.message)
    assert.throws(wrong({ stepz: 1 }), is('unknown-option', /did you mean 'steps'/))
    assert.throws(wrong({ steps: 0 }), is('invalid-argument', /steps: expected an integer of at least 1, got 0/))
    assert.throws(wrong({ lrSchedule: 'cosin' }), is('invalid-argument', /did you mean 'cosine'/))
    assert.throws(wrong({ optimizer: 'lion', eps: 1e-8 }), is('invalid-argument', /eps: expected none with lion/))
    assert.throws(wrong({ out: undefined }), is('invalid-argument', /out is required/))
    await rejects(
      train({ ...tinyTraining(data, run), model: { timestep: 5 } as object }),
      'unknown-option',
      /timesteps/,
    )
    await rejects(train(tinyTraining(path.join(folder, 'nowhere'), run)), 'not-found', /no such folder/)
    assert.ok(!existsSync(run))
  })

  it('names unreadable files and goes on', async () => {
    const damaged = path.join(folder, 'damaged')
    await writeImages(damaged, 4)
    writeFileSync(path.join(damaged, 'broken.png'), 'no image')
    const told: string[] = []
    await train(tinyTraining(damaged, newRun(), { steps: 1 }), { onUnreadable: ({ file }) => told.push(file) })
    assert.deepEqual(told, ['broken.png'])
  })

  it('ends with an error when the loss is no number, and keeps what was saved', async () => {
    const run = newRun()
    await train(tinyTraining(data, run, { steps: 2, lr: 1e30, warmup: 0, maxGradNorm: 0, checkpointEvery: 1 })).catch(
      () => {},
    )
    await rejects(train({ data, out: run, resume: true, steps: 50 }), 'not-finite', /loss/)
    assert.ok((await openCheckpoint(run)).state.step >= 1)
  })

  describe('loses nothing', () => {
    const checkpointOf = async (run: string) => (await openCheckpoint(run)).state.step

    it('when the working directory changes', async () => {
      const before = process.cwd()
      const run = newRun()
      const elsewhere = path.join(folder, 'elsewhere')
      mkdirSync(elsewhere)
      process.chdir(folder)
      try {
        const options = tinyTraining('images', path.basename(run), { steps: 3, checkpointEvery: 1, cacheBytes: 0 })
        await train(options, { onStep: () => process.chdir(elsewhere) })
      } finally {
        process.chdir(before)
      }
      assert.deepEqual(readdirSync(elsewhere), [])
      assert.ok(existsSync(path.join(run, 'model.safetensors')))
      assert.ok(!existsSync(path.join(run, 'lock')))
    })

    it('when the run folder is renamed: it goes on there', async function () {
      if (!existsSync('/proc/self/fd')) {
        console.log('      not shown: the system does not tell the names of open folders')
        return this.skip()
      }
      const run = newRun()
      const moved = `${run}-moved`
      const warnings: string[] = []
      const options = tinyTraining(data, run, { ...plan, steps: 4, checkpointEvery: 2, sampleEvery: 4 })
      const result = await train(options, {
        onStep: ({ step }) => step === 2 && renameSync(run, moved),
        onWarning: ({ message }) => warnings.push(message),
      })
      assert.deepEqual(warnings, [`${run} was renamed: the training goes on in ${moved}`])
      assert.equal(result.model, path.join(moved, 'model.safetensors'))
      assert.ok(!existsSync(run))
      assert.equal(await checkpointOf(moved), 4)
      assert.deepEqual(numbers(readMetrics(moved)), numbers(readMetrics(unstopped)).slice(0, 4))
      assert.ok(existsSync(path.join(moved, 'samples', 'step-00000004.png')))
      assert.ok(!existsSync(path.join(moved, 'lock')))
    })

    it('but does not begin anew where the run folder was removed', async () => {
      const run = newRun()
      const removed = train(tinyTraining(data, run, { steps: 4, checkpointEvery: 2 }), {
        onStep: ({ step }) => step === 1 && rmSync(run, { recursive: true }),
      })
      await rejects(removed, 'io', /is not the folder any more that this training began in/)
      assert.ok(!existsSync(run))
    })

    it('when a hook throws', async () => {
      const run = newRun()
      const broken = new Error('a broken hook')
      const failing = train(tinyTraining(data, run, plan), {
        onStep: ({ step }) => {
          if (step === 5) throw broken
        },
      })
      await assert.rejects(failing, broken)
      assert.equal(await checkpointOf(run), 5)
      await train({ data, out: run, resume: true })
      assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(unstopped)))
    })

    for (const timestepSampler of ['uniform', 'loss-second-moment'] as const) {
      it(`when the images vanish, and go on when they are back (${timestepSampler})`, async () => {
        const own = path.join(folder, `vanishing-${timestepSampler}`)
        await writeImages(own, 21)
        const model = { ...tinyModel, timestepSampler }
        const options = { ...plan, sampleEvery: 0, prefetch: 1, cacheBytes: 0, model }
        const run = newRun()
        const failing = train(tinyTraining(own, run, options), {
          onStep: ({ step }) => step === 5 && renameSync(own, `${own}-away`),
        })
        await rejects(failing, 'not-found', /cannot read the image .*\.png: there is no such file/)
        renameSync(`${own}-away`, own)
        assert.ok((await checkpointOf(run)) >= 5)
        await train({ data: own, out: run, resume: true })
        const straight = newRun()
        await train(tinyTraining(own, straight, options))
        assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(straight)))
      })
    }

    it('when pictures can not be written: they are left out', async () => {
      const run = newRun()
      mkdirSync(run)
      writeFileSync(path.join(run, 'samples'), 'in the way')
      const warnings: DiffusionError[] = []
      const hooks = { onWarning: (warning: DiffusionError) => warnings.push(warning) }
      const { step } = await train(tinyTraining(data, run, plan), hooks)
      assert.equal(step, 12)
      assert.deepEqual(
        warnings.map(({ code }) => code),
        ['io', 'io'],
      )
      assert.match(warnings[0].message, /samples.*step-00000006\.inputs\.png: a part of its path is a file/)
      assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(unstopped)))
    })

    it('when metrics can not be written: it saves, and ends', async function () {
      const disk = path.join(folder, 'disk')
      mkdirSync(disk)
      if (!mount(disk, 65_536)) return this.skip()
      try {
        const run = newRun()
        mkdirSync(run)
        symlinkSync(path.join(disk, 'metrics.jsonl'), path.join(run, 'metrics.jsonl'))
        let last = 0
        const failing = train(tinyTraining(data, run, { steps: 100 }), {
          onStep: ({ step }) => {
            last = step
            if (step > 1) return
            try {
              writeFileSync(path.join(disk, 'filler'), Buffer.alloc(65_536))
            } catch {
              // full, as it should be
            }
          },
        })
        await rejects(failing, 'io', /cannot write .*metrics\.jsonl: the disk is full/)
        assert.ok(last > 1 && last < 99)
        assert.equal(await checkpointOf(run), last + 1)
        assert.equal(readMetrics(run).length, last) // whole lines
      } finally {
        execFileSync('umount', [disk])
      }
    })

    it('when an old checkpoint can not be removed: that is told', async function () {
      const run = newRun()
      await train(tinyTraining(data, run, { steps: 2, checkpointEvery: 1 }))
      const old = path.join(run, 'checkpoints', 'step-00000001')
      if (!mount(old, 4096)) return this.skip() // what is mounted on can't be renamed
      try {
        const warnings: string[] = []
        const hooks = { onWarning: ({ message }: DiffusionError) => warnings.push(message) }
        const { step } = await train({ data, out: run, resume: true, steps: 3 }, hooks)
        assert.equal(step, 3)
        assert.equal(warnings.length, 1)
        assert.match(warnings[0], /after the checkpoint .*step-00000003 was saved: .*busy/)
        assert.equal(await checkpointOf(run), 3)
      } finally {
        execFileSync('umount', [old])
      }
    })
  })
})

/** A file system of limited size, where the tests may mount one. */
function mount(folder: string, bytes: number): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', folder], { stdio: 'pipe' })
    return true
  } catch (error) {
    console.log(`      not shown: nothing can be mounted (${(error as Error).message.trim()})`)
    return false
  }
}
