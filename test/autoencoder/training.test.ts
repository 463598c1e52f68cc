// The training of first stages: ldm's losses against their formulas, gradients against finite differences.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { AutoencoderTraining } from '../../lib/autoencoder/training'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import type { StateDict } from '../../lib/nn/weights'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { LPIPS } from '../../lib/stages/lpips'
import { VQModel } from '../../lib/stages/vq-model'
import { Tensor } from '../../lib/tensor'
import { testDevice as device } from '../support/devices'
import { numbersOf } from '../support/numbers'

const ddconfig = {
  ...{ ch: 32, chMult: [1, 2], numResBlocks: 1, attnResolutions: [], inChannels: 3, outCh: 3, resolution: 8 },
  zChannels: 4,
}
const n = 3
const d = 3 * 8 * 8
const openKl = (options: object = {}) => new AutoencoderKL({ ddconfig, embedDim: 4, device, seed: 3, ...options })
const openVq = () => {
  return new VQModel({ ddconfig: { ...ddconfig, doubleZ: false }, embedDim: 4, nEmbed: 16, device, seed: 3 })
}
const images = (seed = 1) => Tensor.randn([n, 3, 8, 8], { seed })
const noise = Tensor.randn([n, 4, 4, 4], { seed: 2 })
const mean = (values: Iterable<number>) => {
  const all = [...values]
  return all.reduce((sum, v) => sum + v, 0) / all.length
}
const distance = async (a: Tensor, b: Tensor) => {
  const other = await b.values()
  return mean((await a.data()).map((value, i) => Math.abs(value - other[i])))
}
const near = (actual: number, expected: number, name: string, tolerance = 1e-5) => {
  assert.ok(Math.abs(actual - expected) <= tolerance * Math.abs(expected), `${name}: ${actual}, expected ${expected}`)
}

