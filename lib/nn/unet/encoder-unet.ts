/**
 * The half of a UNet that goes down, with a pool at its end: openaimodel.EncoderUNetModel, the classifier of Dhariwal & Nichol 2021
 * (section 4.1).
 */
import { type InspectOptions, inspect } from 'node:util'
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import { Conv2d, Downsample, GroupNorm, type Layer, Linear } from '../layers'
import type { BuildContext } from '../network'
import { ParameterTable, Scope } from '../parameters'
import { AttentionPool2d } from './attention-pool'
import { AttentionBlock, type BlockInputs, ResBlock } from './blocks'
import {
  type EncoderUNetOptions,
  type ResolvedEncoderUNetOptions,
  resolveEncoderUNetOptions,
} from './encoder-unet-options'
import { levelChannels, limits } from './options'
import { Sinusoids, TimestepEmbedding } from './time-embedding'

export type { EncoderUNetOptions } from './encoder-unet-options'

/** Its graph may have what no exported network has. */
export type EncoderContext = BuildContext & { readonly graph: Graph }

type Part = Layer | ResBlock

/** Images and timesteps to a vector of `outChannels`. Parameters have openaimodel's names. */
export class EncoderUNet {
  /** With all defaults filled in; `new EncoderUNet(encoder.options)` is the same network. */
  readonly options: ResolvedEncoderUNetOptions
  readonly inChannels: number
  readonly outChannels: number
  /** Height and width of the images, which can't be others. */
  readonly imageSize: number
  readonly parameters = new ParameterTable()

  readonly #root = new Scope(this.parameters)
  readonly #timeEmbedding: TimestepEmbedding
  readonly #blocks: readonly (readonly Part[])[]
  readonly #normOut: GroupNorm
  readonly #pool: { build(context: EncoderContext, x: Value): Value }
  readonly #embeddings: Linear[] = []
  #dropouts = 0

  /** Throws `invalid-argument` and, for a misspelled option, `unknown-option` with the likely name. */
  constructor(options: EncoderUNetOptions) {
    const o = resolveEncoderUNetOptions(options)
    this.options = o
    this.inChannels = o.inChannels
    this.outChannels = o.outChannels
    this.imageSize = o.imageSize
    const { modelChannels: dim } = o
    const [first, second] = ['time_embed.0', 'time_embed.2'].map((name) => this.#root.at(name))
    this.#timeEmbedding = new TimestepEmbedding(first, second, {
      projection: new Sinusoids(dim, { freqShift: 0, sinFirst: false }),
      outDim: 4 * dim,
    })
    const channels = levelChannels(o)
    this.#blocks = [...this.#wayDown(channels), this.#middle(channels[channels.length - 1])]
    const last = channels[channels.length - 1]
    this.#normOut = new GroupNorm(this.#root.at('out.0'), last, this.#norm)
    this.#pool = this.#makePool(last)
    Linear.placeTogether(this.parameters, this.#embeddings)
    const { size } = this.parameters
    if (size > limits.parameters) throw invalidArgument('modelChannels', `at most ${limits.parameters} weights`, size)
  }

