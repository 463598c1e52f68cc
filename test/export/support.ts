/** The networks of the golden files, with weights as a bank and the inputs that PyTorch was given. */
import { type Network, UNet } from '../../lib'
import type { StoredTensor } from '../../lib/checkpoint/safetensors'
import { Golden, readJson, stateDictOf } from '../nn/golden'

export interface GoldenNetwork {
  readonly golden: Golden
  readonly network: Network
  readonly weights: Float32Array
  /** Of the inputs and the output, NCHW. */
  readonly shape: readonly number[]
  /** Context tokens, [n, length, channels]; of a network with cross-attention. */
  readonly context?: StoredTensor
}

export const goldenNames = [
  'unet_basic',
  'unet_crossattn',
  'unet_improved_diffusion',
  'unet_newattn_1ch',
  'unet_noconvresample_nonsquare',
  'unet_scaleshift_updown_class',
  'diffusers_ddpm',
]

export async function openGolden(name: string): Promise<GoldenNetwork> {
  const golden = await Golden.open(`${name}.safetensors`)
  const diffusers = name === 'diffusers_ddpm'
  const network = diffusers
    ? UNet.fromDiffusers(readJson('diffusers_ddpm/unet/config.json'))
    : new UNet(golden.unetOptions({ imageSize: 16 }))
  const dict = diffusers
    ? await stateDictOf('diffusers_ddpm/unet/diffusion_pytorch_model.safetensors')
    : await golden.parameters((parameter) => network.parameters.get(parameter) !== undefined)
  const { flat } = await network.parameters.fromStateDict(dict)
  return { golden, network, weights: flat, shape: golden.tensors['in/x'].shape, context: golden.tensors['in/context'] }
}
