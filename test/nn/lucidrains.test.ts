// LucidrainsUNet against denoising-diffusion-pytorch's Unet: output, loss and all gradients.
import assert from 'node:assert/strict'
import { LucidrainsUNet } from '../../lib/nn/lucidrains/unet'
import { testedBackends } from '../support/run-graph'
import { checkGolden, checkGoldenOutput } from './check-golden'
import { Golden } from './golden'

async function open() {
  const golden = await Golden.open('lucidrains_unet.safetensors')
  const options = golden.unetOptions({ imageSize: 16 }) as object
  const unet = new LucidrainsUNet({ ...options, architecture: 'lucidrains' } as never)
  return { golden, unet, weights: await golden.parameters(() => true) }
}

for (const backend of testedBackends) {
  it(`LucidrainsUNet on ${backend}: output, loss and gradients are PyTorch's`, async () => {
    const { golden, unet, weights } = await open()
    await checkGolden(backend, golden, unet, weights)
    await checkGoldenOutput(backend, golden, unet, weights)
  })
}

describe('LucidrainsUNet', () => {
  it('has the names and shapes of the state dict, which comes back to the bit', async () => {
    const { unet, weights } = await open()
    const { flat } = await unet.parameters.fromStateDict(weights)
    const again = unet.parameters.toStateDict(flat)
    assert.deepEqual(Object.keys(again).sort(), Object.keys(weights).sort())
    for (const [name, tensor] of Object.entries(again)) {
      assert.deepEqual(tensor.shape, weights[name].shape, name)
      assert.deepEqual(await tensor.data(), await weights[name].data(), name)
    }
  })

  it('is made again by its options', async () => {
    const { unet } = await open()
    assert.deepEqual(new LucidrainsUNet(unet.options).options, unet.options)
  })

  it("has the defaults of Unet's arguments", () => {
    const { options } = new LucidrainsUNet({ architecture: 'lucidrains', dim: 8 })
    assert.deepEqual(options.dimMults, [1, 2, 4, 8])
    assert.deepEqual(options.fullAttn, [false, false, false, true])
    assert.deepEqual([options.attnHeads, options.attnDimHead], [Array(4).fill(4), Array(4).fill(32)])
    assert.deepEqual([options.initDim, options.channels, options.outDim, options.dropout], [8, 3, 3, 0])
  })

  for (const name of ['learnedSinusoidalCond', 'randomFourierFeatures']) {
    it(`refuses ${name} by its name`, () => {
      assert.throws(() => new LucidrainsUNet({ architecture: 'lucidrains', dim: 8, [name]: true }), {
        code: 'unsupported',
        argument: name,
      })
    })
  }

  it('refuses lists of another length than there are levels, and odd channels', () => {
    const make = (o: object) => () => new LucidrainsUNet({ architecture: 'lucidrains', dim: 8, dimMults: [1, 2], ...o })
    for (const name of ['attnHeads', 'attnDimHead'] as const) {
      assert.throws(make({ [name]: [4] }), { code: 'invalid-argument', argument: name })
    }
    assert.throws(make({ fullAttn: [true] }), { code: 'invalid-argument', argument: 'fullAttn' })
    assert.throws(make({ dim: 7 }), { code: 'invalid-argument', argument: 'dim' })
    assert.throws(make({ imageSize: 9 }), { code: 'invalid-argument', argument: 'imageSize' })
    assert.throws(make({ dimMult: [1] }), { code: 'unknown-option' })
  })
})
