/** The Unet of lucidrains/denoising-diffusion-pytorch, of version 2: RMSNorm, linear attention, memory. */
import { type InspectOptions, inspect } from 'node:util'
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Conv2d, type Layer, Linear, observed } from '../layers'
import {
  type BuildContext,
  type Conditioning,
  type Network,
  type Preparation,
  type Prepared,
  withEstimate,
} from '../network'
import { ParameterTable, Scope } from '../parameters'
import { Projections } from '../projections'
import { limits } from '../unet/options'
import { Attention, ResnetBlock, UnshuffleDownsample } from './blocks'
import { type LucidrainsUNetOptions, type ResolvedLucidrainsOptions, resolveLucidrainsOptions } from './options'

/** Of one level on its side. */
interface Stage {
  readonly first: ResnetBlock
  readonly second: ResnetBlock
  readonly attention: Attention
  readonly resample: Layer
}

/** Names and shapes of its state dict are Unet's. */
export class LucidrainsUNet implements Network {
  /** With all defaults filled in; `new LucidrainsUNet(unet.options)` is the same network. */
  readonly options: ResolvedLucidrainsOptions
  readonly inChannels: number
  readonly selfCondition: boolean
  readonly outChannels: number
  readonly imageSize: number
  readonly divisor: number
  readonly parameters = new ParameterTable()
  readonly preparation: Preparation

  readonly #root = new Scope(this.parameters)
  readonly #initConv: Conv2d
  readonly #time: readonly [Linear, Linear]
  readonly #downs: readonly Stage[]
  readonly #middle: readonly [ResnetBlock, Attention, ResnetBlock]
  readonly #ups: readonly Stage[]
  readonly #finalBlock: ResnetBlock
  readonly #finalConv: Conv2d
  readonly #embeddings = new Projections()

