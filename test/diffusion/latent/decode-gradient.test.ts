// differentiableDecodeFirstStage: its gradients against finite differences of the images, whole and by patches, through a codebook or not.
import assert from 'node:assert/strict'
import { IdentityFirstStage, type LatentDiffusion, Tensor } from '../../../lib/index'
import { AutoencoderKL } from '../../../lib/stages/autoencoder-kl'
import { assertClose, assertCloseToScale, assertSameBits } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture } from '../fixture'
import { goldenLatent } from './golden-latent'

type Options = Parameters<LatentDiffusion['differentiableDecodeFirstStage']>[1]

const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i], 0)

/** The slope of the images times `upstream` in a direction, by both. */
async function slopes(model: LatentDiffusion, z: Tensor, options?: Options): Promise<[number, number]> {
  const { images, backward } = await model.differentiableDecodeFirstStage(z, options)
  assertSameBits(await images.data(), await (await model.decodeFirstStage(z, options)).data(), 'images')
  const upstream = Tensor.randn(images.shape, { seed: 1 })
  const direction = await Tensor.randn(z.shape, { seed: 2 }).data()
  const [start, gradient, weights] = [await z.data(), await (await backward(upstream)).data(), await upstream.data()]
  const at = async (h: number) => {
    const moved = Tensor.from(
      start.map((v, i) => v + h * direction[i]),
      z.shape,
    )
    return dot(await (await model.decodeFirstStage(moved, options)).data(), weights)
  }
  const h = 4e-3
  return [dot(gradient, direction), ((await at(h)) - (await at(-h))) / (2 * h)]
}

describe(`gradients of the first stage's decoder on ${testDevice}`, () => {
  it('AutoencoderKL', async () => {
    const fixture = await Fixture.load('ldm/ldm_kl_crossattn')
    using model = await goldenLatent(fixture, testDevice)
    const [given, measured] = await slopes(model, fixture.tensor('in/z'))
    assertClose([given], [measured], { abs: 0, rel: 1e-2 }, 'slope')
    const { backward } = await model.differentiableDecodeFirstStage(fixture.tensor('in/z'))
    await assert.rejects(backward(Tensor.randn([2, 3, 8, 8])), { code: 'invalid-argument', argument: 'gradient' })
  })

  it('VQModelInterface: as it is, and straight through the codebook', async () => {
    const fixture = await Fixture.load('ldm/ldm_vq_concat')
    using model = await goldenLatent(fixture, testDevice)
    const z = fixture.tensor('in/z')
    const [given, measured] = await slopes(model, z, { forceNotQuantize: true })
    assertClose([given], [measured], { abs: 0, rel: 1e-2 }, 'slope')
    const upstream = Tensor.randn([2, 3, 16, 16], { seed: 3 })
    const through = await (await model.differentiableDecodeFirstStage(z)).backward(upstream)
    const stage = model.firstStageModel as unknown as { quantize(h: Tensor): Promise<{ quant: Tensor }> }
    const divided = Tensor.from(
      (await z.data()).map((v) => v / model.scaleFactor),
      z.shape,
    )
    const { quant } = await stage.quantize(divided)
    const codes = Tensor.from(
      (await quant.data()).map((v) => v * model.scaleFactor),
      z.shape,
    )
    const atCodes = await model.differentiableDecodeFirstStage(codes, { forceNotQuantize: true })
    assertCloseToScale(await through.data(), await (await atCodes.backward(upstream)).data(), 1e-4, 'at the codes')
    const ids = Tensor.from(fixture.integers('in/ids'), fixture.shape('in/ids'))
    const ofCodes = await model.differentiableDecodeFirstStage(ids, { predictCids: true })
    await assert.rejects(ofCodes.backward(upstream), { code: 'unsupported', argument: 'predictCids' })
  })

  it('by patches', async () => {
    const fixture = await Fixture.load('ldm/ldm_split')
    const [{ split_input_params: params }] = fixture.config.cases
    const splitInputParams = { ks: params.ks, stride: params.stride, vqf: params.vqf, patchDistributedVq: true }
    using model = await goldenLatent(fixture, testDevice, { splitInputParams })
    const [given, measured] = await slopes(model, fixture.tensor('in/z'), { forceNotQuantize: true })
    assertClose([given], [measured], { abs: 0, rel: 1e-2 }, 'slope')
  })

  it('of no network, and in tiles', async () => {
    const x = Tensor.randn([1, 2, 4, 4])
    assert.equal(await new IdentityFirstStage().decodeGradient(x, x), x)
    using tiled = new AutoencoderKL({
      ...{ embedDim: 2, useTiling: true, tileSampleMinSize: 8, device: testDevice },
      ddconfig: {
        ...{ zChannels: 2, resolution: 16, inChannels: 3, outCh: 3, ch: 32, chMult: [1, 1], numResBlocks: 1 },
        attnResolutions: [],
      },
    })
    const upstream = Tensor.randn([1, 3, 16, 16])
    const z = Tensor.randn([1, 2, 8, 8])
    await assert.rejects(tiled.decodeGradient(z, upstream), { code: 'unsupported', argument: 'useTiling' })
    tiled.enableTiling(false)
    assert.deepEqual((await tiled.decodeGradient(z, upstream)).shape, z.shape)
  })
})
