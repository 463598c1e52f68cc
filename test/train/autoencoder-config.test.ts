// Trainings of first stages by latent-diffusion's configurations.
import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeYaml } from '../../lib/checkpoint/yaml'
import type { AutoencoderTrainOptions } from '../../lib/train/autoencoder/options'
import { resolveAutoencoderOptions } from '../../lib/train/autoencoder/resolve-options'
import { autoencoderOptionsFrom } from '../../lib/trainer/autoencoder/from-config'
import { AutoencoderTrainer } from '../../lib/trainer/autoencoder/trainer'
import { autoencoder, publishedAutoencoders } from '../diffusion/latent/published-configs'
import { readMetrics, temporaryFolder, writeImages } from './support'

/** As the published files have them. */
const lossOf = {
  kl: {
    target: 'ldm.modules.losses.LPIPSWithDiscriminator',
    params: { disc_start: 50001, kl_weight: 0.000001, disc_weight: 0.5 },
  },
  vq: {
    target: 'taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator',
    params: { disc_conditional: false, disc_in_channels: 3, disc_start: 0, disc_weight: 0.75, codebook_weight: 1.0 },
  },
}
const given: AutoencoderTrainOptions = { data: 'photos', out: 'run', perceptual: ['vgg16.pth', 'vgg.pth'] }

type Root = Parameters<typeof autoencoderOptionsFrom>[0] & object

function rootOf(name: Parameters<typeof autoencoder>[0], loss: object, more: object = {}): Root {
  const model = { base_learning_rate: 4.5e-6, ...autoencoder(name, undefined, { lossconfig: loss, ...more }) }
  const data = { target: 'main.DataModuleFromConfig', params: { batch_size: 12, wrap: true } }
  return { model, data, lightning: { trainer: { benchmark: true, accumulate_grad_batches: 2 } } }
}

describe("a first stage's training by a configuration", () => {
  const folder = temporaryFolder()

  for (const [file, name] of Object.entries(publishedAutoencoders)) {
    it(file, async () => {
      const isVq = name.startsWith('vq')
      const options = await autoencoderOptionsFrom(rootOf(name, isVq ? lossOf.vq : lossOf.kl), given)
      const o = resolveAutoencoderOptions(options)
      const { model } = rootOf(name, {}) as {
        model: { params: { ddconfig: Record<string, unknown>; embed_dim: number } }
      }
      const { ddconfig, embed_dim } = model.params
      assert.deepEqual(
        [o.ddconfig.chMult, o.ddconfig.zChannels, o.ddconfig.attnResolutions, o.ddconfig.doubleZ, o.embedDim, o.size],
        [ddconfig.ch_mult, ddconfig.z_channels, ddconfig.attn_resolutions, ddconfig.double_z, embed_dim, [256, 256]],
      )
      const { lr, scaleLr, batchSize, accumulate, warmup, betas, useEma, maxGradNorm } = o
      assert.deepEqual([lr, scaleLr, batchSize, accumulate, warmup], [4.5e-6, true, 12, 2, 0])
      assert.deepEqual([betas, useEma, maxGradNorm, o.weightDecay], [[0.5, 0.9], false, 0, 0])
      assert.deepEqual([o.discNumLayers, o.discFactor, o.discLoss, o.perceptualWeight], [3, 1, 'hinge', 1])
      const own = isVq ? [o.discStart, o.discWeight, o.codebookWeight] : [o.discStart, o.discWeight, o.klWeight]
      assert.deepEqual(own, isVq ? [0, 0.75, 1] : [50001, 0.5, 1e-6])
    })
  }

  it("keeps averages where it says so, with LitEma's decay or its own", async () => {
    const emaOf = async (more: object, own: object = {}) => {
      const { useEma, emaDecay } = await autoencoderOptionsFrom(rootOf('klF8', lossOf.kl, more), { ...given, ...own })
      return [useEma, emaDecay]
    }
    assert.deepEqual(await emaOf({ use_ema: true }), [true, 0.9999])
    assert.deepEqual(await emaOf({ ema_decay: 0.99 }), [true, 0.99])
    assert.deepEqual(await emaOf({ ema_decay: null }), [false, undefined])
    assert.deepEqual(await emaOf({ ema_decay: 0.99 }, { emaDecay: 0.5 }), [true, 0.5])
  })

  it('runs, with what is given before what the file says', async () => {
    const [data, file] = [path.join(folder, 'photos'), path.join(folder, 'vq.yaml')]
    await writeImages(data, 6)
    writeFileSync(file, writeYaml(rootOf('vqF4NoAttention', lossOf.vq, { n_embed: 16 })))
    const out = path.join(folder, 'run')
    const small = { size: [8, 8], batchSize: 2, steps: 2, sampleEvery: 0, discNumLayers: 1, device: 'cpu' }
    const ddconfig = { ch: 32, chMult: [1, 1], numResBlocks: 1 }
    const options = { data, out, ddconfig, ...small, validation: 0.4, perceptualWeight: 0 }
    const trainer = await AutoencoderTrainer.fromConfig(file, options)
    const { metrics } = await trainer.run()
    assert.ok(metrics!.quant_loss! > 0 && metrics!.disc_loss! > 0 && metrics!.p_loss === undefined)
    assert.equal(metrics!.lr, 4.5e-6 * 2 * 2)
    assert.ok('val/rec_loss' in readMetrics(out).at(-1)! && !('val/rec_loss_ema' in readMetrics(out).at(-1)!))
    assert.ok(existsSync(path.join(out, 'vqvae', 'config.json')))
    const resumed = await AutoencoderTrainer.fromConfig(file, { ...options, resume: true, steps: 3 })
    assert.equal((await resumed.run()).step, 3)
  })

  it('refuses what it would not do', async () => {
    const refused = (loss: object, error: object, options: object = {}, more: object = {}) => {
      return assert.rejects(autoencoderOptionsFrom(rootOf('klF8', loss, more), { ...given, ...options }), error)
    }
    const { target, params } = lossOf.kl
    const withParams = (own: object) => ({ target, params: { ...params, ...own } })
    const unsupported = (argument: string) => ({ code: 'unsupported', argument })
    await refused({ target: 'torch.nn.Identity' }, unsupported('lossconfig.target'))
    await refused(withParams({ disc_conditional: true }), unsupported('disc_conditional'))
    await refused(withParams({ disc_in_channels: 1 }), unsupported('disc_in_channels'))
    await refused(withParams({ codebook_weight: 1 }), { code: 'unknown-option' })
    await refused(lossOf.kl, { code: 'invalid-argument', argument: 'perceptual' }, { perceptual: undefined })
    await refused(lossOf.kl, unsupported('ckpt_path'), {}, { ckpt_path: 'last.ckpt' })
    await refused(lossOf.kl, unsupported('lr_g_factor'), {}, { lr_g_factor: 2 })
    await autoencoderOptionsFrom(rootOf('klF8', withParams({ pixelloss_weight: 2, perceptual_weight: 0 })), {
      ...given,
      perceptual: undefined,
    })
  })
})
