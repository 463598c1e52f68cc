import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'

const options: DDPMOptions = {
  unetConfig: {
    imageSize: 8,
    inChannels: 1,
    outChannels: 1,
    modelChannels: 32,
    channelMult: [1],
    numResBlocks: 1,
    attentionResolutions: [],
  },
  timesteps: 10,
  device: testDevice,
}

describe('state dict', () => {
  it("has ddpm.py's names", async () => {
    using ddpm = new DDPM(options)
    const dict = await ddpm.stateDict()
    const names = Object.keys(dict)
    assert.deepEqual(names.slice(0, 2), ['betas', 'alphas_cumprod'])
    assert.ok(!names.includes('lvlb_weights'))
    assert.ok(names.includes('model.diffusion_model.input_blocks.1.0.in_layers.2.weight'))
    assert.ok(names.includes('model_ema.diffusion_modelinput_blocks10in_layers2weight'))
    assert.deepEqual(dict['model.diffusion_model.input_blocks.1.0.in_layers.2.weight'].shape, [32, 32, 3, 3])
    assert.deepEqual(dict['model_ema.num_updates'].shape, [])
    assert.equal(dict['model_ema.num_updates'].dtype, 'int32')
    assert.ok(!names.includes('logvar'))
    using learned = new DDPM({ ...options, learnLogvar: true, logvarInit: 0.5 })
    assert.deepEqual([...(await (await learned.stateDict()).logvar.data())], new Array(10).fill(0.5))
  })

  it('goes from one model to another, schedule and averages included', async () => {
    using from = new DDPM({ ...options, seed: 1, linearEnd: 0.1, emaDecay: 0.5 })
    from.configureOptimizers({ lr: 0.01 })
    await from.trainBatch(Tensor.randn([2, 1, 8, 8]))
    using to = new DDPM({ ...options, seed: 2 })
    const saved = await from.stateDict()
    assert.deepEqual(await to.loadStateDict(saved), { missing: [], unexpected: [] })
    const loaded = await to.stateDict()
    for (const [name, tensor] of Object.entries(saved)) {
      assertSameBits(await loaded[name].data(), await tensor.data(), name)
    }
    assert.deepEqual(to.betas, from.betas)
  })

  it("takes the network's bare names; the averages start from them", async () => {
    using from = new DDPM({ ...options, seed: 1 })
    using to = new DDPM({ ...options, seed: 2 })
    const { weights } = await from.trainingState()
    await to.loadStateDict(weights)
    const state = await to.trainingState()
    for (const [name, tensor] of Object.entries(weights)) {
      assertSameBits(await state.weights[name].data(), await tensor.data(), name)
      assertSameBits(await state.ema![name].data(), await tensor.data(), `average of ${name}`)
    }
  })

  it('names what does not fit, and changes nothing then', async () => {
    using ddpm = new DDPM(options)
    const before = await ddpm.stateDict()
    const { betas: _, ...missing } = before
    await assert.rejects(ddpm.loadStateDict(missing), { code: 'state-mismatch', message: /missing: betas/ })
    assert.deepEqual(await ddpm.loadStateDict(missing, { strict: false }), { missing: ['betas'], unexpected: [] })
    const unexpected = { ...before, other: Tensor.from([1]) }
    await assert.rejects(ddpm.loadStateDict(unexpected), { code: 'state-mismatch', message: /unexpected: other/ })
    const name = 'model.diffusion_model.out.2.weight'
    const wrong = { ...before, betas: Tensor.from(new Float32Array(10)), [name]: Tensor.from([1, 2]) }
    for (const strict of [true, false]) {
      const message = /out\.2\.weight: expected shape \[1, 32, 3, 3\], got \[2\]/
      await assert.rejects(ddpm.loadStateDict(wrong, { strict }), { code: 'state-mismatch', message })
    }
    const after = await ddpm.stateDict()
    for (const [key, tensor] of Object.entries(before)) {
      assertSameBits(await after[key].data(), await tensor.data(), key)
    }
  })
})
