// The network by patches, in losses, gradients, training and every sampler: against patches that are cut, given to it and put together here.
import assert from 'node:assert/strict'
import { Patches, parseSplit } from '../../../lib/diffusion/latent/split-input'
import { DDPM, IdentityFirstStage, LatentDiffusion, type LatentDiffusionOptions, Tensor } from '../../../lib/index'
import { assertClose, assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { randomize } from '../fixture'

const unetConfig = {
  ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1, 2] },
  ...{ numResBlocks: 1, attentionResolutions: [2], numHeads: 1 },
}
const settings = { timesteps: 10, device: testDevice, useEma: false, imageSize: 6, channels: 2 }
const splitInputParams = { ks: [4, 2], stride: [2, 2], clipMinWeight: 0.1, tieBraker: true }

const latent = async (o: Partial<LatentDiffusionOptions> = {}) => {
  const model = new LatentDiffusion({ firstStage: new IdentityFirstStage(), unetConfig, ...settings, ...o })
  return (await randomize(model)) as LatentDiffusion
}
const concat = {
  condStage: { encode: async (c: never) => c as Tensor },
  conditioningKey: 'concat' as const,
  condStageKey: 'segmentation',
  unetConfig: { ...unetConfig, inChannels: 3 },
}
const shape = [2, 2, 6, 8]
const [x, noise] = [1, 2].map((seed) => Tensor.randn(shape, { seed }))
const cond = Tensor.randn([2, 1, 6, 8], { seed: 3 })
const t = [3, 7]

