// ddpm.py's scheduler_config: the classes of ldm/lr_scheduler.py.
import assert from 'node:assert/strict'
import { lrFactor, lrFactorAt } from '../../lib/diffusion/training/lr-scheduler'
import { DDPM, DiffusionError } from '../../lib/index'
import { Tensor } from '../../lib/tensor'
import { testDevice } from '../support/devices'

const near = (a: number, b: number) =>
  assert.ok(Math.abs(a - b) <= 1e-12 * Math.max(1, Math.abs(b)), `${a} is not ${b}`)
const refused = (call: () => unknown, code: string, argument: string) =>
  assert.throws(call, (e) => e instanceof DiffusionError && e.code === code && e.argument === argument)

describe('schedulers of ldm.lr_scheduler', () => {
  it('LambdaLinearScheduler: up to f_max, then along the line from f_max at 0 to f_min at the end of the cycle', () => {
    const params = { warm_up_steps: [10], f_start: [0.1], f_max: [1], f_min: [0.2], cycle_lengths: [100] }
    const at = (n: number) => lrFactorAt({ target: 'ldm.lr_scheduler.LambdaLinearScheduler', params }, n)
    near(at(0), 0.1)
    near(at(5), 0.1 + 0.09 * 5)
    near(at(9), 0.1 + 0.09 * 9)
    for (const n of [10, 50, 99]) near(at(n), 0.2 + (0.8 * (100 - n)) / 100)
    near(at(100), 0.2)
    refused(() => at(101), 'invalid-argument', 'lrSchedule')
  })

  it('the configuration of lsun_churches: a warm-up, and then a constant', () => {
    const params = { warm_up_steps: [10000], cycle_lengths: [1e13], f_start: [1e-6], f_max: [1], f_min: [1] }
    const at = (n: number) => lrFactorAt({ target: 'ldm.lr_scheduler.LambdaLinearScheduler', params }, n)
    near(at(0), 1e-6)
    near(at(5000), 1e-6 + (1 - 1e-6) / 2)
    for (const n of [10000, 1e6]) near(at(n), 1)
  })

  it('LambdaWarmUpCosineScheduler: up to lr_max, then half a cosine to lr_min, where it stays', () => {
    const params = { warm_up_steps: 4, lr_start: 0, lr_max: 2, lr_min: 1, max_decay_steps: 12 }
    const at = (n: number) => lrFactorAt({ target: 'LambdaWarmUpCosineScheduler', params }, n)
    const expected = [0, 0.5, 1, 1.5, 2, 1.5 + 0.5 * Math.cos(Math.PI / 8)]
    for (const [n, factor] of expected.entries()) near(at(n), factor)
    near(at(8), 1.5)
    for (const n of [12, 13, 1e6]) near(at(n), 1)
  })

  it('LambdaWarmUpCosineScheduler2: one cycle after another, the last step of each counted to it', () => {
    const params = {
      ...{ warm_up_steps: [2, 0], f_start: [0, 1], f_max: [1, 0.5], f_min: [0.1, 0] },
      ...{ cycle_lengths: [6, 4], verbosity_interval: 5 },
    }
    const at = (n: number) => lrFactorAt({ target: 'ldm.lr_scheduler.LambdaWarmUpCosineScheduler2', params }, n)
    near(at(1), 0.5)
    near(at(2), 1)
    near(at(4), 0.55)
    near(at(6), 0.1)
    near(at(7), 0.25 + 0.25 * Math.cos(Math.PI / 4))
    near(at(8), 0.25)
    near(at(10), 0)
  })

  it('refuse what they do not have', () => {
    const params = { warm_up_steps: [1], f_start: [0], f_max: [1], f_min: [1], cycle_lengths: [9] }
    const linear = (change: object) => () =>
      lrFactor({ target: 'ldm.lr_scheduler.LambdaLinearScheduler', params: { ...params, ...change } })
    refused(() => lrFactor({ target: 'torch.optim.lr_scheduler.StepLR', params }), 'unsupported', 'lrSchedule')
    refused(
      () => lrFactor({ target: 'LambdaLinearScheduler', params, arguments: 1 } as never),
      'unknown-option',
      'arguments',
    )
    refused(linear({ warmup_steps: [1] }), 'unknown-option', 'warmup_steps')
    refused(linear({ f_max: [1, 1] }), 'invalid-argument', 'params')
    refused(linear({ f_max: 1 }), 'invalid-argument', 'f_max')
    refused(linear({ warm_up_steps: [-1] }), 'invalid-argument', 'warm_up_steps')
    refused(linear({ cycle_lengths: [0] }), 'invalid-argument', 'cycle_lengths')
    const cosine = { target: 'LambdaWarmUpCosineScheduler', params: { ...params } }
    refused(() => lrFactor(cosine), 'unknown-option', 'f_start')
    const own = { warm_up_steps: 9, lr_start: 0, lr_max: 1, lr_min: 0, max_decay_steps: 9 }
    refused(() => lrFactor({ ...cosine, params: own }), 'invalid-argument', 'max_decay_steps')
  })

  it('make the rates of configureOptimizers, update by update', async () => {
    const unetConfig = { imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1] }
    const small = { ...unetConfig, numResBlocks: 1, attentionResolutions: [] }
    const make = () => new DDPM({ unetConfig: small, timesteps: 10, device: testDevice, seed: 1 })
    const x = Tensor.from(new Float32Array(16).fill(0.5), [1, 1, 4, 4])
    const params = { warm_up_steps: [2], f_start: [0.25], f_max: [1], f_min: [0.5], cycle_lengths: [8] }
    const lrSchedule = { target: 'ldm.lr_scheduler.LambdaLinearScheduler', params }
    using scheduled = make()
    scheduled.configureOptimizers({ lr: 1e-3, lrSchedule })
    using by = make()
    by.configureOptimizers({ lr: 1 })
    for (let n = 0; n < 4; n++) {
      await scheduled.trainBatch(x)
      await by.trainBatch(x, { lr: 1e-3 * lrFactorAt(lrSchedule, n) })
    }
    const { weights } = await by.trainingState()
    for (const [name, tensor] of Object.entries((await scheduled.trainingState()).weights))
      assert.deepEqual(await tensor.data(), await weights[name].data(), name)
  })
})
