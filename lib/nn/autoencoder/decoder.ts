/** latent-diffusion's Decoder (model.py), diffusers' Decoder: the way back from latents to images. */
import type { Value } from '../../graph'
import { Conv2d, GroupNorm, type Layer, Upsample } from '../layers'
import type { BuildContext } from '../network'
import type { Scope } from '../parameters'
import { attentionOf, LayerCounter, normOf, ResnetBlock } from './blocks'
import { autoencoderNames } from './names'
import type { AutoencoderShape } from './options'

export class Decoder implements Layer {
  readonly #convIn: Conv2d
  /** All that follows, in order. */
  readonly #layers: Layer[] = []
  readonly #normOut: GroupNorm
  readonly #convOut: Conv2d

  constructor(
    scope: Scope,
    private readonly o: AutoencoderShape,
    layers = new LayerCounter(),
  ) {
    const names = autoencoderNames[o.layout]
    const levels = o.channels.length
    let inChannels = o.channels[levels - 1]
    this.#convIn = new Conv2d(scope.at('conv_in'), o.zChannels, inChannels, { kernel: 3, padding: 1 })
    const { block1, attn, block2 } = names.middle
    const middle = { inChannels, outChannels: inChannels, layers }
    const first = new ResnetBlock(scope.at(block1), o, middle)
    const attention = o.middleAttention ? attentionOf(scope.at(attn), o, inChannels) : undefined
    this.#layers.push(first, ...(attention ? [attention] : []), new ResnetBlock(scope.at(block2), o, middle))
    for (let level = levels - 1; level >= 0; level--) {
      const outChannels = o.channels[level]
      const at = scope.at(names.up(level, levels))
      const blocks: Layer[] = []
      for (let i = 0; i <= o.numResBlocks; i++) {
        blocks.push(new ResnetBlock(at.at(names.block(i)), o, { inChannels, outChannels, layers }))
        inChannels = outChannels
      }
      for (const [i, block] of blocks.entries()) {
        const own = o.decoderAttention[level] && attentionOf(at.at(names.attn(i)), o, outChannels)
        this.#layers.push(block, ...(own ? [own] : []))
      }
      if (level > 0) this.#layers.push(new Upsample(at.at(names.upsample), outChannels, { conv: o.resampWithConv }))
    }
    this.#normOut = new GroupNorm(scope.at(names.normOut), inChannels, normOf(o))
    this.#convOut = new Conv2d(scope.at('conv_out'), inChannels, o.outChannels, { kernel: 3, padding: 1 })
  }

  build(context: BuildContext, z: Value): Value {
    if (this.o.givePreEnd) return this.#body(context, z)
    return this.end(context, this.parts(context, z).image)
  }

  /** What the last convolution is given, and what it makes of that. */
  parts(context: BuildContext, z: Value): { readonly features: Value; readonly image: Value } {
    const features = context.graph.silu(this.#normOut.build(context, this.#body(context, z)))
    return { features, image: this.#convOut.build(context, features) }
  }

  /** What is behind the last convolution. */
  end({ graph }: Pick<BuildContext, 'graph'>, image: Value): Value {
    return this.o.tanhOut ? graph.tanh(image) : image
  }

  #body(context: BuildContext, z: Value): Value {
    return this.#layers.reduce((value, layer) => layer.build(context, value), this.#convIn.build(context, z))
  }
}
