/** The option `precision`: where it is refused, loss scaling, and updates whose gradients are not finite. */
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import { LossScale } from '../../lib/diffusion/process/loss-scale'
import { DDPM, type DDPMOptions, DiffusionError, type StateDict, Tensor } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { Random } from '../support/random'

const tiny: DDPMOptions = {
  unetConfig: {
    imageSize: 4,
    inChannels: 1,
    outChannels: 1,
    modelChannels: 32,
    channelMult: [1],
    numResBlocks: 1,
    attentionResolutions: [1],
    numHeads: 2,
  },
  timesteps: 50,
  seed: 9,
}

const images = (n: number, seed = 1) => Tensor.from(new Random(seed).normals(n * 16, 0.5), [n, 1, 4, 4])
const broken = () => Tensor.from(new Float32Array(16).fill(Number.NaN), [1, 1, 4, 4])

async function sameState(a: StateDict, b: StateDict, what: string): Promise<void> {
  for (const name of Object.keys(a)) assertSameBits(await a[name].data(), await b[name].data(), `${what} ${name}`)
}

describe('precision', () => {
  it('is refused by a device that has not got it', () => {
    const make = (options: DDPMOptions) => () => new DDPM({ ...tiny, device: 'cpu', ...options }).dispose()
    const has = Device.open('cpu')
      .info()
      .precisions.map((name) => `'${name}'`)
    assert.throws(make({ precision: 'fp16' }), (error: DiffusionError) => {
      assert.ok(error instanceof DiffusionError)
      assert.equal(error.code, 'unsupported')
      assert.equal(error.argument, 'precision')
      assert.equal(error.message, `precision: cpu has ${has.join(' or ')}, not 'fp16'`)
      return true
    })
    assert.throws(make({ precision: 'half' as 'fp16' }), { code: 'invalid-argument', argument: 'precision' })
    make({ precision: 'fp32' })()
  })

  for (const precision of ['fp16', 'bf16'] as const) {
    it(`${precision}: losses and gradients are near those of fp32`, async () => {
      const of = async (o: DDPMOptions) => {
        using ddpm = new DDPM({ ...tiny, device: 'reference' as DeviceName, ...o })
        const { loss, gradients } = await ddpm.lossAndGradients(images(2), [3, 40], images(2, 8))
        return { loss, gradients }
      }
      const [exact, mixed] = [await of({}), await of({ precision })]
      const unit = precision === 'fp16' ? 2 ** -11 : 2 ** -8
      assertClose([mixed.loss], [exact.loss], { abs: 0, rel: 4 * unit }, 'loss')
      let [off, size] = [0, 0]
      for (const [name, tensor] of Object.entries(exact.gradients)) {
        const [a, b] = [await tensor.data(), await mixed.gradients[name].data()]
        a.forEach((value, i) => {
          off += (value - b[i]) ** 2
          size += value ** 2
        })
      }
      assert.ok(Math.sqrt(off / size) < 8 * unit, `gradients are off by ${Math.sqrt(off / size)} of their norm`)
      assert.notEqual(off, 0)
    })
  }

  it('goes on after a resume as if it had never stopped, to the bit, the loss scale included', async () => {
    const options: DDPMOptions = { ...tiny, device: 'reference' as DeviceName, precision: 'fp16' }
    const make = () => {
      const ddpm = new DDPM(options)
      ddpm.configureOptimizers({ lr: 1e-3, maxGradNorm: 1 })
      return ddpm
    }
    const losses = async (ddpm: DDPM, from: number, to: number) => {
      const list: number[] = []
      for (let k = from; k < to; k++) list.push((await ddpm.trainBatch(images(2, k))).loss)
      return list
    }
    using whole = make()
    await losses(whole, 0, 2)
    const saved = await whole.trainingState()
    assert.deepEqual(saved.lossScale, { scale: 2 ** 16, goodUpdates: 2 })
    using resumed = make()
    await resumed.loadTrainingState({ ...saved, lossScale: { scale: 2 ** 14, goodUpdates: 1 } })
    assert.equal((await resumed.trainBatch(images(2, 2))).lossScale, 2 ** 14)
    await resumed.loadTrainingState(saved)
    assert.deepEqual(await losses(resumed, 2, 4), await losses(whole, 2, 4))
    const [a, b] = [await resumed.trainingState(), await whole.trainingState()]
    assert.deepEqual(a.lossScale, b.lossScale)
    await sameState(a.weights, b.weights, 'weights')
    await sameState(a.v!, b.v!, 'second moments')
  })

  it('gradients that overflow fp16 halve the scale and change nothing', async () => {
    using ddpm = new DDPM({ ...tiny, device: 'reference' as DeviceName, precision: 'fp16' })
    ddpm.configureOptimizers({ lr: 1e-3 })
    await ddpm.trainBatch(images(2))
    const before = await ddpm.trainingState()
    await ddpm.loadTrainingState({ ...before, lossScale: { scale: 2 ** 24, goodUpdates: 5 } })
    const { skipped, lossScale, gradNorm } = await ddpm.trainBatch(images(2))
    assert.deepEqual({ skipped, lossScale, gradNorm }, { skipped: true, lossScale: 2 ** 24, gradNorm: undefined })
    const after = await ddpm.trainingState()
    assert.deepEqual(after.lossScale, { scale: 2 ** 23, goodUpdates: 0 })
    assert.equal(after.optimizerStep, before.optimizerStep)
    assert.equal(after.emaUpdates, before.emaUpdates)
    for (const bank of ['weights', 'm', 'v'] as const) await sameState(after[bank]!, before[bank]!, bank)
    await sameState(after.ema!, before.ema!, 'averages')
  })

  it('the scale is doubled after many good updates, up to a limit', () => {
    const scale = new LossScale()
    for (let i = 0; i < 1999; i++) scale.update(true)
    assert.equal(scale.scale, 2 ** 16)
    scale.update(true)
    assert.deepEqual(scale.state, { scale: 2 ** 17, goodUpdates: 0 })
    for (let i = 0; i < 1999; i++) scale.update(true)
    scale.update(false)
    assert.deepEqual(scale.state, { scale: 2 ** 16, goodUpdates: 0 })
    for (let i = 0; i < 20 * 2000; i++) scale.update(true)
    assert.equal(scale.scale, 2 ** 24)
  })
})

describe('a loss that is no number', () => {
  for (const device of ['cpu', 'reference'] as const) {
    it(`changes nothing, and training can go on (${device})`, async () => {
      using ddpm = new DDPM({ ...tiny, device })
      using other = new DDPM({ ...tiny, device })
      for (const d of [ddpm, other]) {
        d.configureOptimizers({ lr: 1e-3 })
        await d.trainBatch(images(2))
      }
      const before = await ddpm.trainingState()
      await assert.rejects(ddpm.trainBatch(broken(), { step: 1 }), { code: 'not-finite' })
      const after = await ddpm.trainingState()
      assert.equal(after.optimizerStep, before.optimizerStep)
      assert.equal(after.emaUpdates, before.emaUpdates)
      for (const bank of ['weights', 'm', 'v'] as const) await sameState(after[bank]!, before[bank]!, bank)
      await sameState(after.ema!, before.ema!, 'averages')
      // The gradients that wait are zero again.
      const [a, b] = [await ddpm.trainBatch(images(2, 3)), await other.trainBatch(images(2, 3))]
      assert.equal(a.loss, b.loss)
      await sameState((await ddpm.trainingState()).weights, (await other.trainingState()).weights, 'weights')
    })
  }
})
