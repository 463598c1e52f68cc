/** The options of a training's network, of either architecture: their defaults, and what the rest of a training asks of them. */
import { invalidArgument } from '../errors'
import { resolveLucidrainsOptions } from '../nn/lucidrains/options'
import { resolveUNetOptions } from '../nn/unet/options'
import { isOfUNet, type UNetConfig } from '../nn/unet-config'

type Given = Readonly<Record<string, unknown>>

const defaults = {
  unet: {
    imageSize: 32,
    inChannels: 3,
    outChannels: 3,
    modelChannels: 64,
    channelMult: [1, 2, 2],
    numResBlocks: 2,
    attentionResolutions: [2, 4],
    numHeads: 4,
    dropout: 0,
    useCheckpoint: false,
  },
  lucidrains: {
    imageSize: 32,
    channels: 3,
    dim: 64,
    dimMults: [1, 2, 4, 8],
    dropout: 0,
  },
}

/** `given` before what a model of the same architecture has that the training starts from, or the defaults. */
export function completeNetwork(given: Given, start: Given | undefined): Record<string, unknown> {
  const { architecture = start?.architecture } = given
  if (start && architecture === start.architecture) return { ...start, ...given }
  if (architecture === undefined) return { ...defaults.unet, ...given }
  if (architecture === 'lucidrains') return { ...defaults.lucidrains, ...given }
  throw invalidArgument('model.unetConfig.architecture', "'lucidrains', or nothing for UNet", architecture)
}

/** Of a checkpoint, which is not trusted. Throws what the network's constructor throws, and makes nothing of it. */
export function checkNetwork(config: Given): void {
  const options = config as unknown as UNetConfig
  if (isOfUNet(options)) resolveUNetOptions(options)
  else resolveLucidrainsOptions(options)
}

/** Of the images. */
export function imagesOf(config: Given): { readonly size: number; readonly width: number; readonly channels: number } {
  const { imageSize, imageWidth = imageSize, inChannels, channels = inChannels } = config
  return { size: Number(imageSize), width: Number(imageWidth), channels: Number(channels) }
}

/** By how much its levels make images smaller. */
export function downsamplingOf({ channelMult, dimMults = channelMult }: Given): number {
  return Array.isArray(dimMults) ? 2 ** (dimMults.length - 1) : 1
}

/** Throws `invalid-argument` for a network that can't be told of it. */
export function checkIsTold({ architecture }: Given, argument: 'classes' | 'augment'): void {
  if (architecture === undefined) return
  throw invalidArgument(
    argument,
    `nothing for a network of architecture '${architecture}', which is not told of it`,
    'some',
  )
}
