/**
 * The half of a UNet that goes down, with a pool at its end: openaimodel.EncoderUNetModel, the classifier of Dhariwal & Nichol 2021
 * (section 4.1).
 */
import { type InspectOptions, inspect } from 'node:util'
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Conv2d, Downsample, type Layer } from '../layers'
import { ParameterTable, Scope } from '../parameters'
import { Projections } from '../projections'
import { AttentionBlock, type BlockInputs, ResBlock } from './blocks'
import { type EncoderContext, type EncoderPool, encoderPool } from './encoder-pool'
import {
  type EncoderUNetOptions,
  type ResolvedEncoderUNetOptions,
  resolveEncoderUNetOptions,
} from './encoder-unet-options'
import { levelChannels, limits } from './options'
import { Sinusoids, TimestepEmbedding } from './time-embedding'

export type { EncoderContext } from './encoder-pool'
export type { EncoderUNetOptions } from './encoder-unet-options'

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
  readonly #pool: EncoderPool
  readonly #embeddings = new Projections()
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
    this.#pool = encoderPool(this.#root.at('out'), { options: o, norm: this.#norm, widths: widthsOf(o, channels) })
    this.#embeddings.placeTogether(this.parameters)
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
    const inputs: BlockInputs = { projected: this.#embeddings.build(context, embedding), down: {}, up: {} }
    const maps: Value[] = []
    for (const block of this.#blocks) {
      maps.push(block.reduce((value, part) => part.build(context, value, inputs), maps.at(-1) ?? x))
    }
    return this.#pool.build(context, maps)
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
    this.#embeddings.add(block.embedding)
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

/** Channels of the map after each block. */
function widthsOf({ numResBlocks }: ResolvedEncoderUNetOptions, levels: readonly number[]): number[] {
  const blocks = levels.flatMap((width, level) =>
    Array<number>(level < levels.length - 1 ? numResBlocks + 1 : numResBlocks).fill(width),
  )
  return [levels[0], ...blocks, levels[levels.length - 1]]
}
