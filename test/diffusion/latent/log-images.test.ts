// LatentDiffusion.logImages: each picture is what the methods it is made of give.
import assert from 'node:assert/strict'
import { IdentityFirstStage, LatentDiffusion, makeGrid, Tensor } from '../../../lib/index'
import { assertSameBits } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture, randomize } from '../fixture'
import { goldenLatent } from './golden-latent'

const same = async (a: unknown, b: Tensor, what: string) => {
  assert.ok(a instanceof Tensor, what)
  assert.deepEqual(a.shape, b.shape, what)
  assertSameBits(await a.data(), await b.data(), what)
}

describe(`logImages of LatentDiffusion on ${testDevice}`, () => {
  it('with a codebook and a map as condition: all rows', async () => {
    const fixture = await Fixture.load('ldm/ldm_vq_concat')
    using model = await goldenLatent(fixture, testDevice)
    const batch = { image: fixture.tensor('in/batch_image'), segmentation: fixture.tensor('in/batch_cond') }
    const o = { seed: 3, ddimSteps: 4, nRow: 1, plotDenoiseRows: true }
    const log = await model.logImages(batch, o)
    const expected = ['inputs', 'reconstruction', 'conditioning', 'diffusionRow', 'samples', 'denoiseRow']
    const more = ['samplesX0Quantized', 'samplesInpainting', 'samplesOutpainting', 'mask', 'progressiveRow']
    assert.deepEqual(Object.keys(log).sort(), [...expected, ...more].sort())
    const { x, z, xc, c } = await model.getLatentInput(batch, { seed: 3 })
    await same(log.inputs, x, 'inputs')
    await same(log.reconstruction, await model.decodeFirstStage(z), 'reconstruction')
    await same(log.conditioning, xc as Tensor, 'conditioning')
    const way = { seed: 3, cond: c!, sampler: 'ddim' as const, steps: 4, eta: 1 }
    const drawn = async (own = {}) => model.decodeFirstStage(await model.pSampleLoop(z.shape, { ...way, ...own }))
    await same(log.samples, await drawn(), 'samples')
    await same(log.samplesX0Quantized, await drawn({ quantizeDenoised: true }), 'quantized')
    assert.notDeepEqual(await log.samplesX0Quantized!.data(), await log.samples!.data())
    const mask = log.mask!
    assert.deepEqual(mask.shape, [2, 1, 8, 8])
    const middle = [...(await mask.data()).subarray(0, 64)]
    assert.deepEqual(
      middle,
      middle.map((_, i) => (i % 8 >= 2 && i % 8 < 6 && i >= 16 && i < 48 ? 0 : 1)),
    )
    await same(log.samplesInpainting, await drawn({ image: z, mask }), 'inpainting')
    const outside = Tensor.from(
      (await mask.data()).map((v) => 1 - v),
      mask.shape,
    )
    await same(log.samplesOutpainting, await drawn({ image: z, mask: outside }), 'outpainting')
    // Timesteps 0, 5, 10, 15 and 19 of one image; x_T and the states after each of the 4 steps; predictions of 5 timesteps.
    assert.deepEqual(log.diffusionRow?.shape, [3, 18 + 2, 5 * 18 + 2])
    assert.deepEqual(log.denoiseRow?.shape, [3, 2 * 18 + 2, 5 * 18 + 2])
    assert.deepEqual(log.progressiveRow?.shape, [3, 2 * 18 + 2, 5 * 18 + 2])
    const { intermediates } = await model.progressiveDenoising(z.shape, { seed: 3, cond: c! })
    const decoded: Tensor[] = []
    for (const state of intermediates) decoded.push(await model.decodeFirstStage(state))
    const parts = await Promise.all(decoded.map((picture) => picture.data()))
    const [, ...picture] = decoded[0].shape
    const size = parts[0].length / 2
    const inOrder = [0, 1].flatMap((i) => parts.flatMap((part) => [...part.subarray(i * size, (i + 1) * size)]))
    await same(log.progressiveRow, await makeGrid(Tensor.from(inOrder, [10, ...picture]), 5), 'progressive')
  })

  it('with a posterior and labels as condition: what is asked for alone', async () => {
    const fixture = await Fixture.load('ldm/ldm_kl_crossattn')
    using model = await goldenLatent(fixture, testDevice)
    const labels = Tensor.from(fixture.integers('in/class'))
    const named = { human_label: ['one', 'two'] } as unknown as Record<string, Tensor>
    const batch = { image: fixture.tensor('in/batch_image'), class_label: labels, ...named }
    const log = await model.logImages(batch, { seed: 1, N: 1, ddimSteps: 2, plotProgressiveRows: false })
    assert.deepEqual(log.conditioning, ['one'])
    assert.deepEqual(log.samples?.shape, [1, 3, 16, 16])
    assert.equal(log.samplesX0Quantized, undefined)
    const keys = await model.logImages(batch, { returnKeys: ['reconstruction', 'inputs'], seed: 1 })
    assert.deepEqual(Object.keys(keys).sort(), ['inputs', 'reconstruction'])
    const own = await model.logImages(batch, { ddimSteps: null, returnKeys: ['samples'], seed: 1, N: 1 })
    const { z, c } = await model.getLatentInput(
      {
        image: Tensor.from((await batch.image.data()).slice(0, 768), [1, 16, 16, 3]),
        class_label: Tensor.from(Int32Array.of(fixture.integers('in/class')[0])),
      },
      { seed: 1 },
    )
    const expected = await model.decodeFirstStage(await model.pSampleLoop(z.shape, { seed: 1, cond: c! }))
    await same(own.samples, expected, 'own steps')
    await assert.rejects(model.logImages(batch, { signal: AbortSignal.abort() }), { code: 'aborted' })
    await assert.rejects(model.logImages(batch, { steps: 2, ddimSteps: 2 }), { argument: 'steps' })
  })

  it('a condition of many channels is in colours, a decoded one is a picture', async () => {
    const unetConfig = {
      ...{ imageSize: 4, inChannels: 7, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1] },
      ...{ numResBlocks: 1, attentionResolutions: [] },
    }
    const make = (condStage: object) =>
      randomize(
        new LatentDiffusion({
          ...{ firstStage: new IdentityFirstStage(), unetConfig, timesteps: 4, device: testDevice, channels: 2 },
          ...{ condStage: condStage as never, condStageKey: 'segmentation', conditioningKey: 'concat', useEma: false },
        }),
      ) as Promise<LatentDiffusion>
    const batch = { image: Tensor.randn([2, 4, 4, 2]), segmentation: Tensor.randn([2, 4, 4, 5], { seed: 2 }) }
    const encode = async (c: Tensor) => c
    const o = {
      returnKeys: ['conditioning', 'originalConditioning'] as const,
      sample: false,
      plotProgressiveRows: false,
    }
    using plain = await make({ encode })
    const { conditioning, originalConditioning } = await plain.logImages(batch, o)
    assert.equal(conditioning, undefined)
    assert.deepEqual(originalConditioning?.shape, [2, 3, 4, 4])
    const values = await originalConditioning!.data()
    assert.ok(Math.min(...values) === -1 && Math.max(...values) === 1)
    await same((await plain.logImages(batch, o)).originalConditioning, originalConditioning!, 'the same colours')
    const decoded = Tensor.randn([2, 3, 4, 4], { seed: 5 })
    using withDecode = await make({ encode, decode: async () => decoded })
    await same((await withDecode.logImages(batch, o)).conditioning, decoded, 'decoded')
  })
})
