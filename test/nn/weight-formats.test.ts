/** Networks whose weights are held in 16 or 8 bits: how far their outputs are from PyTorch's, and the bits of float32 weights of the same values. */
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import { type WeightFormat, weightFormats } from '../../lib/native'
import { LucidrainsUNet } from '../../lib/nn/lucidrains/unet'
import type { Network } from '../../lib/nn/network'
import { UNet } from '../../lib/nn/unet/unet'
import { type StateDict, Weights } from '../../lib/nn/weights'
import { assertSameBits, largestOf } from '../support/compare'
import { devicesOfFormat, testDevice } from '../support/devices'
import { runGraph, winogradUpsample } from '../support/run-graph'
import { addUNet, feedsOf, goldenFiles, openUNet } from './check-golden'
import { Golden, readJson, stateDictOf } from './golden'
import { hashedWeights } from './hashed-weights'

interface Opened {
  readonly golden: Golden
  readonly unet: Network
  readonly weights: StateDict
}

const networks: Readonly<Record<string, () => Promise<Opened>>> = {
  ...Object.fromEntries(goldenFiles.map((name) => [name, () => openUNet(name, { imageSize: 16 })])),
  ...Object.fromEntries(
    ['unet2d_skip_fourier', 'unet2d_ncsnpp', 'unet2d_learned', 'unet2d_identity'].map((name) => [
      name,
      async () => {
        const golden = await Golden.open(`${name}.safetensors`)
        const unet = UNet.fromDiffusers(golden.config.unet2d)
        return { golden, unet, weights: hashedWeights(unet.parameters) }
      },
    ]),
  ),
  diffusers_sd: async () => {
    const golden = await Golden.open('ldm/diffusers_sd.safetensors', (name) =>
      name.replace('out/unet/', 'out/').replace(/^(in|grad_in)\/sample$/, '$1/x'),
    )
    const unet = UNet.fromDiffusers(readJson('ldm/diffusers_sd/unet/config.json'))
    return { golden, unet, weights: await stateDictOf('ldm/diffusers_sd/unet/diffusion_pytorch_model.safetensors') }
  },
  lucidrains_unet: async () => {
    const golden = await Golden.open('lucidrains_unet.safetensors')
    const options = { ...golden.unetOptions({ imageSize: 16 }), architecture: 'lucidrains' }
    return { golden, unet: new LucidrainsUNet(options as never), weights: await golden.parameters(() => true) }
  },
}

/** The network's output, and its weights as they are held. */
async function outputOf(
  backend: DeviceName,
  { golden, unet, weights }: Opened,
  format: WeightFormat,
  forceAlgo?: number,
) {
  unet.parameters.hold(format)
  const held = new Weights(Device.open(backend), unet.parameters, 0)
  await held.write('weights', weights)
  const banks: Record<string, Float32Array> = { weights: await held.bank('weights').read() }
  if (unet.parameters.frozenCount > 0) banks.frozen = await held.bank('frozen').read()
  const dict = await held.read('weights')
  held.release()
  const { out } = await runGraph(
    backend,
    feedsOf(golden),
    (graph, inputs) => ({ out: addUNet(graph, unet, inputs, golden.tensors['in/x'].shape) }),
    { banks, forceAlgo },
  )
  return { out, dict }
}

/** Of the largest output; the worst of these networks have 1.0e-3, 8.1e-3 and 2.7e-2. */
const bounds = { fp16: 1.5e-3, bf16: 1.2e-2, int8: 4e-2 } as const

for (const format of ['fp16', 'bf16', 'int8'] as const) {
  for (const backend of devicesOfFormat(format)) {
    describe(`networks with ${format} weights on ${backend}`, () => {
      for (const [name, open] of Object.entries(networks)) {
        it(name, async () => {
          const opened = await open()
          const { out, dict } = await outputOf(backend, opened, format)
          const wide = await outputOf(backend, { ...(await open()), weights: dict }, 'fp32')
          assertSameBits(out, wide.out, 'out')
          const expected = opened.golden.floats('out/out')
          const error = out.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), 0) / largestOf(expected)
          assert.ok(error <= bounds[format], `${error} of the largest output`)
        })
      }

      for (const forceAlgo of backend === 'cpu' ? [0, 1, 2, winogradUpsample] : []) {
        it(`unet_basic with every convolution that can be by algorithm ${forceAlgo}`, async () => {
          const { out, dict } = await outputOf(backend, await networks.unet_basic(), format, forceAlgo)
          const wide = { ...(await networks.unet_basic()), weights: dict }
          assertSameBits(out, (await outputOf(backend, wide, 'fp32', forceAlgo)).out, 'out')
        })
      }
    })
  }
}

describe('a device that does not take a format', () => {
  it('refuses it', async () => {
    const { weightFormats: has } = Device.open(testDevice).info()
    for (const format of weightFormats.filter((name) => !has.includes(name))) {
      const opened = await networks.unet_basic()
      await assert.rejects(outputOf(testDevice, opened, format), { code: 'unsupported', argument: 'weights' })
    }
  })
})
