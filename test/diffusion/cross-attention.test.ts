// A network with cross-attention inside of DDPM: the context gets to it everywhere, and its shape is checked.
import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { camelCase, Fixture, randomize } from './fixture'

const tinyUnet = {
  imageSize: 4,
  inChannels: 2,
  outChannels: 2,
  modelChannels: 8,
  normGroups: 4,
  channelMult: [1],
  numResBlocks: 1,
  attentionResolutions: [1],
  useSpatialTransformer: true,
  contextDim: 5,
}

const tiny = (options: Partial<DDPMOptions> = {}) =>
  randomize(new DDPM({ unetConfig: tinyUnet, timesteps: 10, device: testDevice, useEma: false, ...options }))

describe('models with cross-attention', () => {
  it('the recorded output', async () => {
    const fixture = await Fixture.load('unet_crossattn')
    const unetConfig = camelCase(fixture.config.unet)
    using ddpm = new DDPM({
      unetConfig,
      parameterization: 'x0',
      clipDenoised: false,
      useEma: false,
      device: testDevice,
    })
    await ddpm.loadStateDict(fixture.params())
    const context = fixture.tensor('in/context')
    const [x, t] = [fixture.tensor('in/x'), fixture.integers('in/t')]
    const { modelMean } = await ddpm.pMeanVariance(x, t, { context })
    const { posteriorMean } = await ddpm.qPosterior(fixture.tensor('out/out'), x, t)
    assertCloseToScale(await modelMean.data(), await posteriorMean.data(), 1e-4, 'model mean')
  })

  it('the context reaches losses, gradients, training, sampling and bits/dim', async () => {
    using ddpm = await tiny()
    const [x, noise] = [1, 2].map((seed) => Tensor.randn([2, 2, 4, 4], { seed }))
    const contexts = [3, 4].map((seed) => Tensor.randn([2, 3, 5], { seed }))
    const differ = async (what: string, compute: (context: Tensor) => Promise<unknown>) => {
      const [first, second, again] = [
        await compute(contexts[0]),
        await compute(contexts[1]),
        await compute(contexts[0]),
      ]
      assert.notDeepEqual(first, second, what)
      assert.deepEqual(first, again, what)
    }
    await differ('loss', async (context) => (await ddpm.pLosses(x, 3, noise, { context })).loss)
    await differ('gradients', async (context) => {
      const { gradients } = await ddpm.lossAndGradients(x, 3, noise, { context })
      return gradients['middle_block.1.transformer_blocks.0.attn2.to_k.weight'].data()
    })
    await differ('step', async (context) => (await ddpm.pSample(x, 3, { context, noise })).data())
    await differ('samples', async (context) => (await ddpm.sample({ batchSize: 2, seed: 1, context })).data())
    await differ('bits/dim', async (context) => (await ddpm.calcBpd(x, { context, seed: 1 })).totalBpd.data())
    const batch = { image: Tensor.randn([2, 4, 4, 2], { seed: 5 }), context: contexts[0] }
    ddpm.configureOptimizers({ lr: 1e-3 })
    const { loss } = await ddpm.trainingStep(batch)
    assert.ok(loss > 0)
    const { samples } = await ddpm.logImages(batch, { N: 2 })
    assert.deepEqual(samples?.shape, [2, 2, 4, 4])
  })

  it('contexts of other lengths are other programs; an image does not depend on the others of its batch', async () => {
    using ddpm = await tiny({ deterministic: true })
    const context = Tensor.randn([2, 7, 5], { seed: 3 })
    const both = await (await ddpm.sample({ batchSize: 2, seed: 1, context })).data()
    const second = Tensor.from((await context.data()).slice(35), [1, 7, 5])
    const alone = await (await ddpm.sample({ batchSize: 1, seed: 1, sampleOffset: 1, context: second })).data()
    assertSameBits(both.slice(32), alone, 'image 1')
    const short = Tensor.from((await second.data()).slice(0, 10), [1, 2, 5])
    const other = await ddpm.sample({ batchSize: 1, seed: 1, sampleOffset: 1, context: short })
    assert.notDeepEqual(await other.data(), alone)
  })

  it('a context where there is none to be, or of a wrong shape, is refused', async () => {
    using ddpm = await tiny()
    const x = Tensor.randn([2, 2, 4, 4])
    const refused = (promise: Promise<unknown>) =>
      assert.rejects(promise, { name: 'DiffusionError', code: 'invalid-argument', argument: 'context' })
    await refused(ddpm.pLosses(x, 3))
    await refused(ddpm.sample({ batchSize: 2 }))
    await refused(ddpm.pSample(x, 3, { context: Tensor.randn([1, 3, 5]) }))
    await refused(ddpm.pSample(x, 3, { context: Tensor.randn([2, 3, 4]) }))
    await refused(ddpm.pSample(x, 3, { context: Tensor.randn([2, 3]) }))
    const { useSpatialTransformer: _, contextDim: __, ...unetConfig } = tinyUnet
    using plain = new DDPM({ unetConfig, timesteps: 10, device: testDevice, useEma: false })
    await refused(plain.pLosses(x, 3, undefined, { context: Tensor.randn([2, 3, 5]) }))
  })
})