/** The weights with each changed by `by` times its entry of `direction`. */
async function moved(weights: StateDict, direction: StateDict, by: number): Promise<StateDict> {
  const entries = Object.entries(weights).map(async ([name, tensor]) => {
    const way = await direction[name].values()
    return [
      name,
      Tensor.wrap(
        (await tensor.data()).map((v, i) => v + by * way[i]),
        tensor.shape,
      ),
    ] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}

async function normOf(dict: StateDict): Promise<number> {
  let squares = 0
  for (const tensor of Object.values(dict)) for (const v of await tensor.values()) squares += v * v
  return Math.sqrt(squares)
}

describe('AutoencoderTraining', () => {
  it("LPIPSWithDiscriminator's loss, without its discriminator", async () => {
    using stage = openKl()
    using training = new AutoencoderTraining(stage, { klWeight: 1e-3, logvarInit: 0.3 })
    training.configureOptimizers({ lr: 0 })
    const x = images()
    const { dec, posterior } = await stage.forward(x, { noise })
    const rec = await distance(dec, x)
    const kl = mean(await posterior.kl().data())
    const nll = d * (rec / Math.exp(0.3) + 0.3)
    const { loss, log, gradNorm } = await training.trainingStep(x, { noise })
    const expected = { total_loss: nll + 1e-3 * kl, logvar: 0.3, kl_loss: kl, nll_loss: nll, rec_loss: rec }
    for (const [name, value] of Object.entries(expected)) near(log[`train/${name}`], value, name)
    assert.equal(loss, log['train/total_loss'])
    assert.ok(gradNorm! > 0)
    const validation = await training.validationStep(x, { noise, ema: true })
    near(validation['val/rec_loss_ema'], rec, 'val/rec_loss_ema')
    near(validation['val/total_loss_ema'], loss, 'val/total_loss_ema')
  })

  it("VQLPIPSWithDiscriminator's", async () => {
    using stage = openVq()
    using training = new AutoencoderTraining(stage, { codebookWeight: 0.7, useEma: false })
    training.configureOptimizers({ lr: 0 })
    const x = images()
    const { dec, diff } = await stage.forward(x)
    const rec = await distance(dec, x)
    const { loss, log } = await training.trainingStep(x)
    near(log['train/rec_loss'], rec, 'rec_loss')
    near(log['train/quant_loss'], diff, 'quant_loss')
    near(loss, rec + 0.7 * diff, 'loss')
  })

  it('gradients are those of finite differences, and of parts of a batch add up', async () => {
    using stage = openKl()
    using training = new AutoencoderTraining(stage, { klWeight: 0.5 })
    training.configureOptimizers({ lr: 1 })
    const x = images()
    await training.trainingStep(x, { noise, update: false })
    const gradients = await training.gradients()
    const norm = await normOf(gradients)
    const weights = await stage.stateDict()
    const lossAt = async (by: number) => {
      await stage.loadStateDict(await moved(weights, gradients, by / norm))
      return (await training.validationStep(x, { noise }))['val/total_loss']
    }
    const step = 2e-3
    near(((await lossAt(step)) - (await lossAt(-step))) / (2 * step), norm, 'derivative along the gradient', 1e-2)
    await assert.rejects(async () => training.trainingState(), { code: 'invalid-argument', argument: 'update' })

    await stage.loadStateDict(weights)
    const { gradNorm } = await training.trainingStep(x, { noise, accumulate: 2, lr: 0 })
    near(gradNorm!, norm, 'the mean of a batch and itself')
  })

  it('a perceptual loss counts as much of the error, and has its gradients', async () => {
    const file = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'lpips.safetensors')
    const { tensors } = await readSafetensors(file)
    const own = Object.entries(tensors).filter(([name]) => name.startsWith('param/'))
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-native-lpips-'))
    try {
      const weights = path.join(folder, 'weights.safetensors')
      await writeSafetensors(weights, Object.fromEntries(own.map(([name, t]) => [name.slice('param/'.length), t])))
      using lpips = await LPIPS.fromFiles([weights], { device })
      using stage = openKl({ ddconfig: { ...ddconfig, resolution: 16, tanhOut: true } })
      const perceptual = { perceptual: lpips, perceptualWeight: 3, klWeight: 0.5 }
      using training = new AutoencoderTraining(stage, { ...perceptual, discStart: 1000 })
      training.configureOptimizers({ lr: 1 })
      const x = Tensor.randn([2, 3, 24, 24], { seed: 4 })
      const given = { noise: Tensor.randn([2, 4, 12, 12], { seed: 5 }) }
      const { dec } = await stage.forward(x, given)
      const distances = mean(await (await lpips.forward(x, dec)).data())
      const { log } = await training.trainingStep(x, { ...given, update: false })
      near(log['train/p_loss'], distances, 'p_loss')
      near(log['train/rec_loss'], (await distance(dec, x)) + 3 * distances, 'rec_loss')
      near(log['train/nll_loss'], 3 * 24 * 24 * log['train/rec_loss'], 'nll_loss')
      const gradients = await training.gradients()
      const norm = await normOf(gradients)
      const start = await stage.stateDict()
      const lossAt = async (by: number) => {
        await stage.loadStateDict(await moved(start, gradients, by / norm))
        return (await training.validationStep(x, given))['val/total_loss']
      }
      const step = 3e-5
      near(((await lossAt(step)) - (await lossAt(-step))) / (2 * step), norm, 'derivative', 1e-2)

      await stage.loadStateDict(start)
      using judged = new AutoencoderTraining(stage, { ...perceptual, discStart: 0, discNumLayers: 2 })
      judged.configureOptimizers({ lr: 1e-3 })
      const guided = (await judged.trainingStep(x, { ...given, lr: 0 })).log
      near(guided['train/nll_loss'], log['train/nll_loss'], 'nll_loss with a discriminator')
      using plain = new AutoencoderTraining(stage, { klWeight: 0.5, discStart: 0, discNumLayers: 2 })
      plain.configureOptimizers({ lr: 1e-3 })
      const { log: without } = await plain.trainingStep(x, { ...given, lr: 0 })
      assert.ok(Math.abs(guided['train/d_weight'] / without['train/d_weight'] - 1) > 0.01, 'its gradient weighs, too')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('goes down, keeps averages, and goes on to the bit from a state', async () => {
    const run = async (steps: readonly number[], from?: Awaited<ReturnType<AutoencoderTraining['trainingState']>>) => {
      using stage = openKl({ ddconfig: { ...ddconfig, dropout: 0.1 } })
      using training = new AutoencoderTraining(stage, { klWeight: 1e-6 })
      training.configureOptimizers({ lr: 2e-3, betas: [0.5, 0.9], weightDecay: 0 })
      if (from) await training.loadTrainingState(from)
      const losses: number[] = []
      for (const step of steps) losses.push((await training.trainingStep(images(7), { step })).loss)
      using averaged = await training.averaged(0.5)
      assert.equal(averaged.scalingFactor, 0.5)
      const own = await numbersOf(await stage.stateDict())
      const average = await numbersOf(await averaged.stateDict())
      assert.notDeepEqual(average, own)
      return { losses, own, average, state: await training.trainingState() }
    }
    const whole = await run([0, 1, 2, 3, 4, 5])
    assert.ok(whole.losses[5] < 0.9 * whole.losses[0], String(whole.losses))
    const first = await run([0, 1, 2])
    const second = await run([3, 4, 5], first.state)
    assert.deepEqual([...first.losses, ...second.losses], whole.losses)
    assert.deepEqual(second.own, whole.own)
    assert.deepEqual(second.average, whole.average)
  })

  it('names the noise by its batches, which a state has, too', async () => {
    const run = async (steps: number, from?: Awaited<ReturnType<AutoencoderTraining['trainingState']>>) => {
      using stage = openKl({})
      using training = new AutoencoderTraining(stage, { klWeight: 1e-6 })
      training.configureOptimizers({ lr: 2e-3 })
      if (from) await training.loadTrainingState(from)
      const losses: number[] = []
      for (let i = 0; i < steps; i++) {
        losses.push((await training.trainingStep(images(7), { update: i % 2 === 1, accumulate: 2 })).loss)
      }
      return { losses, state: await training.trainingState() }
    }
    const [whole, first] = [await run(4), await run(2)]
    assert.deepEqual([...first.losses, ...(await run(2, first.state)).losses], whole.losses)
    using stage = openKl({})
    using training = new AutoencoderTraining(stage)
    training.configureOptimizers({ lr: 2e-3 })
    await training.trainingStep(images(7), { update: false })
    training.configureOptimizers({ lr: 1e-3 }) // whose gradients are none
    assert.equal((await training.trainingState()).batches, 1)
  })

  it('says what is wrong', async () => {
    const invalid = (argument: string) => ({ code: 'invalid-argument', argument })
    using stage = openKl()
    using codebook = openVq()
    assert.throws(() => new AutoencoderTraining(stage, { codebookWeight: 1 }), invalid('codebookWeight'))
    assert.throws(() => new AutoencoderTraining(codebook, { klWeight: 1 }), invalid('klWeight'))
    assert.throws(() => new AutoencoderTraining(stage, { perceptualWeight: 1 }), invalid('perceptualWeight'))
    assert.throws(() => new AutoencoderTraining({} as never), invalid('autoencoder'))
    using grey = openKl({ ddconfig: { ...ddconfig, outCh: 1 } })
    assert.throws(() => new AutoencoderTraining(grey), invalid('outCh'))
    using training = new AutoencoderTraining(stage)
    await assert.rejects(training.trainingStep(images()), { code: 'not-configured' })
    training.configureOptimizers({ lr: 1e-3 })
    await assert.rejects(training.trainingStep(Tensor.randn([1, 3, 9, 8])), invalid('x'))
    await assert.rejects(training.trainingStep(images(), { noise: Tensor.randn([n, 4, 8, 8]) }), invalid('noise'))
    using ofCodebook = new AutoencoderTraining(codebook, { useEma: false })
    await assert.rejects(ofCodebook.validationStep(images(), { noise }), invalid('noise'))
    await assert.rejects(ofCodebook.validationStep(images(), { ema: true }), invalid('ema'))
    const before = await numbersOf(await stage.stateDict())
    await assert.rejects(training.trainingStep(Tensor.from(new Float32Array(d).fill(NaN), [1, 3, 8, 8])), {
      code: 'not-finite',
    })
    assert.deepEqual(await numbersOf(await stage.stateDict()), before)
  })
})