  /** Throws `invalid-argument`, `unsupported`, and for a misspelled option `unknown-option` with the likely name. */
  constructor(options: LucidrainsUNetOptions) {
    const o = resolveLucidrainsOptions(options)
    this.options = o
    this.inChannels = o.channels
    this.selfCondition = o.selfCondition
    this.outChannels = o.outDim
    this.imageSize = o.imageSize
    const levels = o.dimMults.length
    this.divisor = 2 ** (levels - 1)
    const dims = [o.initDim, ...o.dimMults.map((mult) => mult * o.dim)]
    const root = this.#root
    this.#initConv = new Conv2d(root.at('init_conv'), o.selfCondition ? 2 * o.channels : o.channels, o.initDim, {
      kernel: 7,
      padding: 3,
    })
    const timeDim = 4 * o.dim
    this.#time = [
      new Linear(root.at('time_mlp.1'), o.dim, timeDim),
      new Linear(root.at('time_mlp.3'), timeDim, timeDim),
    ]
    this.#downs = o.dimMults.map((_, level) => {
      const [inChannels, outChannels] = [dims[level], dims[level + 1]]
      const scope = root.at(`downs.${level}`)
      return {
        first: this.#block(scope.at('0'), inChannels, inChannels),
        second: this.#block(scope.at('1'), inChannels, inChannels),
        attention: this.#attention(scope.at('2'), inChannels, level),
        resample:
          level < levels - 1
            ? new UnshuffleDownsample(scope.at('3.1'), inChannels, outChannels)
            : new Conv2d(scope.at('3'), inChannels, outChannels, { kernel: 3, padding: 1 }),
      }
    })
    const deepest = dims[levels]
    this.#middle = [
      this.#block(root.at('mid_block1'), deepest, deepest),
      this.#attention(root.at('mid_attn'), deepest, levels - 1, true),
      this.#block(root.at('mid_block2'), deepest, deepest),
    ]
    this.#ups = o.dimMults.map((_, i) => {
      const level = levels - 1 - i
      const [outChannels, channels] = [dims[level], dims[level + 1]]
      const scope = root.at(`ups.${i}`)
      const conv = new Conv2d(scope.at(level > 0 ? '3.1' : '3'), channels, outChannels, { kernel: 3, padding: 1 })
      return {
        first: this.#block(scope.at('0'), channels + outChannels, channels),
        second: this.#block(scope.at('1'), channels + outChannels, channels),
        attention: this.#attention(scope.at('2'), channels, level),
        resample: level > 0 ? upsampled(conv) : conv,
      }
    })
    this.#finalBlock = this.#block(root.at('final_res_block'), 2 * o.initDim, o.initDim)
    this.#finalConv = new Conv2d(root.at('final_conv'), o.initDim, o.outDim, { kernel: 1 })
    this.#embeddings.placeTogether(this.parameters)
    this.preparation = {
      toldChannels: this.#embeddings.channels,
      told: (context, t) => this.#embeddings.joined(context, this.#embed(context, t)),
      attendedChannels: [],
      attended: () => [],
    }
    const { size } = this.parameters
    if (size > limits.parameters) throw invalidArgument('dim', `at most ${limits.parameters} weights`, size)
  }

  /** What console.log shows: the options that matter most. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    const { imageSize, channels, dim, dimMults } = this.options
    return `LucidrainsUNet ${inspect({ imageSize, channels, dim, dimMults }, options)}`
  }

  build(context: BuildContext, x: Value, t: Value, conditioning: Conditioning = {}, prepared: Prepared = {}): Value {
    const { graph } = context
    const [, height, width, channels] = x.dims
    if (channels !== this.inChannels || height % this.divisor !== 0 || width % this.divisor !== 0) {
      throw invalidArgument('x', `[n, h, w, ${this.inChannels}], h and w multiples of ${this.divisor}`, x.dims)
    }
    const projected = prepared.told
      ? this.#embeddings.split(graph, prepared.told)
      : this.#embeddings.build(context, this.#embed(context, t))
    const run = (block: ResnetBlock, h: Value) => block.build(context, h, projected.get(block.embedding)!)

    const first = this.#initConv.build(context, withEstimate(graph, x, conditioning, this.selfCondition))
    const skips: Value[] = []
    let h = first
    for (const [i, stage] of this.#downs.entries()) {
      h = run(stage.first, h)
      skips.push(h)
      h = stage.attention.build(context, run(stage.second, h))
      skips.push(h)
      h = observed(context, `downs.${i}`, stage.resample.build(context, h))
    }
    const [before, attention, after] = this.#middle
    h = run(after, attention.build(context, run(before, h)))
    observed(context, 'mid_block2', h)
    for (const [i, stage] of this.#ups.entries()) {
      h = run(stage.first, graph.concat([h, skips.pop()!]))
      h = stage.attention.build(context, run(stage.second, graph.concat([h, skips.pop()!])))
      h = observed(context, `ups.${i}`, stage.resample.build(context, h))
    }
    h = run(this.#finalBlock, graph.concat([h, first]))
    return this.#finalConv.build(context, h)
  }

  #embed(context: BuildContext, t: Value): Value {
    const { graph } = context
    const { dim, sinusoidalPosEmbTheta: maxPeriod } = this.options
    const sinusoids = graph.timestepEmbedding(t, { dim, maxPeriod, freqShift: 1, sinFirst: true })
    const [first, second] = this.#time
    const embedding = second.build(context, graph.gelu(first.build(context, sinusoids)))
    return graph.silu(observed(context, 'time_mlp', embedding))
  }

  #block(scope: Scope, inChannels: number, outChannels: number): ResnetBlock {
    const { dim, dropout: p } = this.options
    const dropout = { p, layer: this.#embeddings.count }
    const block = new ResnetBlock(scope, inChannels, outChannels, { timeDim: 4 * dim, dropout })
    this.#embeddings.add(block.embedding)
    return block
  }

  #attention(scope: Scope, channels: number, level: number, full = this.options.fullAttn[level]): Attention {
    const { attnHeads, attnDimHead } = this.options
    return new Attention(scope, channels, { heads: attnHeads[level], headChannels: attnDimHead[level], full })
  }
}

/** Pixels repeated, before the convolution. */
function upsampled(conv: Conv2d): Layer {
  return { build: (context, x) => conv.build(context, context.graph.upsampleNearest(x, { factor: 2 })) }
}
