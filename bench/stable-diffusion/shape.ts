/** Networks with the exact shape of Stable Diffusion 1.5's, or the same with few channels. */
import type { AutoencoderConfig } from '../../lib/nn/autoencoder/options'
import type { CLIPTextOptions } from '../../lib/nn/text/clip'
import type { UNetOptions } from '../../lib/nn/unet/options'

export interface ModelShape {
  readonly unet: UNetOptions
  readonly first: { readonly ddconfig: AutoencoderConfig; readonly embedDim: number }
  readonly text: CLIPTextOptions
}

/** `small`: a tenth of the channels, two layers of text. */
export function shapeOf(small: boolean): ModelShape {
  const [channels, width, ch] = small ? [32, 64, 32] : [320, 768, 128]
  return {
    unet: {
      ...{ imageSize: 64, inChannels: 4, outChannels: 4, modelChannels: channels, channelMult: [1, 2, 4, 4] },
      ...{ numResBlocks: 2, attentionResolutions: [1, 2, 4], numHeads: 8, legacy: false },
      ...{ useSpatialTransformer: true, transformerDepth: 1, contextDim: width },
    },
    first: {
      ddconfig: {
        ...{ ch, outCh: 3, chMult: [1, 2, 4, 4], numResBlocks: 2, attnResolutions: [], inChannels: 3, resolution: 256 },
        ...{ zChannels: 4, doubleZ: true },
      },
      embedDim: 4,
    },
    text: {
      ...{ vocabSize: 49408, hiddenSize: width, intermediateSize: 4 * width, numHiddenLayers: small ? 2 : 12 },
      ...{ numAttentionHeads: width / 64, maxPositionEmbeddings: 77 },
    },
  }
}
