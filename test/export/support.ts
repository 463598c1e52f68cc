/** The networks of the golden files, with weights as a bank and the inputs that PyTorch was given. */
import { LucidrainsUNet, type LucidrainsUNetOptions, type Network, UNet } from '../../lib'
import type { StoredTensor } from '../../lib/checkpoint/safetensors'
import { reorder } from '../../lib/nn/layout'
import type { Banks, StateDict } from '../../lib/nn/parameters'
import type { ParameterSlot } from '../../lib/parameter-slot'
import { sizeOf } from '../../lib/tensor'
import { Golden, readJson, stateDictOf } from '../nn/golden'
import { hashedWeights } from '../nn/hashed-weights'

export interface GoldenNetwork {
  readonly golden: Golden
  readonly network: Network
  readonly weights: Banks
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
  'unet_sequential',
  'diffusers_ddpm',
  'unet2d_skip_fourier',
  'unet2d_learned',
  'unet2d_identity',
  'lucidrains_unet',
]

export async function openGolden(name: string): Promise<GoldenNetwork> {
  const golden = await Golden.open(`${name}.safetensors`)
  const network = networkOf(golden)
  const dict = await stateDictFor(golden, network)
  const weights = await network.parameters.fromStateDict(dict)
  return { golden, network, weights, shape: golden.tensors['in/x'].shape, context: golden.tensors['in/context'] }
}

/** A network's weights of its banks. */
export const weightsOf = ({ flat, frozen }: Banks) => ({
  read(slot: ParameterSlot): Float32Array {
    const { offset, shape } = slot
    const data = new Float32Array(sizeOf(shape))
    const own = (slot.frozen ? frozen : flat).subarray(offset, offset + data.length)
    reorder(own, data, { shape: slot.graphShape ?? shape }, 'toTorch')
    return data
  },
})

function networkOf(golden: Golden): Network {
  if (golden.name.startsWith('lucidrains')) {
    const options = golden.unetOptions({ imageSize: 16 }) as object
    return new LucidrainsUNet({ ...options, architecture: 'lucidrains' } as LucidrainsUNetOptions)
  }
  if (golden.config.unet2d) return UNet.fromDiffusers(golden.config.unet2d)
  if (golden.name.startsWith('diffusers')) return UNet.fromDiffusers(readJson('diffusers_ddpm/unet/config.json'))
  return new UNet(golden.unetOptions({ imageSize: 16 }))
}

async function stateDictFor(golden: Golden, { parameters }: Network): Promise<StateDict> {
  if (golden.config.unet2d || golden.has('in/vector')) return hashedWeights(parameters)
  if (golden.name.startsWith('diffusers')) return stateDictOf('diffusers_ddpm/unet/diffusion_pytorch_model.safetensors')
  return golden.parameters((parameter) => parameters.get(parameter) !== undefined)
}
