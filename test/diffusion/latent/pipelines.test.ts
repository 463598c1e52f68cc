// Folders of diffusers' pipelines with a first stage: from the prompt to the picture, as diffusers draws it.
import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { LatentDiffusion, Tensor } from '../../../lib/index'
import { assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture } from '../fixture'

const folder = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'ldm')
const chain = 1e-3

/** diffusers' pictures are in [0, 1]. */
const picture = (values: Float32Array) => values.map((v) => Math.min(Math.max(v / 2 + 0.5, 0), 1))

/** Image to image: a sample of the image's latents with the first noise, noised with the second as at the first timestep. */
async function beginning(model: LatentDiffusion, fixture: Fixture, { strength }: { strength: number }) {
  const noise = (i: number) => fixture.row('in/img2img/noise', i)
  const encoded = await model.encodeFirstStage(fixture.tensor('in/image'))
  const image = await model.getFirstStageEncoding(encoded, { noise: noise(0) })
  const [t] = fixture.integers('out/img2img/timesteps')
  return { image, strength, xT: await model.qSample(image, t, noise(1)) }
}

describe(`pipelines on ${testDevice}`, () => {
  it('StableDiffusionPipeline: prompts, guidance, schedulers, image to image', async () => {
    const fixture = await Fixture.load('ldm/diffusers_sd')
    using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_sd'), { device: testDevice })
    assert.deepEqual(model.warnings(), [])
    const { cases, prompts } = fixture.config
    for (const c of cases) {
      const { id, scheduler, num_inference_steps: steps, guidance_scale: guidanceScale, eta } = c
      const noise = (i: number) => fixture.row(`in/${id}/noise`, i)
      const from = id === 'img2img' ? await beginning(model, fixture, c) : { xT: fixture.tensor('in/latents') }
      const options = {
        prompt: prompts[0],
        scheduler,
        steps,
        ...(guidanceScale > 1 && { guidanceScale }),
        ...(c.guidance_rescale && { guidanceRescale: c.guidance_rescale }),
        ...(eta && { eta, noise }),
        ...from,
      }
      const latents = await model.sample({ ...options, outputType: 'latent' })
      assertCloseToScale(await latents.data(), fixture.numbers(`out/${id}/final`), chain, `${id} final`)
      const images = await model.decodeFirstStage(latents)
      assertCloseToScale(await images.data(), fixture.numbers(`out/${id}/decoded`), chain, `${id} decoded`)
      assertCloseToScale(picture(await images.data()), fixture.numbers(`out/${id}/images`), chain, `${id} images`)
    }
  })

  it('LDMPipeline: an unconditional model with a codebook', async () => {
    const fixture = await Fixture.load('ldm/diffusers_ldm')
    using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_ldm'), { device: testDevice })
    const { num_inference_steps: steps, batch_size: batchSize } = fixture.config.pipeline
    const images = await model.sample({ batchSize, steps, xT: fixture.tensor('in/pipeline/x_T') })
    const [n, h, w, c] = fixture.shape('out/pipeline/images_nhwc')
    const expected = fixture.numbers('out/pipeline/images_nhwc')
    const actual = picture(await images.data())
    const nhwc = expected.map((_, i) => {
      const [channel, pixel] = [i % c, Math.floor(i / c)]
      const [sample, place] = [Math.floor(pixel / (h * w)), pixel % (h * w)]
      return actual[(sample * c + channel) * h * w + place]
    })
    assert.equal(n, batchSize)
    assertCloseToScale(nhwc, expected, chain, 'images')
  })

  it('image i of a prompt is the same in any batch, and one prompt is for all', async () => {
    using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_sd'), {
      device: testDevice,
      deterministic: true,
    })
    const o = { steps: 3, guidanceScale: 4, seed: 3 }
    const two = await (await model.sample({ ...o, prompt: 'red cat', batchSize: 2 })).data()
    const one = await (await model.sample({ ...o, prompt: ['red cat'], sampleOffset: 1 })).data()
    assert.deepEqual(two.slice(one.length), one)
    const other = await (await model.sample({ ...o, prompt: 'the', sampleOffset: 1 })).data()
    assert.notDeepEqual(other, one)
    const same = Tensor.randn([1, 3, 16, 16], { seed: 4 })
    const pixels = [...(await same.data())]
    const begun = { ...o, prompt: 'red cat', sampler: 'ddim', strength: 0.7 } as const
    const both = { ...begun, batchSize: 2, image: Tensor.from([...pixels, ...pixels], [2, 3, 16, 16]) }
    const second = await (await model.sample({ ...begun, image: same, sampleOffset: 1 })).data()
    assert.deepEqual((await (await model.sample(both)).data()).slice(second.length), second)
  })

  it('its stages give their memory back, and take it again', async () => {
    using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_sd'), { device: testDevice })
    const draw = async () => (await model.sample({ prompt: 'red cat', steps: 2, seed: 1 })).data()
    const first = await draw()
    const stages = [model.firstStageModel, model.condStageModel] as unknown as { loaded: boolean }[]
    assert.deepEqual(
      stages.map(({ loaded }) => loaded),
      [true, true],
    )
    await model.offload()
    assert.deepEqual(
      stages.map(({ loaded }) => loaded),
      [false, false],
    )
    assert.deepEqual(await draw(), first)
  })

  it('an image begins and a mask keeps', async () => {
    using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_sd'), { device: testDevice })
    const image = Tensor.randn([1, 3, 16, 16], { seed: 4 })
    const o = { prompt: 'red cat', steps: 4, sampler: 'ddim', image, seed: 2 } as const
    const same = await (await model.sample({ ...o, strength: 0 })).data()
    const other = await (await model.sample({ ...o, strength: 1 })).data()
    assert.notDeepEqual(same, other)
    const mask = Tensor.wrap(
      Float32Array.from({ length: 256 }, (_, i) => (i % 16 < 8 ? 1 : 0)),
      [1, 1, 16, 16],
    )
    const latents = await model.sample({ ...o, mask, outputType: 'image' })
    assert.deepEqual(latents.shape, [1, 3, 16, 16])
  })

  const refused: readonly (readonly [string, Parameters<LatentDiffusion['sample']>[0], string])[] = [
    ['a height that the first stage does not divide', { prompt: 'cat', height: 17 }, 'height'],
    ['a prompt that is no string', { prompt: 7 as never }, 'prompt'],
    ['a prompt with a condition', { prompt: 'cat', cond: Tensor.randn([1, 77, 32]) }, 'cond'],
    ['neither prompt nor condition', { batchSize: 1 }, 'prompt'],
    ['two prompts for three images', { prompt: ['a', 'b'], batchSize: 3 }, 'prompt'],
    ['a negative prompt alone', { negativePrompt: 'cat' }, 'prompt'],
    [
      'a mask of another size',
      { prompt: 'cat', image: Tensor.randn([1, 3, 16, 16]), mask: Tensor.randn([1, 1, 4, 6]) },
      'mask',
    ],
    ['an image of another size', { prompt: 'cat', image: Tensor.randn([1, 3, 16, 12]), strength: 0.5 }, 'image'],
  ]
  for (const [what, options, argument] of refused) {
    it(`refuses ${what}`, async () => {
      using model = await LatentDiffusion.fromPretrained(path.join(folder, 'diffusers_sd'), { device: testDevice })
      await assert.rejects(model.sample({ steps: 2, ...options }), { name: 'DiffusionError', argument })
      const { loaded } = model.firstStageModel as unknown as { loaded: boolean }
      assert.equal(loaded, false, 'nothing was computed')
    })
  }

  describe('folders that are not whole', () => {
    let copy: string
    beforeEach(async () => {
      copy = await mkdtemp(path.join(os.tmpdir(), 'pipeline-'))
      await cp(path.join(folder, 'diffusers_sd'), copy, { recursive: true })
    })
    afterEach(() => rm(copy, { recursive: true }))

    for (const [part, code] of [
      ['vae', 'not-found'],
      ['tokenizer', 'not-found'],
      ['text_encoder', 'not-found'],
      ['scheduler', 'not-found'],
      ['unet', 'not-found'],
    ] as const) {
      it(`without ${part} in its index`, async () => {
        const file = path.join(copy, 'model_index.json')
        const index = JSON.parse(await readFile(file, 'utf8'))
        delete index[part]
        await writeFile(file, JSON.stringify(index))
        await assert.rejects(LatentDiffusion.fromPretrained(copy, { device: 'cpu' }), { name: 'DiffusionError', code })
      })
    }

    it('a safety checker is left out with a word, a ControlNet is refused', async () => {
      const file = path.join(copy, 'model_index.json')
      const index = JSON.parse(await readFile(file, 'utf8'))
      const with_ = (more: object) => writeFile(file, JSON.stringify({ ...index, ...more }))
      await with_({ safety_checker: ['stable_diffusion', 'StableDiffusionSafetyChecker'] })
      {
        using model = await LatentDiffusion.fromPretrained(copy, { device: 'cpu' })
        assert.match(model.warnings().join(), /safety_checker is left out/)
      }
      await with_({ controlnet: ['diffusers', 'ControlNetModel'] })
      await assert.rejects(LatentDiffusion.fromPretrained(copy, { device: 'cpu' }), {
        code: 'unsupported',
        message: /controlnet/,
      })
    })
  })
})
