// A network that is told a vector inside of DDPM: the vector gets to it everywhere, and its shape is checked.
import assert from 'node:assert/strict'
import path from 'node:path'
import { DDPM, type DDPMOptions, type SampleOptions, Tensor } from '../../lib/index'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { temporaryFolder } from '../train/support'
import { randomize } from './fixture'

const unetConfig = {
  ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [] },
}
const settings: DDPMOptions = { timesteps: 10, device: testDevice, useEma: false, deterministic: true }

const withVector = (options: Partial<DDPMOptions> = {}) =>
  randomize(new DDPM({ unetConfig: { ...unetConfig, vectorDim: 5 }, ...settings, ...options }))

const draw = async (ddpm: DDPM, o: Omit<SampleOptions, 'returnIntermediates'>) => (await ddpm.sample(o)).data()

describe('models with a vector', () => {
  it('it reaches losses, gradients, training, sampling and bits/dim', async () => {
    using ddpm = await withVector()
    const [x, noise] = [1, 2].map((seed) => Tensor.randn([2, 2, 4, 4], { seed }))
    const vectors = [3, 4].map((seed) => Tensor.randn([2, 5], { seed }))
    const differ = async (what: string, compute: (vector: Tensor) => Promise<unknown>) => {
      const [first, second, again] = [await compute(vectors[0]), await compute(vectors[1]), await compute(vectors[0])]
      assert.notDeepEqual(first, second, what)
      assert.deepEqual(first, again, what)
    }
    await differ('loss', async (vector) => (await ddpm.pLosses(x, 3, noise, { vector })).loss)
    await differ('gradients', async (vector) => {
      const { gradients } = await ddpm.lossAndGradients(x, 3, noise, { vector })
      return gradients['label_emb.0.0.weight'].data()
    })
    await differ('mean', async (vector) => (await ddpm.pMeanVariance(x, 3, { vector })).modelMean.data())
    await differ('step', async (vector) => (await ddpm.pSample(x, 3, { vector, noise })).data())
    await differ('samples', async (vector) => draw(ddpm, { batchSize: 2, seed: 1, vector }))
    await differ('thresholded', async (vector) => {
      using own = await withVector({ thresholding: { ratio: 0.9, max: 2 } })
      return await draw(own, { batchSize: 2, seed: 1, vector, sampler: 'ddim', steps: 2 })
    })
    await differ('bits/dim', async (vector) => (await ddpm.calcBpd(x, { vector, seed: 1 })).totalBpd.data())
  })

  it('a batch names its vectors', async () => {
    using ddpm = await withVector({ vectorKey: 'clip' })
    ddpm.configureOptimizers({ lr: 1e-3 })
    const clip = Tensor.randn([2, 5])
    const image = Tensor.randn([2, 4, 4, 2], { seed: 5 })
    const seed = 7
    const { 'val/loss': one } = await ddpm.validationStep({ image, clip }, { seed })
    const { 'val/loss': other } = await ddpm.validationStep(
      { image, clip: Tensor.randn([2, 5], { seed: 9 }) },
      { seed },
    )
    assert.notEqual(one, other)
    const before = await ddpm.stateDict()
    assert.ok((await ddpm.trainingStep({ image, clip })).loss > 0)
    const name = 'model.diffusion_model.label_emb.0.0.weight'
    assert.notDeepEqual(await (await ddpm.stateDict())[name].data(), await before[name].data())
    const { samples } = await ddpm.logImages({ image, clip }, { N: 2 })
    assert.deepEqual(samples?.shape, [2, 2, 4, 4])
    await assert.rejects(ddpm.trainingStep({ image }), { code: 'invalid-argument', argument: 'vector' })
  })

  it('an image does not depend on the others of its batch, nor on checkpointing of its network', async () => {
    using ddpm = await withVector()
    const vector = Tensor.randn([2, 5], { seed: 3 })
    const both = await draw(ddpm, { batchSize: 2, seed: 1, vector })
    const second = Tensor.from((await vector.data()).slice(5), [1, 5])
    const alone = await draw(ddpm, { batchSize: 1, seed: 1, sampleOffset: 1, vector: second })
    assertSameBits(both.slice(32), alone, 'image 1')
    const lossOf = async (useCheckpoint: boolean) => {
      using own = await withVector({ unetConfig: { ...unetConfig, vectorDim: 5, useCheckpoint } })
      own.configureOptimizers({ lr: 1e-3 })
      const x = Tensor.randn([2, 2, 4, 4])
      await own.trainBatch(x, { vector })
      return (await own.trainBatch(x, { vector })).loss
    }
    assert.equal(await lossOf(true), await lossOf(false))
  })

  it('guidance goes away from zeros, or from a negative vector of one sample or of each', async () => {
    using ddpm = await withVector({ clipDenoised: false })
    const path: SampleOptions & { returnIntermediates?: false } = {
      ...{ sampler: 'ddim', steps: 1, timestepSpacing: 'trailing', seed: 3, batchSize: 2 },
      vector: Tensor.randn([2, 5]),
    }
    const negative = Tensor.randn([1, 5], { seed: 9 })
    const values = await negative.data()
    const all = Tensor.from([...values, ...values], [2, 5])
    const zeros = Tensor.from(new Float32Array(10), [2, 5])
    const given = await draw(ddpm, path)
    for (const [negativeVector, other] of [
      [undefined, zeros] as const,
      [negative, all] as const,
      [all, all] as const,
    ]) {
      const away = await draw(ddpm, { ...path, vector: other })
      assert.notDeepEqual(away, given)
      const found = await draw(ddpm, { ...path, negativeVector, guidanceScale: 3 })
      assertCloseToScale(
        found,
        away.map((v, i) => v + 3 * (given[i] - v)),
        1e-5,
        'guided',
      )
    }
    assertSameBits(await draw(ddpm, { ...path, guidanceScale: 1 }), given, 'scale 1')
    const refused = (o: object) =>
      assert.rejects(draw(ddpm, { ...path, guidanceScale: 2, ...o }), { argument: 'negativeVector' })
    await refused({ negativeVector: Tensor.randn([2, 4]) })
    await refused({ negativeVector: Tensor.randn([3, 5]) })
    using guide = await withVector({ unetConfig: { ...unetConfig, modelChannels: 16, vectorDim: 5 } })
    await refused({ negativeVector: negative, guidingModel: guide })
    const autoguided = await draw(ddpm, { ...path, guidanceScale: 2, guidingModel: guide })
    assert.notDeepEqual(autoguided, given)
  })

  it('vectorDropout 1 trains zeros alone, 0 the given vector', async () => {
    const [x, noise] = [Tensor.randn([4, 2, 4, 4]), Tensor.randn([4, 2, 4, 4], { seed: 1 })]
    const [vector, zeros] = [Tensor.randn([4, 5]), Tensor.from(new Float32Array(20), [4, 5])]
    const lossOf = async (vectorDropout: number, given: Tensor) => {
      using ddpm = await withVector({ vectorDropout })
      ddpm.configureOptimizers({ lr: 0 })
      return (await ddpm.trainBatch(x, { t: [1, 3, 5, 7], noise, vector: given })).loss
    }
    assert.equal(await lossOf(1, vector), await lossOf(0, zeros))
    assert.notEqual(await lossOf(0, vector), await lossOf(0, zeros))
  })

  it('one that is missing, of a wrong shape, or of a model that takes none is refused', async () => {
    using ddpm = await withVector()
    const x = Tensor.randn([2, 2, 4, 4])
    const refused = (promise: Promise<unknown>, argument = 'vector') =>
      assert.rejects(promise, { name: 'DiffusionError', code: 'invalid-argument', argument })
    await refused(ddpm.pLosses(x, 3))
    await refused(ddpm.sample({ batchSize: 2 }))
    await refused(ddpm.pSample(x, 3, { vector: Tensor.randn([1, 5]) }))
    await refused(ddpm.pSample(x, 3, { vector: Tensor.randn([2, 4]) }))
    await refused(ddpm.pSample(x, 3, { vector: Tensor.from(new Int32Array(10), [2, 5]) }))
    using plain = new DDPM({ unetConfig, ...settings })
    await refused(plain.pLosses(x, 3, undefined, { vector: Tensor.randn([2, 5]) }))
    await refused(plain.sample({ guidanceScale: 2 }), 'guidanceScale')
    assert.throws(() => new DDPM({ unetConfig, ...settings, vectorDropout: 0.1 }), { argument: 'vectorDropout' })
    using augmented = await withVector({ unetConfig: { ...unetConfig, numClasses: 3, vectorEmbedding: 'augment' } })
    await refused(augmented.sample({ classLabels: 1, guidanceScale: 2, negativeVector: x }), 'negativeVector')
  })

  it('one of augmentation may be left out', async () => {
    using ddpm = await withVector({ unetConfig: { ...unetConfig, vectorEmbedding: 'augment' } })
    const zeros = Tensor.from(new Float32Array(18), [2, 9])
    const none = await draw(ddpm, { batchSize: 2, seed: 1 })
    assertSameBits(await draw(ddpm, { batchSize: 2, seed: 1, vector: zeros }), none, 'zeros')
    assert.notDeepEqual(await draw(ddpm, { batchSize: 2, seed: 1, vector: Tensor.randn([2, 9]) }), none)
    const x = Tensor.randn([2, 2, 4, 4])
    const { gradients } = await ddpm.lossAndGradients(x, 3)
    assert.ok((await gradients['map_augment.weight'].data()).every((v) => v === 0))
  })

  it('low-rank updates of its layers, and the model as a copy', async () => {
    using ddpm = await withVector({ lora: { rank: 2, targets: ['label_emb.*'] } })
    ddpm.configureOptimizers({ lr: 1e-2 })
    const [x, vector] = [Tensor.randn([2, 2, 4, 4]), Tensor.randn([2, 5])]
    for (let i = 0; i < 3; i++) await ddpm.trainBatch(x, { vector })
    using merged = await ddpm.merged()
    const o = { batchSize: 2, seed: 1, vector }
    assertCloseToScale(await draw(merged, o), await draw(ddpm, o), 1e-4, 'merged')
  })

  const folder = temporaryFolder()

  it("a folder of a UNet2DModel with class_embed_type 'identity'", async () => {
    const config = { ...unetConfig, layout: 'diffusers' as const, vectorEmbedding: 'identity' as const }
    using ddpm = await withVector({ unetConfig: config })
    await ddpm.savePretrained(path.join(folder, 'identity'))
    using opened = await DDPM.fromPretrained(path.join(folder, 'identity'), { device: testDevice, deterministic: true })
    assert.deepEqual(opened.network?.vectorDim, 32)
    const o = { batchSize: 2, seed: 1, vector: Tensor.randn([2, 32]) }
    assertSameBits(await draw(opened, o), await draw(ddpm, o), 'samples')
    await assert.rejects(draw(opened, { batchSize: 2 }), { argument: 'vector' })
  })
})
