// The step of both optimizers, against what PyTorch code of others computed: losses, adaptive weight, gradients, running statistics.
import assert from 'node:assert/strict'
import { AutoencoderTraining } from '../../lib/autoencoder/training'
import type { StateDict } from '../../lib/nn/weights'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { VQModel } from '../../lib/stages/vq-model'
import { Tensor } from '../../lib/tensor'
import { camelCased, ddconfigOf, tensorOf } from '../nn/check-autoencoder'
import { assertScaled, checkGradients, tolerance } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { hashedWeights } from '../nn/hashed-weights'
import { testDevice as device } from '../support/devices'

interface Case {
  readonly id: string
  readonly kind: 'kl' | 'vq'
  readonly loss: Record<string, unknown>
}

const prefix = 'loss.discriminator.'

/** What a case has of the file. */
const ofCase = (golden: Golden, { id }: Case) =>
  Object.assign(Object.create(golden) as Golden, {
    floats: (name: string) => golden.floats(`out/${id}/${name}`),
    has: (name: string) => golden.has(`out/${id}/${name}`),
    names: (part: string) => golden.names(`out/${id}/${part}`),
  })

function open(golden: Golden, { kind, loss }: Case) {
  const ddconfig = ddconfigOf(golden)
  const { embed_dim: embedDim, n_embed: nEmbed } = golden.config.autoencoder
  const stage =
    kind === 'kl'
      ? new AutoencoderKL({ ddconfig, embedDim, device })
      : new VQModel({ ddconfig: { ...ddconfig, doubleZ: false }, embedDim, nEmbed, device })
  // From the first step on, whichever it is in the file.
  return { stage, training: new AutoencoderTraining(stage, { ...camelCased(loss), discStart: 0 }) }
}

async function withHashedWeights(golden: Golden, own: Case) {
  const opened = open(golden, own)
  const { stage, training } = opened
  const weights = hashedWeights(stage.network.parameters)
  await stage.loadStateDict(weights)
  training.configureOptimizers({ lr: 1e-3, betas: [0.5, 0.9], weightDecay: 0 })
  const state = await training.trainingState()
  const slots = Object.entries(state.discriminator!.weights).map(([name, { shape }]) => ({ name, shape }))
  state.discriminator!.weights = hashedWeights({ slots })
  await training.loadTrainingState(state)
  return { ...opened, weights, discriminator: state.discriminator!.weights }
}

