// Checkpoints of denoising-diffusion-pytorch's Trainer: fixtures/checkpoints/lucidrains-model-1.pt is of its own classes.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { type DDPM, LucidrainsUNet, loadModel, Tensor } from '../../lib'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { inferLucidrainsOptions } from '../../lib/nn/lucidrains/infer'
import { Golden } from '../nn/golden'
import { assertCloseToScale } from '../support/compare'
import { runCli, temporaryFolder } from '../train/support'

const file = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'checkpoints', 'lucidrains-model-1.pt')

describe('a checkpoint of lucidrains', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const config = () => {
    writeFileSync(at('c.yaml'), 'image_size: 8\n')
    return at('c.yaml')
  }

  it('opens without a configuration, by names, shapes and buffers', async () => {
    using ddpm = await loadModel(file, { device: 'cpu' })
    assert.equal(ddpm.parameterization, 'x0')
    assert.equal(ddpm.numTimesteps, 20)
    assert.deepEqual([ddpm.channels, ddpm.imageSize], [1, 128])
    const { unetConfig } = ddpm.config as { unetConfig: Record<string, unknown> }
    const { dim, dimMults, attnHeads, attnDimHead, fullAttn } = unetConfig
    assert.deepEqual([dim, dimMults, attnHeads, attnDimHead, fullAttn], [4, [1], [2], [4], [false]])
    assert.match(ddpm.warnings().join('\n'), /size of its images: taken for 128/)
    assert.equal(ddpm.warnings().length, 1)
  })

  it('draws with the averaged weights what GaussianDiffusion.ddim_sample draws', async () => {
    const golden = await Golden.open('lucidrains_samples.safetensors')
    using ddpm = await loadModel(file, { device: 'cpu', config: config() })
    const xT = Tensor.from(golden.floats('xT'), golden.tensors.xT.shape)
    const samples = await ddpm.pSampleLoop([2, 1, 8, 8], {
      ...{ xT, sampler: 'ddim', steps: 5, eta: 0 },
      ...{ timestepSpacing: 'trailing', clipDenoised: true, clippedNoise: true },
    })
    assertCloseToScale(await samples.data(), golden.floats('ddim5'), 1e-4, 'samples')
  })

  it('has the trained weights, too', async () => {
    using averaged = await loadModel(file, { device: 'cpu', config: config() })
    using trained = await loadModel(file, { device: 'cpu', config: config(), weights: 'model' })
    using keyed = await loadModel(file, { device: 'cpu', config: config(), key: 'model' })
    const first = async (ddpm: DDPM) => (await ddpm.stateDict())['model.diffusion_model.init_conv.bias'].data()
    assert.notDeepEqual(await first(averaged), await first(trained))
    assert.deepEqual(await first(keyed), await first(trained))
  })

  it('goes through the command line, and comes back from a model file the same', async () => {
    const shown = await runCli(['info', file, '--config', config()])
    assert.match(shown.stdout, /architecture: lucidrains/)
    const model = at('m.safetensors')
    const converted = await runCli(['convert', file, model, '--config', config()])
    assert.equal(converted.code, 0, converted.stderr)
    using before = await loadModel(file, { device: 'cpu', config: config() })
    using after = await loadModel(model, { device: 'cpu' })
    const draw = async (ddpm: DDPM) => (await ddpm.sample({ batchSize: 2, steps: 5, sampler: 'ddim', seed: 3 })).data()
    assert.deepEqual(await draw(after), await draw(before))
    assert.deepEqual(after.config, before.config)
    const drawn = await runCli([
      'sample',
      '--model',
      model,
      '-n',
      '1',
      '--steps',
      '2',
      '-o',
      at('a.png'),
      '--device',
      'cpu',
    ])
    assert.equal(drawn.code, 0, drawn.stderr)
  })

  it('says what a diffusers folder can not hold', async () => {
    const { code, stderr } = await runCli(['convert', file, at('folder'), '--config', config()])
    assert.notEqual(code, 0)
    assert.match(stderr, /only a model whose network is a UNet can be written as a diffusers folder/)
  })

  it('trains on', async () => {
    using ddpm = await loadModel(file, { device: 'cpu', config: config(), weights: 'model' })
    ddpm.configureOptimizers({ lr: 1e-3 })
    const image = Tensor.from(
      new Float32Array(2 * 64).map((_, i) => Math.sin(i)),
      [2, 8, 8, 1],
    )
    const { lossDict } = await ddpm.trainingStep({ image })
    assert.ok(Object.values(lossDict).every(Number.isFinite))
  })

  it('refuses an objective or an option that there is not', async () => {
    writeFileSync(at('bad.yaml'), 'objective: pred_w\n')
    await assert.rejects(loadModel(file, { config: at('bad.yaml') }), {
      code: 'invalid-argument',
      argument: 'objective',
    })
    writeFileSync(at('bad.yaml'), 'image_sise: 8\n')
    await assert.rejects(loadModel(file, { config: at('bad.yaml') }), { code: 'unknown-option' })
  })

  const shapes = (names: Record<string, number[]>) =>
    Object.fromEntries(Object.entries(names).map(([name, shape]) => [name, { shape }]))

  it('tells older versions, and what is no such network, apart', () => {
    const older = { 'init_conv.weight': [4, 3, 7, 7], 'downs.0.0.block1.proj.weight': [4, 4, 3, 3] }
    assert.throws(() => inferLucidrainsOptions(shapes(older), 'a.pt'), {
      code: 'unsupported',
      message: /older version/,
    })
    const another = { 'init_conv.weight': [4, 3, 7, 7] }
    assert.throws(() => inferLucidrainsOptions(shapes(another), 'a.pt'), {
      code: 'bad-file',
      message: /no 'time_mlp.1.weight'/,
    })
  })

  it('says by its name what an older or another option of the network is', async () => {
    const { tensors } = await readStateDictFile(file, () => ({ key: 'model' }))
    const named = Object.entries(tensors).filter(([name]) => name.startsWith('model.'))
    const own = Object.fromEntries(named.map(([name, { shape }]) => [name.slice('model.'.length), [...shape]]))
    const of = (change: Record<string, number[]>) => {
      return new LucidrainsUNet(inferLucidrainsOptions(shapes({ ...own, ...change }), 'a.pt'))
    }
    assert.equal(of({}).options.dim, 4)
    const unsupported = (argument: string) => ({ code: 'unsupported', argument })
    assert.equal(of({ 'init_conv.weight': [4, 2, 7, 7] }).options.selfCondition, true)
    assert.throws(() => of({ 'time_mlp.1.weight': [16, 17] }), unsupported('randomFourierFeatures'))
    assert.equal(of({ 'final_conv.weight': [2, 4, 1, 1] }).options.learnedVariance, true)
  })
})