  /** What console.log shows: the options that matter most. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    const { imageSize, inChannels, outChannels, modelChannels, channelMult, pool } = this.options
    return `EncoderUNet ${inspect({ imageSize, inChannels, outChannels, modelChannels, channelMult, pool }, options)}`
  }

  /** x [n, imageSize, imageSize, inChannels] and t [n, 1, 1, 1] to [n, 1, 1, outChannels]. */
  build(given: EncoderContext, x: Value, t: Value): Value {
    const context = { ...given, recompute: given.train && this.options.useCheckpoint }
    const { graph } = context
    const [, height, width, channels] = x.dims
    if (channels !== this.inChannels || height !== this.imageSize || width !== this.imageSize) {
      throw invalidArgument('x', `[n, ${this.imageSize}, ${this.imageSize}, ${this.inChannels}]`, x.dims)
    }
    const embedding = graph.silu(this.#timeEmbedding.build(context, t))
    const projected = Linear.buildAll(context, embedding, this.#embeddings)
    const embeddings = new Map(this.#embeddings.map((layer, i) => [layer, projected[i]]))
    const inputs: BlockInputs = { embeddings, down: {}, up: {} }
    const h = this.#blocks.flat().reduce((value, part) => part.build(context, value, inputs), x)
    return this.#pool.build(context, graph.silu(this.#normOut.build(context, h)))
  }

  get #norm() {
    return { groups: this.options.normGroups, eps: 1e-5 }
  }

  #wayDown(levels: readonly number[]): Part[][] {
    const { inChannels, numResBlocks, attentionResolutions, resblockUpdown, convResample: conv } = this.options
    const blocks: Part[][] = []
    const next = (make: (scope: Scope) => Part[]) => blocks.push(make(this.#root.at(`input_blocks.${blocks.length}`)))
    let channels = levels[0]
    next((scope) => [new Conv2d(scope.at('0'), inChannels, channels, { kernel: 3, padding: 1 })])
    for (const [level, width] of levels.entries()) {
      for (let i = 0; i < numResBlocks; i++) {
        next((scope) => {
          const block: Part[] = [this.#resBlock(scope.at('0'), channels, width)]
          if (attentionResolutions.includes(2 ** level)) block.push(this.#attention(scope.at('1'), width))
          return block
        })
        channels = width
      }
      if (level === levels.length - 1) break
      next((scope) => [
        resblockUpdown
          ? this.#resBlock(scope.at('0'), channels, channels, 'down')
          : new Downsample(scope.at('0'), channels, { conv, name: 'op', padding: 1 }),
      ])
    }
    return blocks
  }

  #middle(channels: number): Part[] {
    const scope = this.#root.at('middle_block')
    return [
      this.#resBlock(scope.at('0'), channels, channels),
      this.#attention(scope.at('1'), channels),
      this.#resBlock(scope.at('2'), channels, channels),
    ]
  }

  #makePool(channels: number) {
    const { pool, outChannels, imageSize, channelMult, numHeadChannels } = this.options
    const size = imageSize / 2 ** (channelMult.length - 1)
    if (pool === 'attention') {
      if (channels % numHeadChannels! !== 0) {
        throw invalidArgument('numHeadChannels', `a divisor of ${channels}`, numHeadChannels)
      }
      const heads = channels / numHeadChannels!
      return new AttentionPool2d(this.#root.at('out.2'), channels, { size, heads, outChannels })
    }
    const conv = new Conv2d(this.#root.at('out.3'), channels, outChannels, { kernel: 1, zero: true })
    return {
      build: (context: EncoderContext, x: Value) => conv.build(context, context.graph.avgPool(x, { kernel: size })),
    }
  }

  #resBlock(scope: Scope, inChannels: number, outChannels: number, resample?: 'down'): ResBlock {
    const block = new ResBlock(scope, {
      layout: 'openai',
      inChannels,
      outChannels,
      embeddingChannels: 4 * this.options.modelChannels,
      norm: this.#norm,
      dropout: { p: this.options.dropout, layer: this.#dropouts++ },
      scaleShift: this.options.useScaleShiftNorm,
      resample,
    })
    this.#embeddings.push(block.embedding)
    return block
  }

  #attention(scope: Scope, channels: number): AttentionBlock {
    const { numHeads, numHeadChannels, useNewAttentionOrder } = this.options
    if (numHeadChannels && channels % numHeadChannels !== 0) {
      throw invalidArgument('numHeadChannels', `a divisor of ${channels}`, numHeadChannels)
    }
    return new AttentionBlock(scope, {
      layout: 'openai',
      channels,
      heads: numHeadChannels ? channels / numHeadChannels : numHeads,
      norm: this.#norm,
      order: useNewAttentionOrder ? 'qkv-first' : 'heads-first',
    })
  }
}
