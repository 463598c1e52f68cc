// What LatentDiffusion's steps have beside DDPM's: correctors, dropped noise, codebooks, conditions with noise, vectors as conditions.
import assert from 'node:assert/strict'
import { conditionNoise } from '../../../lib/diffusion/process/noisy-condition'
import { DDPM, IdentityFirstStage, LatentDiffusion, type LatentDiffusionOptions, Tensor } from '../../../lib/index'
import { VQModelInterface } from '../../../lib/stages/vq-model'
import { assertSameBits as assertBits, assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { randomize } from '../fixture'

const unetConfig = {
  ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [1], numHeads: 1 },
}
const withContext = { ...unetConfig, useSpatialTransformer: true, transformerDepth: 1, contextDim: 6 }
const asGiven = { encode: async (c: never) => c as Tensor }
const settings = { timesteps: 10, logEveryT: 3, device: testDevice, useEma: false, imageSize: 4, channels: 2 }
const told = {
  condStage: asGiven,
  conditioningKey: 'crossattn',
  condStageKey: 'context',
  unetConfig: withContext,
} as const

const latent = async (o: Partial<LatentDiffusionOptions> = {}) =>
  (await randomize(
    new LatentDiffusion({ firstStage: new IdentityFirstStage(), unetConfig, ...settings, ...o }),
  )) as LatentDiffusion

const assertSameBits = (a: Float32Array, b: Float32Array) => assertBits(a, b, 'numbers')
const x = Tensor.randn([2, 2, 4, 4], { seed: 1 })
const noise = Tensor.randn([2, 2, 4, 4], { seed: 2 })
const t = [3, 7]
const zeros = (shape: number[]) => Tensor.from(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)
const codebookStage = (embedDim: number) =>
  new VQModelInterface({
    ...{ embedDim, nEmbed: 7, device: testDevice },
    ddconfig: {
      ...{ zChannels: embedDim, resolution: 4, inChannels: 3, outCh: 3, ch: 32, chMult: [1], numResBlocks: 1 },
      ...{ attnResolutions: [], doubleZ: false },
    },
  })

