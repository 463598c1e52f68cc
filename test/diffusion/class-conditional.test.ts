import assert from 'node:assert/strict'
import type { Core } from '../../lib/diffusion/process/core'
import { withDropout } from '../../lib/diffusion/process/given-condition'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
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
  attentionResolutions: [],
}
const nullClass = 3

/** Three classes and none; all weights random, so that the labels matter. */
async function conditional(options: Partial<DDPMOptions> = {}): Promise<DDPM> {
  const ddpm = new DDPM({
    unetConfig: { ...tinyUnet, numClasses: 4 },
    timesteps: 10,
    device: testDevice,
    nullClass,
    useEma: false,
    ...options,
  })
  return randomize(ddpm)
}

describe('class-conditional models', () => {
  it('the labels reach the network: the recorded output', async () => {
    const fixture = await Fixture.load('unet_scaleshift_updown_class')
    using ddpm = new DDPM({
      unetConfig: camelCase(fixture.config.unet),
      parameterization: 'x0',
      clipDenoised: false,
      device: testDevice,
    })
    await ddpm.loadStateDict(fixture.params())
    const [x, t, y] = [fixture.tensor('in/x'), fixture.integers('in/t'), fixture.tensor('in/y')]
    const { modelMean } = await ddpm.pMeanVariance(x, t, { y })
    const { posteriorMean } = await ddpm.qPosterior(fixture.tensor('out/out'), x, t)
    assertCloseToScale(await modelMean.data(), await posteriorMean.data(), 1e-4, 'model mean')
  })

  it('guidance goes from the unconditional prediction through the conditional one and beyond', async () => {
    using ddpm = await conditional({ clipDenoised: false })
    const draw = async (options: object) =>
      (await ddpm.sample({ batchSize: 3, seed: 4, sampler: 'ddim', steps: 1, ...options })).data()
    const classLabels = [0, 1, 2]
    const [c, u] = [await draw({ classLabels }), await draw({ classLabels: nullClass })]
    assert.notDeepEqual(c, u)
    assertSameBits(await draw({ classLabels, guidanceScale: 1 }), c, 'scale 1')
    // One step of DDIM is affine in the prediction.
    for (const guidanceScale of [0, 3]) {
      const expected = u.map((v, i) => v + guidanceScale * (c[i] - v))
      assertCloseToScale(await draw({ classLabels, guidanceScale }), expected, 1e-5, `scale ${guidanceScale}`)
    }
  })

  it('image i has its own label in any batch', async () => {
    using ddpm = await conditional({ deterministic: true })
    const options = { seed: 1, guidanceScale: 2 }
    const both = await (await ddpm.sample({ ...options, batchSize: 2, classLabels: [1, 2] })).data()
    const second = await ddpm.sample({ ...options, batchSize: 1, sampleOffset: 1, classLabels: 2 })
    assertSameBits(both.slice(both.length / 2), await second.data(), 'the second image')
  })

  it('losses and gradients depend on the labels; those of a class that is absent are zero', async () => {
    using ddpm = await conditional()
    const [x, noise] = [Tensor.randn([2, 2, 4, 4]), Tensor.randn([2, 2, 4, 4], { seed: 1 })]
    const { loss, gradients } = await ddpm.lossAndGradients(x, [3, 7], noise, { y: [0, 2] })
    assert.equal(loss, (await ddpm.pLosses(x, [3, 7], noise, { y: [0, 2] })).loss)
    assert.notEqual(loss, (await ddpm.pLosses(x, [3, 7], noise, { y: [2, 0] })).loss)
    const table = gradients['label_emb.weight']
    const rows = await table.data()
    const size = table.shape[1]
    const used = [0, 1, 2, 3].map((c) => rows.slice(c * size, (c + 1) * size).some((v) => v !== 0))
    assert.deepEqual(used, [true, false, true, false])
  })

  it('classDropout 1 trains the null class alone, 0 the given ones', async () => {
    const [x, noise] = [Tensor.randn([4, 2, 4, 4]), Tensor.randn([4, 2, 4, 4], { seed: 1 })]
    const lossOf = async (classDropout: number, y: number) => {
      using ddpm = await conditional({ classDropout })
      ddpm.configureOptimizers({ lr: 0 })
      return (await ddpm.trainBatch(x, { t: [1, 3, 5, 7], noise, y })).loss
    }
    assert.equal(await lossOf(1, 0), await lossOf(0, nullClass))
    assert.notEqual(await lossOf(0, 0), await lossOf(0, nullClass))
  })

  it('drops as many labels as it should, the same ones however the batch is divided', async () => {
    const core = { settings: { nullClass, classDropout: 0.25 } } as unknown as Core
    const n = 4000
    const droppedOf = async (count: number, sampleOffset: number) =>
      (await withDropout(core, { y: new Int32Array(count).fill(1) }, { seed: 5, step: 2, sampleOffset })).y!
    const dropped = await droppedOf(n, 0)
    const fraction = dropped.filter((y) => y === nullClass).length / n
    assertClose([fraction], [0.25], { abs: 4 * Math.sqrt((0.25 * 0.75) / n), rel: 0 }, 'dropped')
    assert.deepEqual(await droppedOf(100, 300), dropped.slice(300, 400))
  })

  it('a batch names its labels', async () => {
    using ddpm = await conditional()
    ddpm.configureOptimizers({ lr: 1e-3 })
    const batch = { image: Tensor.randn([2, 4, 4, 2]), class_label: Tensor.from(Int32Array.of(0, 2)) }
    await ddpm.trainingStep(batch)
    assert.ok(Number.isFinite((await ddpm.sharedStep(batch)).loss))
    assert.ok(Number.isFinite((await ddpm.validationStep(batch))['val/loss']))
    assert.deepEqual((await ddpm.logImages(batch, { N: 1 })).samples?.shape, [1, 2, 4, 4])
    await assert.rejects(ddpm.trainingStep({ image: batch.image }), { argument: 'y' })
  })

  it('refuses labels that do not fit', async () => {
    using ddpm = await conditional()
    const x = Tensor.randn([2, 2, 4, 4])
    const rejected = (promise: Promise<unknown>, argument: string) =>
      assert.rejects(promise, { code: 'invalid-argument', argument })
    await rejected(ddpm.pSample(x, 0), 'y')
    await rejected(ddpm.pSample(x, 0, { y: 4 }), 'y')
    await rejected(ddpm.pSample(x, 0, { y: [0, 1, 2] }), 'y')
    await rejected(ddpm.pLosses(x, 0, undefined, { y: -1 }), 'y')
    await rejected(ddpm.trainBatch(x, { y: [0.5, 1] }), 'y')
    await rejected(ddpm.sample({ batchSize: 1 }), 'classLabels')
    await rejected(ddpm.sample({ batchSize: 1, classLabels: 7 }), 'classLabels')
    using plain = new DDPM({ unetConfig: tinyUnet, device: testDevice })
    await rejected(plain.pSample(x, 0, { y: 0 }), 'y')
    await rejected(plain.sample({ batchSize: 1, guidanceScale: 2 }), 'guidanceScale')
    using without = new DDPM({ unetConfig: { ...tinyUnet, numClasses: 3 }, device: testDevice })
    const guided = without.sample({ batchSize: 1, classLabels: 0, guidanceScale: 2 })
    await assert.rejects(guided, { code: 'not-configured', argument: 'guidanceScale' })
    const make = (options: DDPMOptions) => () => new DDPM({ device: testDevice, ...options })
    assert.throws(make({ unetConfig: { ...tinyUnet, numClasses: 3 }, nullClass: 3 }), { argument: 'nullClass' })
    assert.throws(make({ unetConfig: { ...tinyUnet, numClasses: 3 }, classDropout: 0.1 }), { argument: 'classDropout' })
    assert.throws(make({ unetConfig: tinyUnet, nullClass: 0 }), { argument: 'nullClass' })
  })
})
