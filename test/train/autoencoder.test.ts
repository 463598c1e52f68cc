// Training runs of first stages.
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { Dataset } from '../../lib/data/dataset'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { VQModel, VQModelInterface } from '../../lib/stages/vq-model'
import { Tensor } from '../../lib/tensor'
import type { AutoencoderTrainOptions } from '../../lib/train/autoencoder/options'
import { resolveAutoencoderOptions } from '../../lib/train/autoencoder/resolve-options'
import { openCheckpoint } from '../../lib/train/checkpoint'
import { scaleFactor } from '../../lib/trainer/autoencoder/scale-factor'
import { AutoencoderTrainer } from '../../lib/trainer/autoencoder/trainer'
import { readMetrics, temporaryFolder, writeImages } from './support'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

describe('AutoencoderTrainer', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const data = at('photos')
  before(() => writeImages(data, 10))

  const tiny = (out: string, options: Partial<AutoencoderTrainOptions> = {}): AutoencoderTrainOptions => ({
    data,
    out: at(out),
    size: [8, 12],
    ddconfig: { ch: 32, chMult: [1, 1], dropout: 0.1 },
    ...{ steps: 6, batchSize: 4, accumulate: 2, lr: 1e-3, checkpointEvery: 2, sampleEvery: 0, device: 'cpu' },
    ...{ crop: 'random', validation: 0.3, validationEvery: 2 },
    ...options,
  })
  const weightsOf = (run: string) => readFileSync(at(run, 'vae', 'diffusion_pytorch_model.safetensors'))
  const untimed = (run: string) => readMetrics(at(run)).map(({ time, imagesPerSecond, ...rest }) => rest)
  const stopAt = (step: number) => {
    const controller = new AbortController()
    return {
      signal: controller.signal,
      onStep: (metrics: { step: number }) => void (metrics.step === step && controller.abort()),
    }
  }

  it('writes a folder of diffusers, and a stopped run goes on to the bit', async () => {
    const whole = await new AutoencoderTrainer(tiny('whole')).run()
    assert.equal(whole.model, at('whole', 'vae'))
    assert.equal((await new AutoencoderTrainer(tiny('parts')).run(stopAt(3))).stopped, 'signal')
    await assert.rejects(AutoencoderKL.fromPretrained(at('parts')), { code: 'not-found', message: /--resume goes on/ })
    await new AutoencoderTrainer({ data, out: at('parts'), resume: true, steps: 6, ddconfig: { ch: undefined } }).run()
    assert.deepEqual(untimed('parts'), untimed('whole'))
    assert.deepEqual(weightsOf('parts'), weightsOf('whole'))
    const config = (run: string) => JSON.parse(readFileSync(at(run, 'vae', 'config.json'), 'utf8'))
    assert.deepEqual(config('parts'), config('whole'))

    using stage = await AutoencoderKL.fromPretrained(at('whole'), { device: 'cpu' })
    using images = await dataset(10)
    const z = await (await stage.encode(images.x)).sample({ seed: 5 })
    const values = await z.data()
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length
    const std = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length)
    assert.ok(Math.abs(stage.scalingFactor! * std - 1) < 0.1, `${stage.scalingFactor} times ${std}`)
  })

  it('goes on to the bit with a discriminator', async () => {
    const disc = { discStart: 2, discNumLayers: 1, discWeight: 0.5 }
    const { metrics } = await new AutoencoderTrainer(tiny('gan', disc)).run()
    assert.ok(metrics!.disc_loss! > 0 && metrics!.d_weight! > 0)
    await new AutoencoderTrainer(tiny('gan-parts', disc)).run(stopAt(4))
    const resumed = { data, out: at('gan-parts'), resume: true }
    await new AutoencoderTrainer(resumed).run()
    assert.deepEqual(untimed('gan-parts'), untimed('gan'))
    assert.equal('disc_loss' in untimed('gan')[0], false)
    assert.deepEqual(weightsOf('gan-parts'), weightsOf('gan'))
    await assert.rejects(new AutoencoderTrainer({ ...resumed, discWeight: 1 }).run(), { argument: 'discWeight' })
  })

  it('takes the files of a perceptual loss', async () => {
    const { tensors } = await readSafetensors(path.join(fixtures, 'lpips.safetensors'))
    const own = Object.entries(tensors).filter(([name]) => name.startsWith('param/'))
    const file = at('lpips.safetensors')
    await writeSafetensors(file, Object.fromEntries(own.map(([name, t]) => [name.slice('param/'.length), t])))
    const options = tiny('perceptual', { size: [16, 16], perceptual: [file], steps: 2, validationEvery: 2 })
    const { metrics } = await new AutoencoderTrainer(options).run()
    assert.ok(metrics!.p_loss! > 0)
    assert.ok('val/p_loss_ema' in untimed('perceptual').at(-1)!)
    const none = new AutoencoderTrainer({ ...options, out: at('nothing'), perceptual: [at('none.pth')] })
    await assert.rejects(none.run(), { code: 'not-found' })
    assert.ok(!existsSync(at('nothing')))
  })

  async function dataset(count: number) {
    const { images, shape } = await (await Dataset.open(data, { size: [8, 12], crop: 'random' })).batch(0, count)
    const x = Tensor.wrap(images, shape)
    return { x, [Symbol.dispose]: () => x.dispose() }
  }

  it('keeps the best by the averaged reconstructions, and ends early with it', async () => {
    const options = tiny('early', { lr: 0, patience: 2, accumulate: 1, steps: 20 })
    const { stopped, best, step } = await new AutoencoderTrainer(options).run()
    assert.deepEqual([stopped, best?.step, step], ['early', 2, 6])
    assert.ok(existsSync(at('early', 'vae', 'config.json')))
    assert.equal(readFileSync(at('early', 'checkpoints', 'best'), 'utf8').trim(), path.basename(best!.checkpoint))
  })

  it('trains a codebook, and draws reconstructions', async () => {
    const files: string[] = []
    const options = tiny('vq', { nEmbed: 8, validation: undefined, steps: 2, sampleEvery: 1, sampleCount: 3 })
    const { model, metrics } = await new AutoencoderTrainer(options).run({
      onSamples: ({ file }) => void files.push(file),
    })
    assert.equal(model, at('vq', 'vqvae'))
    assert.ok(metrics!.quant_loss! > 0 && metrics!.kl_loss === undefined)
    assert.deepEqual(
      files.map((file) => path.basename(file)),
      ['step-00000001.png', 'step-00000002.png'],
    )
    assert.ok(existsSync(files[0].replace('.png', '.inputs.png')))
    using stage = await VQModelInterface.fromPretrained(at('vq'), { device: 'cpu' })
    using same = await VQModel.fromPretrained(at('vq'), { device: 'cpu' })
    assert.deepEqual([stage.nEmbed, stage.embedDim, same.factor], [8, 3, 2])
  })

  it('scales latents that are all the same by 1', async () => {
    const { ddconfig } = resolveAutoencoderOptions(tiny('none', { nEmbed: 4 }))
    using stage = new VQModelInterface({ ddconfig, embedDim: 3, nEmbed: 4, device: 'cpu' })
    const zeros = Object.entries(await stage.stateDict()).map(([name, { size, shape }]) => {
      return [name, Tensor.wrap(new Float32Array(size), shape)] as const
    })
    await stage.loadStateDict(Object.fromEntries(zeros))
    assert.equal(await scaleFactor(stage, await Dataset.open(data, { size: 8 }), { batchSize: 4 }), 1)
  })

  it('says what is wrong, before anything is written', async () => {
    const invalid = (argument: string) => ({ code: 'invalid-argument', argument })
    const refused = (options: object, error: object) => {
      assert.throws(() => new AutoencoderTrainer(tiny('none', options)), error)
    }
    refused({ size: [9, 8] }, invalid('size'))
    refused({ size: [8] }, invalid('size'))
    refused({ ddconfig: { doubleZ: false } }, invalid('ddconfig.doubleZ'))
    refused({ ddconfig: { ch: 30 } }, invalid('ch'))
    refused({ ddconfig: { attnType: 'linear' } }, { code: 'unsupported', argument: 'attnType' })
    refused({ embedDim: 3 }, { code: 'unsupported', argument: 'embedDim' })
    refused({ monitor: 'val/quant_loss' }, invalid('monitor'))
    refused({ monitor: 'val/rec_loss', validation: undefined }, invalid('monitor'))
    refused({ patience: 2, validation: undefined }, invalid('patience'))
    refused({ perceptual: [5] }, invalid('perceptual[0]'))
    refused({ discWeight: 1 }, invalid('discWeight'))
    refused({ perceptualWeight: 1 }, invalid('perceptualWeight'))
    refused({ perceptual: ['vgg.pth'] }, invalid('perceptual')) // images of 8x12
    refused({ discStart: 0 }, invalid('discNumLayers'))
    refused({ model: {} }, { code: 'unknown-option', argument: 'model' })
    refused({ nEmbed: 4, klWeight: 1 }, invalid('klWeight'))
    await assert.rejects(new AutoencoderTrainer(tiny('whole')).run(), invalid('out'))
    const resumed = (options: object) =>
      new AutoencoderTrainer({ data, out: at('whole'), resume: true, ...options }).run()
    await assert.rejects(resumed({ ddconfig: { ch: 64 } }), invalid('ddconfig.ch'))
    await assert.rejects(resumed({ lr: 1 }), invalid('lr'))
    assert.ok(!existsSync(at('none')))

    const state = at('vq', 'checkpoints', 'step-00000002', 'state.json')
    const good = readFileSync(state, 'utf8')
    writeFileSync(state, good.replace('"ch": 32', '"ch": 4096'))
    const again = new AutoencoderTrainer({ data, out: at('vq'), resume: true })
    await assert.rejects(again.run(), { code: 'state-mismatch', argument: 'encoder.conv_in.weight' })
    writeFileSync(state, good)
    await assert.rejects(openCheckpoint(at('vq')), { code: 'bad-file', message: /a first stage's training/ })
  })
})