describe(`steps of LatentDiffusion on ${testDevice}`, () => {
  it('a corrector gets the prediction of the noise after guidance, and what it gives is taken for it', async () => {
    using model = await latent(told)
    const [cond, uncond] = [3, 4].map((seed) => Tensor.randn([2, 3, 6], { seed }))
    const eps = await model.applyModel(x, t, cond)
    const doubled = {
      async modifyScore(of: object, eT: Tensor, xT: Tensor, at: Tensor, c: unknown, kwargs: { by?: number }) {
        assert.equal(of, model)
        assert.equal(c, cond)
        assert.deepEqual([...(await at.values())], t)
        assertSameBits(await xT.data(), await x.data())
        const by = kwargs.by!
        return Tensor.from(
          (await eT.data()).map((v) => by * v),
          eT.shape,
        )
      },
    }
    const o = { cond, scoreCorrector: doubled, correctorKwargs: { by: 2 } }
    const { x0 } = await model.pMeanVariance(x, t, { ...o, returnX0: true })
    const twice = Tensor.from(
      (await eps.data()).map((v) => 2 * v),
      eps.shape,
    )
    assertCloseToScale(await x0!.data(), await (await model.predictStartFromNoise(x, t, twice)).data(), 1e-5, 'x0')
    const same = { modifyScore: async (_: object, eT: Tensor) => eT }
    for (const way of [{}, { sampler: 'ddim', steps: 4, guidanceScale: 3, uncond }] as const) {
      const chain = { ...way, cond, seed: 5 }
      const plain = await model.pSampleLoop([2, 2, 4, 4], chain)
      const corrected = await model.pSampleLoop([2, 2, 4, 4], { ...chain, scoreCorrector: same })
      assertCloseToScale(await corrected.data(), await plain.data(), 1e-4, 'the same')
      const { scoreCorrector, correctorKwargs } = { scoreCorrector: { modifyScore: () => x }, correctorKwargs: {} }
      const other = await model.pSampleLoop([2, 2, 4, 4], { ...chain, scoreCorrector, correctorKwargs })
      assert.notDeepEqual(await other.data(), await plain.data())
    }
    const wrong = { modifyScore: () => zeros([1]) }
    await assert.rejects(model.pSample(x, t, { cond, scoreCorrector: wrong }), { argument: 'model' })
    const scaled = { cond, scoreCorrector: same, guidanceScale: 2, guidanceRescale: 0.5, uncond }
    await assert.rejects(model.pSampleLoop([2, 2, 4, 4], scaled), { code: 'unsupported', argument: 'guidanceRescale' })
    using ofStart = await latent({ parameterization: 'x0' })
    await assert.rejects(ofStart.pSample(x, t, { scoreCorrector: same }), { argument: 'scoreCorrector' })
  })

  it('of the noise, a part is dropped and the rest made up for it', async () => {
    using model = await latent()
    const { sample: plain } = { sample: await model.pSample(x, t, { seed: 3 }) }
    // The noise is drawn on the host here, and on the device there.
    const little = await (await model.pSample(x, t, { seed: 3, noiseDropout: 1e-12 })).data()
    assertCloseToScale(little, await plain.data(), 1e-6, 'nothing is dropped')
    const bare = await (await model.pSample(x, t, { temperature: 0, seed: 3 })).data()
    assertSameBits(await (await model.pSample(x, t, { seed: 3, noiseDropout: 1 })).data(), bare)
    const half = await (await model.pSample(x, t, { noise, noiseDropout: 0.5 })).data()
    const [given, none] = [await (await model.pSample(x, t, { noise })).data(), bare]
    const kept = half.filter((v, i) => Math.abs(v - none[i]) > 1e-6).length
    assert.ok(kept > 16 && kept < 48, `${kept} of 64 are kept`)
    for (const [i, v] of half.entries()) {
      if (Math.abs(v - none[i]) > 1e-6) assert.ok(Math.abs(v - none[i] - 2 * (given[i] - none[i])) < 1e-5)
    }
    const shape = [2, 2, 4, 4]
    const chain = await model.pSampleLoop(shape, { seed: 4, noiseDropout: 1 })
    assertSameBits(await chain.data(), await (await model.pSampleLoop(shape, { seed: 4, temperature: 0 })).data())
    const some = await (await model.pSampleLoop(shape, { seed: 4, noiseDropout: 0.5 })).data()
    const first = await (await model.pSampleLoop([1, 2, 4, 4], { seed: 4, noiseDropout: 0.5, sampleOffset: 1 })).data()
    assertCloseToScale(first, some.subarray(32), 1e-5, 'image 1 alone')
  })

  it('temperatures of progressiveDenoising are by timestep', async () => {
    using model = await latent()
    const shape = [2, 2, 4, 4]
    const [zero, last] = [new Array(10).fill(0), new Array(10).fill(0)]
    last[9] = 1
    const draw = async (temperature: number | number[]) =>
      (await model.progressiveDenoising(shape, { seed: 5, temperature })).samples.data()
    assertSameBits(await draw(zero), await draw(0))
    assert.notDeepEqual(await draw(last), await draw(0))
    await assert.rejects(model.progressiveDenoising(shape, { temperature: [1, 1] }), { argument: 'temperature' })
    const { intermediates } = await model.progressiveDenoising(shape, { seed: 5 })
    assert.equal(intermediates.length, 4) // timesteps 9, 6, 3, 0
  })

  it('codes are those of a first stage that has some, of the latents, with samplers that predict x_0', async () => {
    using none = await latent()
    const o = { quantizeDenoised: true }
    await assert.rejects(none.pSample(x, t, o), { code: 'unsupported', argument: 'quantizeDenoised' })
    await assert.rejects(latent({ firstStage: codebookStage(3) }), { code: 'invalid-argument', argument: 'channels' })
    const three = codebookStage(3)
    const methods = ['encode', 'decode', 'getCodebookEntry', 'codebook'] as const
    const own = Object.fromEntries(methods.map((name) => [name, three[name].bind(three)])) // says no channels
    using wrong = await latent({ firstStage: own as unknown as VQModelInterface })
    await assert.rejects(wrong.pSample(x, t, o), { code: 'invalid-argument', argument: 'quantizeDenoised' })
    await assert.rejects(wrong.pSampleLoop([2, 2, 4, 4], o), { argument: 'quantizeDenoised' })
    using model = await latent({ firstStage: codebookStage(2) })
    const multistep = { ...o, sampler: 'plms', steps: 4 } as const
    await assert.rejects(model.pSampleLoop([2, 2, 4, 4], multistep), { argument: 'quantizeDenoised' })
    const { x0 } = await model.pMeanVariance(x, t, { ...o, returnX0: true })
    const codes = await (model.firstStageModel as VQModelInterface).codebook()
    assert.deepEqual(codes.shape, [7, 2])
    const entries = await codes.data()
    const values = await x0!.data()
    for (let i = 0; i < 16; i++) {
      const [a, b] = [values[i], values[16 + i]]
      assert.ok(Array.from({ length: 7 }, (_, k) => entries[2 * k] === a && entries[2 * k + 1] === b).includes(true))
    }
    await assert.rejects(model.pSample(x, t, { returnCodebookIds: true }), { argument: 'returnCodebookIds' })
  })

  it('conditions get noise in training, by the shortened schedule', async () => {
    const context = Tensor.randn([2, 3, 6], { seed: 8 })
    let tokens = context
    const own = { ...told, condStageKey: 'label', condStage: { encode: async () => tokens } }
    using model = await latent({ ...own, numTimestepsCond: 4 })
    using plain = await latent(own)
    const label = Tensor.from(Int32Array.of(1, 2))
    const image = Tensor.randn([2, 4, 4, 2], { seed: 9 })
    const o = { seed: 6, t }
    const tc = Int32Array.from(t, (at) => model.condIds![at])
    const drawn = conditionNoise(context.shape, { seed: 6, sampleOffset: 0, step: 0 })
    const noisy = await plain.qSample(context, tc, drawn)
    const lossOf = async (of: LatentDiffusion) => (await of.validationStep({ image, label }, o))['val/loss']
    const given = await lossOf(model)
    assert.notEqual(given, await lossOf(plain))
    tokens = noisy
    assert.ok(Math.abs(given - (await lossOf(plain))) < 1e-6)
    tokens = context
    // p_losses adds none; training does.
    const args = [x, t, noise, { cond: context }] as const
    assert.equal((await model.pLosses(...args)).loss, (await plain.pLosses(...args)).loss)
    const trained = async (of: LatentDiffusion) => {
      of.configureOptimizers({ lr: 1e-3 })
      return (await of.trainingStep({ image, label }, { t, noise })).loss
    }
    assert.notEqual(await trained(model), await trained(plain))
    const wrong = [{ numTimestepsCond: 11 }, { numTimestepsCond: 2, conditioningKey: 'hybrid' as const }]
    for (const own of wrong) await assert.rejects(latent({ ...told, ...own }), { argument: 'numTimestepsCond' })
    await assert.rejects(latent({ numTimestepsCond: 2 }), { argument: 'numTimestepsCond' })
    const lonely = { cond: context, condNoise: () => context }
    await assert.rejects(plain.pSampleLoop([2, 2, 4, 4], lonely), { argument: 'condNoise' })
  })

  it("with 'adm', a vector is told to a network that takes one", async () => {
    const network = { ...unetConfig, vectorDim: 5 }
    using model = await latent({ condStage: asGiven, conditioningKey: 'adm', unetConfig: network })
    using pixels = await randomize(new DDPM({ ...settings, unetConfig: network }))
    const [cond, uncond] = [1, 2].map((seed) => Tensor.randn([2, 5], { seed }))
    const o = { seed: 3, guidanceScale: 2 }
    const drawn = await model.pSampleLoop([2, 2, 4, 4], { ...o, cond, uncond, clipDenoised: false })
    const direct = { ...o, vector: cond, negativeVector: uncond, clipDenoised: false }
    assertSameBits(await drawn.data(), await (await pixels.pSampleLoop([2, 2, 4, 4], direct)).data())
    const step = { clipDenoised: false, noise }
    const one = await (await model.pSample(x, t, { ...step, cond })).data()
    assertSameBits(one, await (await pixels.pSample(x, t, { ...step, vector: cond })).data())
  })

  it('what does not fit is refused before anything is computed', async () => {
    using model = await latent({
      ...{ condStage: asGiven, conditioningKey: 'concat', condStageKey: 'map' },
      unetConfig: { ...unetConfig, inChannels: 4 },
    })
    const shape = [2, 2, 4, 4]
    const cond = Tensor.randn(shape)
    const seen: number[] = []
    const onStep = () => seen.push(1)
    const refuses = (o: object, argument: string) =>
      assert.rejects(model.pSampleLoop(shape, { cond, onStep, ...o }), { code: 'invalid-argument', argument })
    await refuses({ image: x, mask: zeros([2, 1, 2, 2]) }, 'mask')
    await refuses({ image: zeros([2, 2, 8, 8]), mask: zeros([2, 1, 4, 4]) }, 'image')
    await refuses({ cond: Tensor.randn([2, 2, 8, 8]) }, 'concat')
    await refuses({ imageNoise: () => x }, 'mask')
    await refuses({ noiseDropout: 2 }, 'noiseDropout')
    await assert.rejects(model.pSample(x, t, { cond: Tensor.randn([2, 2, 8, 8]) }), { argument: 'concat' })
    await assert.rejects(model.pLosses(x, t, noise, { cond: Tensor.randn([2, 2, 2, 2]) }), { argument: 'concat' })
    assert.deepEqual(seen, [])
  })
})