describe("a first stage's discriminator", () => {
  let golden: Golden
  before(async () => {
    golden = await Golden.open('autoencoder_gan.safetensors')
  })

  for (const id of ['hinge', 'vanilla_actnorm', 'codebook']) {
    it(`${id}: losses, gradients and statistics are PyTorch's`, async () => {
      const own: Case = golden.config.cases.find((other: Case) => other.id === id)
      const { stage, training, weights, discriminator } = await withHashedWeights(golden, own)
      using _stage = stage
      using _training = training
      const x = tensorOf(golden, 'in/x')
      const noise = own.kind === 'kl' ? { noise: tensorOf(golden, 'in/noise') } : {}
      const { log } = await training.trainingStep(x, { ...noise, update: false })
      const names = golden.names(`out/${id}/log/`)
      assert.deepEqual(Object.keys(log).sort(), names.map((name) => `train/${name}`).sort())
      for (const name of names) {
        const value = Float32Array.of(log[`train/${name}`])
        assertScaled(value, golden.floats(`out/${id}/log/${name}`), tolerance.loss, 0, name)
      }

      const gradients = await training.gradients()
      const kept = Object.entries(gradients).filter(([name]) => {
        return golden.has(`out/${id}/grad/${name}`) || golden.has(`out/${id}/grad_row0/${name}`)
      })
      assert.ok(kept.length > 9, String(kept.length))
      const all: StateDict = { ...weights }
      for (const [name, tensor] of Object.entries(discriminator)) all[prefix + name] = tensor
      // Losses of a posterior are sums over pixels, of whose rounding gradients that would be 0 are left.
      const allowed = { ...tolerance, gradientFloor: own.kind === 'kl' ? 3e-4 : 1e-6 }
      await checkGradients(ofCase(golden, own), Object.fromEntries(kept), all, allowed)

      await training.trainingStep(x, { ...noise, lr: 0 }) // which ends the accumulation
      const state = (await training.trainingState()).discriminator!
      for (const name of golden.names(`out/${id}/initial/`)) {
        await assertNear(state.weights[name], golden, `out/${id}/initial/${name}`)
      }
      assert.equal(Object.keys(state.buffers).length, golden.names(`out/${id}/buffer_after_discriminator/`).length)
    })
  }

  it('running statistics go on in both steps', async () => {
    const own: Case = golden.config.cases[0]
    const { stage, training } = await withHashedWeights(golden, own)
    using _stage = stage
    using _training = training
    const x = tensorOf(golden, 'in/x')
    await training.trainingStep(x, { noise: tensorOf(golden, 'in/noise'), lr: 0 })
    const { buffers, batches } = (await training.trainingState()).discriminator!
    assert.equal(batches, 3)
    const names = golden.names('out/hinge/buffer_after_discriminator/')
    assert.equal(names.length, 2)
    for (const name of names) await assertNear(buffers[name], golden, `out/hinge/buffer_after_discriminator/${name}`)
  })

  async function assertNear(actual: Tensor, from: Golden, name: string): Promise<void> {
    assertScaled(await actual.data(), from.floats(name), tolerance.out, 0, name)
  }

  it('takes part from discStart on, learns, and goes on to the bit from a state', async () => {
    const run = async (steps: readonly number[], from?: Awaited<ReturnType<AutoencoderTraining['trainingState']>>) => {
      const own: Case = golden.config.cases[0]
      using stage = open(golden, own).stage
      using training = new AutoencoderTraining(stage, { discStart: 1, discNumLayers: 1, klWeight: 1e-6 })
      training.configureOptimizers({ lr: 1e-3, betas: [0.5, 0.9], weightDecay: 0 })
      if (from) await training.loadTrainingState(from)
      const logs: Record<string, number>[] = []
      for (const step of steps) logs.push((await training.trainingStep(tensorOf(golden, 'in/x'), { step })).log)
      const state = await training.trainingState()
      const { weights } = state.discriminator!
      const numbers = Object.entries(weights).map(async ([name, t]) => [name, [...(await t.values())]] as const)
      return { logs, state, discriminator: await Promise.all(numbers) }
    }
    const whole = await run([0, 1, 2, 3, 4])
    assert.deepEqual(
      whole.logs.map((log) => 'train/disc_loss' in log),
      [false, true, true, true, true],
    )
    assert.ok(whole.logs[4]['train/disc_loss'] < 0.9 * whole.logs[1]['train/disc_loss'])
    const first = await run([0, 1, 2])
    const second = await run([3, 4], first.state)
    assert.deepEqual([...first.logs, ...second.logs], whole.logs)
    assert.deepEqual(second.discriminator, whole.discriminator)
  })

  it('has the rate of the step, and steps that are not waited for come one after the other', async () => {
    const lrSchedule = {
      target: 'ldm.lr_scheduler.LambdaLinearScheduler',
      params: { warm_up_steps: [1], cycle_lengths: [100], f_start: [0], f_max: [1], f_min: [1] },
    }
    const run = async (waits: boolean) => {
      const stage = open(golden, golden.config.cases[0]).stage
      using _stage = stage
      using training = new AutoencoderTraining(stage, { discStart: 1, discNumLayers: 1, klWeight: 1e-6 })
      training.configureOptimizers({ lr: 1e-3, lrSchedule })
      const before = (await training.trainingState()).discriminator!.weights
      const steps: Promise<{ log: Record<string, number> }>[] = []
      for (let i = 0; i < 3; i++) {
        steps.push(training.trainingStep(tensorOf(golden, 'in/x')))
        if (waits) await steps[i]
        if (waits && i === 1) {
          const { weights } = (await training.trainingState()).discriminator!
          const [name] = Object.keys(weights)
          assert.notDeepEqual(await weights[name].data(), await before[name].data())
        }
      }
      return (await Promise.all(steps)).map(({ log }) => log)
    }
    assert.deepEqual(await run(false), await run(true))
  })

  it('says what is wrong', async () => {
    const invalid = (argument: string) => ({ code: 'invalid-argument', argument })
    using stage = open(golden, golden.config.cases[0]).stage
    assert.throws(() => new AutoencoderTraining(stage, { discWeight: 1 }), invalid('discWeight'))
    assert.throws(
      () => new AutoencoderTraining(stage, { discStart: 0, discLoss: 'wgan' as never }),
      invalid('discLoss'),
    )
    using training = new AutoencoderTraining(stage, { discStart: 5 })
    training.configureOptimizers({ lr: 1e-3 })
    await assert.rejects(training.trainingStep(Tensor.randn([1, 3, 16, 16])), invalid('discNumLayers'))
    using without = new AutoencoderTraining(stage)
    without.configureOptimizers({ lr: 1e-3 })
    const state = await without.trainingState()
    await assert.rejects(training.loadTrainingState(state), { code: 'state-mismatch', argument: 'discriminator' })
  })
})
