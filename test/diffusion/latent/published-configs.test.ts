// Every configuration that CompVis and Stability AI published: each target is a class here, and each argument an option.
import assert from 'node:assert/strict'
import { AutoencoderKL, LatentDiffusion, readCompVisConfig, UNet, VQModel } from '../../../lib/index'
import type { UNetOptions } from '../../../lib/nn/unet/options'
import { sizeOf } from '../../../lib/tensor'
import { autoencoder, configOf, published, publishedAutoencoders, refused } from './published-configs'

const device = 'cpu'

/** The same with so few channels that weights are drawn in no time. */
const small = (unet: UNetOptions): UNetOptions => ({
  ...unet,
  modelChannels: 32,
  ...(unet.numHeadChannels && { numHeadChannels: 32 }),
})

describe('published configurations', () => {
  for (const [file, row] of Object.entries(published)) {
    it(file, async () => {
      const config = configOf(row)
      const { options, baseLearningRate } = await readCompVisConfig(config)
      const unet = options.unetConfig as UNetOptions
      const { slots } = new UNet(unet).parameters
      const count = slots.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
      assert.equal(Math.round(count / 1e4) / 100, row.expected.parameters, 'parameters of the UNet in millions')
      using model = await LatentDiffusion.fromConfig(config, { device, unetConfig: small(unet) })
      const { firstStageModel: first, condStageModel: cond } = model
      const [expectedFirst, expectedCond] = row.expected.stages
      assert.deepEqual([first.constructor.name, cond?.constructor.name], [expectedFirst, expectedCond])
      assert.equal(model.conditioningKey, row.expected.key)
      const [channels, size] = row.latents
      assert.deepEqual(model.sampleShape, [3, first.factor! * size, first.factor! * size])
      assert.equal(model.channels, channels)
      assert.equal(model.parameterization, row.model?.parameterization ?? 'eps')
      assert.equal(model.scaleFactor, row.model?.scale_factor ?? 1)
      assert.equal(model.scaleByStd, row.model?.scale_by_std ?? false)
      assert.equal(model.lrSchedule !== undefined, row.model?.scheduler_config !== undefined)
      assert.equal(baseLearningRate, 1e-4)
      const network = model.network as UNet
      assert.equal(network.options.inChannels, row.unet.in_channels ?? channels)
      assert.equal(network.contextDim, row.unet.context_dim)
    })
  }

  for (const [file, target] of Object.entries(refused)) {
    it(`${file} is refused by its name`, async () => {
      const { model } = configOf(published['configs/stable-diffusion/v2-inference.yaml'])
      const config = { model: { ...model, target: `ldm.models.diffusion.ddpm.${target}` } }
      const expected = { code: 'unsupported', argument: 'model.target', message: new RegExp(target.slice(0, 20)) }
      await assert.rejects(LatentDiffusion.fromConfig(config), expected)
    })
  }

  for (const [file, name] of Object.entries(publishedAutoencoders)) {
    it(file, async () => {
      const config = { model: { base_learning_rate: 4.5e-6, ...autoencoder(name) } }
      const Kind = name.startsWith('kl') ? AutoencoderKL : VQModel
      using stage = await Kind.fromConfig(config, { device })
      const { params } = config.model
      assert.equal(stage.embedDim, params.embed_dim)
      assert.equal(stage.factor, Number(/F(\d+)/.exec(name)![1]))
      if (stage instanceof VQModel) assert.equal(stage.nEmbed, params.n_embed)
      const Other = name.startsWith('kl') ? VQModel : AutoencoderKL
      await assert.rejects(Other.fromConfig(config), { code: 'unsupported', argument: 'model.target' })
    })
  }

  it('what a stage has not got is refused by its name', async () => {
    const config = (first: object, cond: unknown = '__is_unconditional__') => {
      const { model } = configOf(published['models/ldm/celeba256/config.yaml'])
      const { first_stage_config: stage, ...params } = model.params
      const changed = { ...stage, params: { ...stage.params, ...first } }
      return { model: { ...model, params: { ...params, first_stage_config: changed, cond_stage_config: cond } } }
    }
    const modules = 'ldm.modules.encoders.modules.'
    const { ddconfig } = autoencoder('vqF4').params
    for (const [given, code, argument] of [
      [config({ colorize_nlabels: 5 }), 'unsupported', 'colorize_nlabels'],
      [config({ embeddim: 5 }), 'unknown-option', 'embeddim'],
      [config({ remap: 'used.npy' }), 'unsupported', 'remap'],
      [config({ ddconfig: { ...ddconfig, attn_type: 'memory-efficient-cross-attn' } }), 'invalid-argument', 'attnType'],
      [config({}, { target: `${modules}FrozenCLIPImageEmbedder` }), 'unsupported', 'cond_stage_config.target'],
      [config({}, { target: `${modules}ClassEmbedder`, params: { dim: 3 } }), 'unknown-option', 'dim'],
      [config({}, { target: `${modules}ClassEmbedder`, params: {} }), 'invalid-argument', 'embedDim'],
      [config({}, 'none'), 'invalid-argument', 'cond_stage_config.target'],
    ] as const) {
      await assert.rejects(LatentDiffusion.fromConfig(given, { device }), { name: 'DiffusionError', code, argument })
    }
  })
})
