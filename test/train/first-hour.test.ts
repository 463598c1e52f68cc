// What somebody sees who trains for the first time.
import assert from 'node:assert/strict'
import { Progress } from '../../lib/cli/progress'
import { DDPM, Tensor } from '../../lib/index'
import { resolveTrainOptions } from '../../lib/train/resolve-options'
import { isPictureStep, nextPictureStep } from '../../lib/trainer/picture-steps'
import { runCli, temporaryFolder, tinyFlags, writeImages } from './support'

describe('the first hour of a training', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()

  it('has a warm-up of a tenth of its steps at most, unless told otherwise', () => {
    const warmup = (options: { steps?: number; warmup?: number }) =>
      resolveTrainOptions({ data: 'a', out: 'b', ...options }).warmup
    assert.deepEqual(
      [6, 2000, 10_000, 50_000, undefined].map((steps) => warmup({ steps })),
      [0, 200, 1000, 1000, 1000],
    )
    assert.equal(warmup({ steps: 100, warmup: 50 }), 50)
    const { warmup: kept } = resolveTrainOptions(
      { data: 'a', out: 'b', resume: true, steps: 9000 },
      { options: resolveTrainOptions({ data: 'a', out: 'b', steps: 2000 }), step: 500 },
    )
    assert.equal(kept, 200)
  })

  it('has pictures early', () => {
    const steps = (sampleEvery: number, steps: number) =>
      Array.from({ length: steps }, (_, i) => i + 1).filter((step) => isPictureStep(step, { sampleEvery, steps }))
    assert.deepEqual(steps(1000, 2500), [100, 200, 500, 1000, 2000, 2500])
    assert.deepEqual(steps(150, 400), [100, 150, 300, 400])
    assert.deepEqual(steps(0, 400), [])
    const next = (step: number, sampleEvery = 1000) => nextPictureStep(step, { sampleEvery, steps: 2500 })
    assert.deepEqual(
      [0, 100, 250, 500, 1000, 2400, 2500].map((step) => next(step)),
      [100, 200, 500, 1000, 2000, 2500, undefined],
    )
    assert.equal(next(0, 0), undefined)
  })

  it('begins with what is trained on, and how long it takes', async () => {
    for (const name of ['cat', 'dog']) await writeImages(`${folder}/data/${name}`, 3)
    const args = ['train', `${folder}/data`, '--classes', 'folders', ...tinyFlags, '--sample-every', '1000', '--steps']
    const { code, stdout, stderr } = await runCli([...args, '8', '--out', `${folder}/run`, '--sample-steps', '2'])
    assert.equal(code, 0, stderr)
    assert.match(
      stdout.split('\n')[0],
      /^6 images, 0\.\d+ M parameters, on cpu; 8x8 RGB, mirrored at random \(--no-flip: as they are\), 2 classes \(cat, dog\)$/,
    )
    assert.match(stderr, /^about \d+:\d\d for 2 steps, the first picture \(step 8\) in \d+:\d\d$/m)
    assert.match(stdout, /^step 8\/8 {2}loss \d.* images\/s {2}ETA 0:00$/m)
    const json = await runCli([...args, '8', '--out', `${folder}/json`, '--sample-every', '0', '--no-flip', '--json'])
    const events = json.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    const { size, channels, flip, classes } = events[0]
    assert.deepEqual([size, channels, flip, classes], [8, 3, false, ['cat', 'dog']])
    const estimate = events.find(({ event }) => event === 'estimate')
    assert.ok(estimate.seconds > 0 && estimate.firstPicture === undefined)
  })

  it('has a bar that fits 80 columns with all there is to say', () => {
    let text = ''
    const write = (s: string) => {
      text += s
    }
    const terminal = { isTTY: true, columns: 80, write }
    const bar = new Progress(terminal, { label: 'train', total: 100_000, rate: false })
    bar.update(99_999, 'loss 0.1234  1234.5 images/s')
    const line = text.split('\x1b[K').at(-1)!
    assert.ok(line.length < 80 && line.endsWith('1234.5 images/s'), line)
    assert.match(line, /^train █+.* 99% 99999\/100000 {2}ETA /)
  })

  it('warns once of images that are not in [-1, 1]', async () => {
    const unetConfig = { imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1] }
    const small = { ...unetConfig, numResBlocks: 1, attentionResolutions: [] }
    using ddpm = new DDPM({ unetConfig: small, timesteps: 10, device: 'cpu' })
    ddpm.configureOptimizers({ lr: 1e-3 })
    const images = (scale: number) =>
      Tensor.from(
        Float32Array.from({ length: 16 }, (_, i) => i * scale),
        [1, 1, 4, 4],
      )
    await ddpm.trainBatch(images(1 / 15))
    assert.deepEqual(ddpm.warnings(), [])
    for (let i = 0; i < 2; i++) await ddpm.trainBatch(images(16 + i))
    assert.deepEqual(ddpm.warnings(), [
      'x has values from 0 to 240, where images are expected to be in [-1, 1]: of bytes, v / 127.5 - 1',
    ])
  })
})