describe(`a network by patches on ${testDevice}`, () => {
  it('is the weighted mean of what it says of each', async () => {
    using whole = await latent(concat)
    using model = await latent({ ...concat, splitInputParams })
    const patches = new Patches([6, 8], parseSplit({ ...splitInputParams, ks: [4, 2] }))
    const [images, maps] = [await patches.unfold(x), await patches.unfold(cond)]
    const said: Tensor[] = []
    for (const [i, patch] of images.entries()) said.push(await whole.applyModel(patch, t, maps[i]))
    const expected = await (await patches.fold(said)).data()
    const out = await model.applyModel(x, t, cond)
    assertCloseToScale(await out.data(), expected, 1e-5, 'applyModel')
    const { x0 } = await model.pMeanVariance(x, t, { cond, returnX0: true })
    assertCloseToScale(await x0!.data(), await (await model.predictStartFromNoise(x, t, out)).data(), 1e-5, 'x0')
  })

  it('has losses and gradients, also where blocks are computed again', async () => {
    for (const useCheckpoint of [false, true]) {
      using model = await latent({
        ...{ ...concat, splitInputParams, logvarInit: 0.2 },
        unetConfig: { ...concat.unetConfig, useCheckpoint },
      })
      const { loss, gradients } = await model.lossAndGradients(x, t, noise, { cond })
      const out = await (await model.applyModel(await model.qSample(x, t, noise), t, cond)).data()
      const target = await noise.data()
      const mse = out.reduce((sum, v, i) => sum + (v - target[i]) ** 2 / out.length, 0)
      assert.ok(Math.abs(loss - (mse / Math.exp(0.2) + 0.2)) < 1e-5 * loss)
      const dict = await model.stateDict()
      for (const name of ['input_blocks.0.0.weight', 'out.2.weight', 'middle_block.1.qkv.weight']) {
        const full = `model.diffusion_model.${name}`
        const [start, gradient] = [await dict[full].data(), await gradients[name].data()]
        const direction = await Tensor.randn([start.length], { seed: 5 }).data()
        const at = async (h: number) => {
          const moved = start.map((v, i) => v + h * direction[i])
          await model.loadStateDict({ ...dict, [full]: Tensor.from(moved, dict[full].shape) })
          return (await model.pLosses(x, t, noise, { cond })).loss
        }
        const h = 1e-2
        const slope = ((await at(h)) - (await at(-h))) / (2 * h)
        const expected = gradient.reduce((sum, v, i) => sum + v * direction[i], 0)
        assertClose([slope], [expected], { abs: 2e-3, rel: 2e-2 }, name)
      }
    }
  })

  it('trains, each patch with dropout of its own', async () => {
    const sideBySide = { ks: [4, 4], stride: [4, 4] }
    const network = { ...unetConfig, dropout: 0.5 }
    using model = await latent({ splitInputParams: sideBySide, unetConfig: network })
    using whole = await latent({ unetConfig: network })
    const half = Tensor.randn([1, 2, 4, 4], { seed: 6 })
    const twice = async (tensor: Tensor) => {
      const values = await tensor.data()
      const rows = Array.from({ length: 8 }, (_, i) => [...values.subarray(4 * i, 4 * i + 4)])
      return Tensor.from(Float32Array.from(rows.flatMap((row) => [...row, ...row])), [1, 2, 4, 8])
    }
    const z = Tensor.randn([1, 2, 4, 4], { seed: 7 })
    const lossOf = async (of: LatentDiffusion, image: Tensor, drawn: Tensor) => {
      of.configureOptimizers({ lr: 1e-3 })
      return (await of.trainBatch(image, { t: 3, noise: drawn })).loss
    }
    const [one, two] = [await lossOf(whole, half, z), await lossOf(model, await twice(half), await twice(z))]
    assert.ok(one > 0 && two > 0)
    assert.notEqual(one.toPrecision(4), two.toPrecision(4))
    const evaluated = async (of: LatentDiffusion, image: Tensor, drawn: Tensor) =>
      (await of.eval().pLosses(image, 3, drawn)).loss
    using again = await latent({ splitInputParams: sideBySide, unetConfig: network })
    using wholeAgain = await latent({ unetConfig: network })
    const same = [await evaluated(wholeAgain, half, z), await evaluated(again, await twice(half), await twice(z))]
    assertClose([same[1]], [same[0]], { abs: 0, rel: 1e-5 }, 'without dropout')
  })

  it('is sampled by any sampler, with guidance', async () => {
    using model = await latent({ ...concat, splitInputParams, timesteps: 5 })
    // Four patches.
    const shape = [1, 2, 6, 4]
    const [cond, uncond] = [7, 8].map((seed) => Tensor.randn([1, 1, 6, 4], { seed }))
    const guided = async (xT: Tensor, at: Tensor) => {
      const [given, other] = [await model.applyModel(xT, at, cond), await model.applyModel(xT, at, uncond)]
      const away = await other.data()
      return Tensor.from(
        (await given.data()).map((v, i) => away[i] + 1.5 * (v - away[i])),
        shape,
      )
    }
    using byHand = new DDPM({ ...settings, timesteps: 5, model: guided, clipDenoised: false })
    for (const way of [{}, { sampler: 'ddim', steps: 3, eta: 0.5 }, { sampler: 'dpmsolver++', steps: 4 }] as const) {
      const o = { ...way, seed: 9 }
      const expected = await (await byHand.pSampleLoop(shape, { ...o, clipDenoised: false })).data()
      const plain = { ...o, cond, scoreCorrector: { modifyScore: async (_: object, eT: Tensor) => eT } }
      const given = await model.pSampleLoop(shape, { ...plain, uncond, guidanceScale: 1.5 })
      assertCloseToScale(await given.data(), expected, 1e-4, JSON.stringify(way))
      const drawn = await model.pSampleLoop(shape, { ...o, cond })
      const corrected = await (await model.pSampleLoop(shape, plain)).data()
      assertCloseToScale(await drawn.data(), corrected, 1e-4, 'on the device')
    }
  })

  it('refuses what it can not cut', async () => {
    using model = await latent({ splitInputParams })
    const refuses = (given: Tensor, argument: string) =>
      assert.rejects(model.applyModel(given, 3), { code: 'invalid-argument', argument })
    await refuses(Tensor.randn([1, 2, 6, 7]), 'stride') // the last column would be NaN
    await refuses(Tensor.randn([1, 2, 2, 8]), 'ks')
    await refuses(Tensor.randn([1, 2, 4, 8]), 'tieBraker')
    using odd = await latent({ splitInputParams: { ks: [3, 3], stride: [1, 1] } })
    await assert.rejects(odd.pSampleLoop(shape), { code: 'invalid-argument', argument: 'shape' })
    const told = { ...concat, splitInputParams }
    const unsupported = (o: Partial<LatentDiffusionOptions>, argument: string) =>
      assert.rejects(latent({ ...told, ...o }), { code: 'unsupported', argument })
    await unsupported({ conditioningKey: 'hybrid' }, 'conditioningKey')
    await unsupported({ condStageKey: 'masked_image' }, 'condStageKey')
    await unsupported({ condStageKey: 'coordinates_bbox', conditioningKey: 'crossattn' }, 'condStageKey')
    await unsupported({ model: async (given: Tensor) => given, unetConfig: undefined }, 'model')
  })
})
