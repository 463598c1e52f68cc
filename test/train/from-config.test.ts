// A training by a configuration of latent-diffusion.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { DiffusionError } from '../../lib/errors'
import { openCheckpoint } from '../../lib/train/checkpoint'
import { learningRate } from '../../lib/train/lr-schedule'
import { Trainer } from '../../lib/trainer/trainer'
import { numbers, readMetrics, runCli, temporaryFolder, writeImages } from './support'

const yaml = `
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.DDPM
  params:
    timesteps: 20
    monitor: val/loss_simple_ema
    image_size: 8
    scheduler_config:
      target: ldm.lr_scheduler.LambdaLinearScheduler
      params:
        warm_up_steps: [4]
        cycle_lengths: [100]
        f_start: [1.e-6]
        f_max: [1.]
        f_min: [0.5]
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 8
        in_channels: 3
        out_channels: 3
        model_channels: 32
        num_classes: null
        attention_resolutions: []
        num_res_blocks: 1
        channel_mult: [1]
        num_heads: 4
data:
  target: main.DataModuleFromConfig
  params: {batch_size: 3}
lightning:
  trainer: {accumulate_grad_batches: 2, benchmark: True}
`

describe('Trainer.fromConfig', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const plan = { data: at('images'), steps: 6, sampleEvery: 0, device: 'cpu', validation: 0.3, validationEvery: 3 }
  const factor = (n: number) => (n < 4 ? ((1 - 1e-6) / 4) * n + 1e-6 : 0.5 + (0.5 * (100 - n)) / 100)

  before(async () => {
    await writeImages(at('images'), 12)
    writeFileSync(at('config.yaml'), yaml)
  })

  it('is what main.py would train', async () => {
    const { best } = await (await Trainer.fromConfig(at('config.yaml'), { ...plan, out: at('run') })).run()
    const { options, monitor } = (await openCheckpoint(at('run'))).state
    const { batchSize, accumulate, weightDecay, maxGradNorm, warmup, betas, scaleLr } = options
    assert.deepEqual(
      [batchSize, accumulate, weightDecay, maxGradNorm, warmup, betas, scaleLr, options.monitor],
      [3, 2, 0.01, 0, 0, [0.9, 0.999], true, 'val/loss_simple_ema'],
    )
    const rates = readMetrics(at('run')).flatMap(({ lr }) => lr ?? [])
    assert.equal(rates.length, 6)
    for (const [n, lr] of rates.entries()) assert.ok(Math.abs(lr - 2 * 3 * 1e-4 * factor(n)) < 1e-15, `${n}: ${lr}`)
    assert.deepEqual(best && { step: best.step, value: best.value }, monitor!.best)
  })

  it('is resumed by the same command, to the bit', async () => {
    const { validation, validationEvery, ...rest } = plan
    const args = ['train', rest.data, '--config', at('config.yaml'), '--sample-every', '0', '--device', 'cpu']
    const out = ['--validation', '0.3', '--validation-every', '3', '--out', at('cli')]
    const first = await runCli([...args, ...out, '--steps', '4'])
    assert.equal(first.code, 0, first.stderr)
    const again = await runCli([...args, ...out, '--steps', '6', '--resume'])
    assert.equal(again.code, 0, again.stderr)
    assert.deepEqual(numbers(readMetrics(at('cli'))), numbers(readMetrics(at('run'))))
  })

  it('takes what is given before what is in the file', async () => {
    const given = {
      ...plan,
      out: at('given'),
      lr: 1e-3,
      batchSize: 4,
      lrSchedule: 'constant',
      warmup: 2,
      steps: 3,
    } as const
    await (await Trainer.fromConfig(at('config.yaml'), { ...given, model: { unetConfig: { dropout: 0.5 } } })).run()
    const { options } = (await openCheckpoint(at('given'))).state
    assert.deepEqual([options.model.unetConfig.dropout, options.model.timesteps], [0.5, 20])
    assert.deepEqual(
      readMetrics(at('given')).flatMap(({ lr }) => lr ?? []),
      [5e-4, 1e-3, 1e-3],
    )
  })

  it('refuses what has no meaning', async () => {
    const refused = async (options: object, argument: string, pattern: RegExp, text = yaml) => {
      writeFileSync(at('wrong.yaml'), text)
      await assert.rejects(Trainer.fromConfig(at('wrong.yaml'), { ...plan, out: at('wrong'), ...options }), (e) => {
        assert.ok(e instanceof DiffusionError, String(e))
        assert.equal(e.argument, argument, e.message)
        assert.match(e.message, pattern)
        return true
      })
    }
    await refused({ warmup: 5 }, 'warmup', /which has its own/)
    await refused({ steps: 102 }, 'lrSchedule', /these end with update 101/)
    const withCheckpoint = yaml.replace('image_size: 8\n', 'image_size: 8\n    ckpt_path: a.ckpt\n')
    await refused({}, 'ckpt_path', /name the checkpoint as 'from'/, withCheckpoint)
    await refused({}, 'scheduler_config', /LambdaLinearScheduler/, yaml.replace('LambdaLinearScheduler', 'StepLR'))
    await refused({}, 'monitor', /val\/loss_simple/, yaml.replace('val/loss_simple_ema', 'val/rec_loss'))
  })

  it('DDPM.fromConfig gives configureOptimizers the schedule', async () => {
    using ddpm = await DDPM.fromConfig(at('config.yaml'), { device: 'cpu' })
    assert.equal(ddpm.lrSchedule?.target, 'ldm.lr_scheduler.LambdaLinearScheduler')
    const before = (await ddpm.trainingState()).weights
    ddpm.configureOptimizers({ lr: 1, weightDecay: 0 })
    await ddpm.trainBatch(new Float32Array(3 * 8 * 8))
    let most = 0
    for (const [name, tensor] of Object.entries((await ddpm.trainingState()).weights)) {
      const old = (await before[name].data()) as Float32Array
      most = ((await tensor.data()) as Float32Array).reduce((max, v, i) => Math.max(max, Math.abs(v - old[i])), most)
    }
    assert.ok(most > 0.5e-6 && most < 1.5e-6, `${most}`) // AdamW's first step is of the size of the rate: f_start
  })

  it('scaleLr is the rate times the images of a step', () => {
    const plan = { lr: 1e-4, warmup: 0, steps: 10, batchSize: 8, accumulate: 2 }
    const rate = (scaleLr: boolean) => learningRate(3, { ...plan, scaleLr, lrSchedule: 'constant' })
    assert.deepEqual([rate(false), rate(true)], [1e-4, 2 * 8 * 1e-4])
  })
})
