// Configurations of latent-diffusion: what they mean here, and what is refused by name.
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readYaml } from '../../lib/checkpoint/yaml'
import { DDPM, readCompVisConfig } from '../../lib/index'
import { numbersOf } from '../support/numbers'
import { camelCase } from './fixture'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
const prefix = 'model.diffusion_model.'

const text = `
model:
  base_learning_rate: 2.0e-06
  target: ldm.models.diffusion.ddpm.DDPM
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 50
    log_every_t: 20
    loss_type: l1
    first_stage_key: image
    image_size: 16
    channels: 3
    monitor: val/loss_simple_ema
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 16
        in_channels: 3
        out_channels: 3
        model_channels: 32
        attention_resolutions: &rates # downsampling rates
        - 2
        num_res_blocks: 1
        channel_mult: [1, 2]
        num_heads: 4
        use_scale_shift_norm: True
        use_checkpoint: true
data:
  target: main.DataModuleFromConfig
  params: {batch_size: 48, rates: *rates}
lightning: {}
`

describe('DDPM.fromConfig', () => {
  let temporary: string
  before(async () => {
    temporary = await mkdtemp(path.join(os.tmpdir(), 'ddpm-config-'))
  })
  after(() => rm(temporary, { recursive: true }))
  const file = async (contents: string, name = 'config.yaml') => {
    await writeFile(path.join(temporary, name), contents)
    return path.join(temporary, name)
  }
  /** The configuration with `params` of the model, and of the UNet, changed. */
  const changed = async (params: object, unet: object = {}) => {
    const root = (await readYaml(Buffer.from(text))) as { model: { params: { unet_config: { params: object } } } }
    const { unet_config, ...own } = root.model.params
    const unetConfig = { ...unet_config, params: { ...unet_config.params, ...unet } }
    return { model: { ...root.model, params: { ...own, unet_config: unetConfig, ...params } } }
  }

  it('a YAML file: the schedule, the loss and the network', async () => {
    const { options, baseLearningRate, checkpoint } = await readCompVisConfig(await file(text))
    assert.deepEqual([baseLearningRate, checkpoint], [2e-6, undefined])
    assert.deepEqual(options, {
      linearStart: 0.0015,
      linearEnd: 0.0195,
      timesteps: 50,
      logEveryT: 20,
      lossType: 'l1',
      firstStageKey: 'image',
      imageSize: 16,
      channels: 3,
      monitor: 'val/loss_simple_ema',
      useEma: false,
      unetConfig: {
        imageSize: 16,
        inChannels: 3,
        outChannels: 3,
        modelChannels: 32,
        attentionResolutions: [2],
        numResBlocks: 1,
        channelMult: [1, 2],
        numHeads: 4,
        useScaleShiftNorm: true,
        useCheckpoint: true,
      },
    })
    using ddpm = await DDPM.fromConfig(await file(text), { device: 'cpu', seed: 7 })
    using same = new DDPM({ ...options, device: 'cpu', seed: 7 })
    assert.deepEqual([ddpm.monitor, ddpm.logEveryT, ddpm.imageSize], ['val/loss_simple_ema', 20, 16])
    assert.deepEqual(ddpm.betas, same.betas)
    assert.deepEqual(ddpm.config, same.config)
    assert.deepEqual(await numbersOf(await ddpm.stateDict()), await numbersOf(await same.stateDict()))
  })

  it('an object, with the checkpoint that it names', async () => {
    const checkpoint = path.join(fixtures, 'checkpoints', 'ddpm_unet.ckpt')
    const { config } = (
      await import('../../lib/checkpoint/safetensors.js').then((m) =>
        m.readSafetensorsHeader(path.join(fixtures, 'checkpoints', 'ddpm_unet.expected.safetensors')),
      )
    ).metadata
    const { unet, ddpm: model } = JSON.parse(config)
    const params = { ...model, unet_config: undefined }
    delete params.unet_config
    const source = (extra: object) => ({
      model: {
        target: 'ldm.models.diffusion.ddpm.DDPM',
        params: {
          ...params,
          ...extra,
          unet_config: { target: 'ldm.modules.diffusionmodules.openaimodel.UNetModel', params: unet },
        },
      },
    })
    using whole = await DDPM.fromConfig(source({ ckpt_path: checkpoint }), { device: 'cpu' })
    using loaded = await DDPM.fromConfig(source({}), { device: 'cpu' })
    const before = await loaded.stateDict()
    await loaded.initFromCkpt(checkpoint)
    assert.deepEqual(await numbersOf(await whole.stateDict()), await numbersOf(await loaded.stateDict()))
    using part = await DDPM.fromConfig(source({ ckpt_path: checkpoint, ignore_keys: [`${prefix}out.`, 'model_ema'] }), {
      device: 'cpu',
    })
    const dict = await numbersOf(await part.stateDict())
    const given = await numbersOf(await loaded.stateDict())
    assert.deepEqual(dict[`${prefix}out.0.bias`], (await numbersOf(before))[`${prefix}out.0.bias`])
    assert.deepEqual(dict[`${prefix}time_embed.0.bias`], given[`${prefix}time_embed.0.bias`])
    // ddpm.py registers the schedule afterwards.
    const [end, timesteps] = [2 * params.linear_end || 0.04, params.timesteps]
    using other = await DDPM.fromConfig(source({ ckpt_path: checkpoint, linear_end: end }), { device: 'cpu' })
    using plain = new DDPM({
      ...camelCase(params),
      linearEnd: end,
      timesteps,
      unetConfig: camelCase(unet),
      device: 'cpu',
    })
    assert.deepEqual(other.betas, plain.betas)
    assert.notDeepEqual(other.betas, loaded.betas)
  })

  it('conditioning_key, as DiffusionWrapper takes it; what a UNet is computed in is left to the user', async () => {
    const open = async (params: object, unet: object) => DDPM.fromConfig(await changed(params, unet), { device: 'cpu' })
    using concat = await open({ conditioning_key: 'concat' }, { in_channels: 5 })
    assert.deepEqual([concat.network?.concatChannels, concat.channels], [2, 3])
    using adm = await open({ conditioning_key: 'adm' }, { num_classes: 4 })
    assert.equal(adm.network?.numClasses, 4)
    using tokens = await open({ conditioning_key: 'crossattn' }, { use_spatial_transformer: true, context_dim: 8 })
    assert.equal(tokens.network?.contextDim, 8)
    assert.deepEqual(tokens.warnings(), [])
    using half = await open({}, { use_fp16: true })
    assert.match(half.warnings().join(), /use_fp16 is left to the option precision/)
  })

  it('improved-diffusion’s and guided-diffusion’s networks, with the variance of options', async () => {
    const config = await changed({})
    config.model.params.unet_config = {
      target: 'improved_diffusion.unet.UNetModel',
      params: { ...config.model.params.unet_config.params, image_size: undefined, out_channels: 6 },
    } as never
    using ddpm = await DDPM.fromConfig(config, { device: 'cpu', varianceType: 'learned_range' })
    assert.deepEqual([ddpm.network?.imageSize, ddpm.network?.outChannels], [16, 6])
  })

  it("num_classes 'sequential' is a vector of adm_in_channels numbers", async () => {
    const config = await changed({}, { num_classes: 'sequential', adm_in_channels: 2048 })
    using ddpm = await DDPM.fromConfig(config, { device: 'cpu' })
    const { vectorDim, numClasses, parameters } = ddpm.network!
    assert.deepEqual([vectorDim, numClasses], [2048, undefined])
    assert.deepEqual(parameters.get('label_emb.0.0.weight')?.shape, [128, 2048])
    assert.deepEqual(parameters.get('label_emb.0.2.weight')?.shape, [128, 128])
    const refused = async (unet: object, code: string, argument: string) =>
      assert.rejects(DDPM.fromConfig(await changed({}, unet), { device: 'cpu' }), { code, argument })
    await refused({ num_classes: 'sequential' }, 'invalid-argument', 'adm_in_channels')
    await refused({ num_classes: 4, adm_in_channels: 8 }, 'invalid-argument', 'adm_in_channels')
    await refused({ num_classes: 'continuous' }, 'unsupported', 'num_classes')
  })

  it('unknown targets, keys and values are refused by their names', async () => {
    const refused = async (config: object, code: string, argument: string) =>
      assert.rejects(DDPM.fromConfig(config as never, { device: 'cpu' }), { name: 'DiffusionError', code, argument })
    const base = await changed({})
    await refused({ ...base, modle: {} }, 'unknown-option', 'modle')
    await refused({}, 'invalid-argument', 'model')
    const latent = { ...base.model, target: 'ldm.models.diffusion.ddpm.LatentDiffusion' }
    await refused({ model: latent }, 'unsupported', 'model.target')
    await refused(await changed({ timestep: 10 }), 'unknown-option', 'timestep')
    await refused(await changed({ conditioning_key: 'crossattn' }), 'invalid-argument', 'conditioning_key')
    await refused(await changed({ conditioning_key: 'hybrid-adm' }), 'unsupported', 'conditioning_key')
    await refused(await changed({ scheduler_config: { target: 'x' } }), 'unsupported', 'scheduler_config')
    await refused(await changed({ parameterization: 'epsilon' }), 'invalid-argument', 'parameterization')
    await refused(
      await changed({ unet_config: { target: 'x.Y', params: {} } }),
      'unsupported',
      'model.params.unet_config.target',
    )
    await refused(await changed({ ckpt_path: 7 }), 'invalid-argument', 'ckpt_path')
    await refused(await changed({ ckpt_path: '/nowhere/x.ckpt' }), 'not-found', 'path')
    await refused(await changed({}, { dims: 3 }), 'unsupported', 'dims')
    await refused(await changed({}, { n_embed: 8 }), 'unsupported', 'n_embed')
    await refused(await changed({}, { num_head: 8 }), 'unknown-option', 'num_head')
    await refused(await changed({}, { model_channels: 48 }), 'invalid-argument', 'modelChannels * channelMult[0]')
    await changed({ conditioning_key: null, scheduler_config: null }, { dims: 2, use_fp16: false }).then(
      readCompVisConfig,
    )
  })

  it('YAML that is damaged, or unfolds without end, is refused', async () => {
    const refused = async (contents: string, message: RegExp) =>
      assert.rejects(DDPM.fromConfig(await file(contents)), { name: 'DiffusionError', code: 'bad-file', message })
    await refused('model: [1', /YAML/)
    await refused('- 1', /mapping/)
    await refused('a: 1\na: 2', /unique/)
    await refused('a: *nowhere', /alias/)
    const bomb = ['a: &a0 [x, x, x, x, x, x, x, x, x]']
    for (let i = 1; i < 9; i++) bomb.push(`b${i}: &a${i} [${Array(9).fill(`*a${i - 1}`)}]`)
    await refused(bomb.join('\n'), /alias/)
    await refused(`a: ${'['.repeat(5000)}`, /nested/)
    await refused(`# ${'x'.repeat(70_000)}`, /bytes/)
    await assert.rejects(DDPM.fromConfig(path.join(temporary, 'none.yaml')), { code: 'not-found' })
    await assert.rejects(DDPM.fromConfig(7 as never), { code: 'invalid-argument', argument: 'source' })
  })
})
