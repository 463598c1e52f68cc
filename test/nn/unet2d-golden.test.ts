// Skip blocks, Fourier and learned time embeddings, vectors against diffusers' UNet2DModel: output, loss and gradients.
import assert from 'node:assert/strict'
import { unet2DConfig } from '../../lib/checkpoint/diffusers/unet'
import { UNet } from '../../lib/nn/unet/unet'
import { testedBackends } from '../support/run-graph'
import { checkGolden, checkGoldenOutput } from './check-golden'
import { Golden } from './golden'
import { hashedWeights } from './hashed-weights'

const files = ['unet2d_skip_fourier', 'unet2d_ncsnpp', 'unet2d_learned', 'unet2d_identity']

async function open(name: string) {
  const golden = await Golden.open(`${name}.safetensors`)
  const unet = UNet.fromDiffusers(golden.config.unet2d)
  return { golden, unet, weights: hashedWeights(unet.parameters) }
}

for (const backend of testedBackends) {
  describe(`UNet2DModel on ${backend}`, () => {
    for (const name of files) {
      it(`${name}: output, loss and gradients are PyTorch's`, async () => {
        const { golden, unet, weights } = await open(name)
        await checkGolden(backend, golden, unet, weights)
        await checkGoldenOutput(backend, golden, unet, weights)
      })
    }
  })
}

describe('UNet2DModel', () => {
  for (const name of files) {
    it(`${name}: the configuration is written as it was read`, async () => {
      const { golden, unet } = await open(name)
      const written = unet2DConfig(unet.options)
      for (const [field, value] of Object.entries(golden.config.unet2d)) assert.deepEqual(written[field], value, field)
      assert.deepEqual(UNet.fromDiffusers(written).options, unet.options)
    })
  }
})
