/** latent-diffusion's Encoder (model.py), diffusers' Encoder: images to the map that latents are made of. */
import type { Value } from '../../graph'
import { Conv2d, Downsample, GroupNorm, type Layer } from '../layers'
import type { BuildContext } from '../network'
import type { Scope } from '../parameters'
import { attentionOf, LayerCounter, normOf, ResnetBlock } from './blocks'
import { autoencoderNames } from './names'
import type { AutoencoderShape } from './options'

export class Encoder implements Layer {
  readonly #convIn: Conv2d
  /** All that follows, in order. */
  readonly #layers: Layer[] = []
  readonly #normOut: GroupNorm
  readonly #convOut: Conv2d

  constructor(scope: Scope, o: AutoencoderShape, layers = new LayerCounter()) {
    const names = autoencoderNames[o.layout]
    const deepest = o.channels.length - 1
    this.#convIn = new Conv2d(scope.at('conv_in'), o.inChannels, o.stem, { kernel: 3, padding: 1 })
    let inChannels = o.stem
    for (const [level, outChannels] of o.channels.entries()) {
      const at = scope.at(names.down(level))
      const blocks: Layer[] = []
      for (let i = 0; i < o.numResBlocks; i++) {
        blocks.push(new ResnetBlock(at.at(names.block(i)), o, { inChannels, outChannels, layers }))
        inChannels = outChannels
      }
      for (const [i, block] of blocks.entries()) {
        const attention = o.encoderAttention[level] && attentionOf(at.at(names.attn(i)), o, outChannels)
        this.#layers.push(block, ...(attention ? [attention] : []))
      }
      if (level === deepest) continue
      const downsample = { conv: o.resampWithConv, name: 'conv', padding: 0 } as const
      this.#layers.push(new Downsample(at.at(names.downsample), outChannels, downsample))
    }
    const { block1, attn, block2 } = names.middle
    const middle = { inChannels, outChannels: inChannels, layers }
    const first = new ResnetBlock(scope.at(block1), o, middle)
    const attention = o.middleAttention ? attentionOf(scope.at(attn), o, inChannels) : undefined
    this.#layers.push(first, ...(attention ? [attention] : []), new ResnetBlock(scope.at(block2), o, middle))
    this.#normOut = new GroupNorm(scope.at(names.normOut), inChannels, normOf(o))
    const outChannels = (o.doubleZ ? 2 : 1) * o.zChannels
    this.#convOut = new Conv2d(scope.at('conv_out'), inChannels, outChannels, { kernel: 3, padding: 1 })
  }

  build(context: BuildContext, x: Value): Value {
    const h = this.#layers.reduce((value, layer) => layer.build(context, value), this.#convIn.build(context, x))
    return this.#convOut.build(context, context.graph.silu(this.#normOut.build(context, h)))
  }
}
