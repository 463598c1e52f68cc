/**
 * The UNet of DDPM (Ho et al. 2020, appendix B) as a graph: residual blocks with a time embedding, attention at chosen
 * levels, skip connections from every block on the way down to one on the way up.
 */
import { type InspectOptions, inspect } from 'node:util'
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Conv2d, Downsample, GroupNorm, type Layer, Linear, type NormOptions, observed, Upsample } from '../layers'
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
import { AttentionBlock, type BlockInputs, ResBlock, type ResBlockOptions } from './blocks'
import { diffusersUNet } from './diffusers-config'
import type { UNet2DConfig } from './diffusers-fields'
import { namesOf, type UNetNames } from './names'
import {
  depthsOf,
  groupsOf,
  levelChannels,
  limits,
  type ResolvedUNetOptions,
  resolveUNetOptions,
  type UNetOptions,
} from './options'
import { SampleEmbedding } from './sample-embedding'
import { SkipDown, SkipUp } from './skip-blocks'
import { SpatialTransformer } from './spatial-transformer'

export type { UNet2DConfig } from './diffusers-fields'
export type { UNetOptions } from './options'

/** Runs in turn; what comes out is kept for a skip connection on the way down, or begins with one on the way up. */
type Block = readonly Part[]
type Part = Layer | ResBlock | SpatialTransformer | SkipDown | SkipUp

/**
 * CompVis's and OpenAI's openaimodel.UNetModel and improved-diffusion's for images, and with `layout: 'diffusers'`
 * diffusers' UNet2DModel and UNet2DConditionModel: one topology, two sets of names.
 */
export class UNet implements Network {
  /** With all defaults filled in; `new UNet(unet.options)` is the same network. */
  readonly options: ResolvedUNetOptions
  readonly inChannels: number
  readonly outChannels: number
  readonly imageSize: number
  readonly imageWidth?: number
  readonly divisor: number
  readonly numTimesteps?: number
  readonly positiveTimesteps: boolean
  readonly numClasses?: number
  readonly contextDim?: number
  readonly vectorDim?: number
  readonly vectorIsOptional: boolean
  readonly concatChannels: number
  readonly selfCondition: boolean
  readonly parameters = new ParameterTable()
  readonly preparation: Preparation

  readonly #root = new Scope(this.parameters)
  readonly #names: UNetNames
  readonly #embedding: SampleEmbedding
  readonly #down: Block[]
  readonly #middle: Block
  readonly #up: Block[]
  readonly #normOut: GroupNorm
  readonly #convOut: Conv2d
  /** The projections of the time embedding in all residual blocks. */
  readonly #embeddings = new Projections()
  /** Of keys and values, of each cross-attention. */
  readonly #contextLayers: Linear[][] = []
  readonly #levelChannels: readonly number[]
  #dropouts = 0

  /** Throws `invalid-argument` and, for a misspelled option, `unknown-option` with the likely name. */
  constructor(options: UNetOptions) {
    const o = resolveUNetOptions(options)
    this.options = o
    this.inChannels = o.inChannels - o.concatChannels
    this.concatChannels = o.concatChannels
    this.outChannels = o.outChannels
    this.imageSize = o.imageSize
    this.imageWidth = o.imageWidth
    this.divisor = 2 ** (o.channelMult.length - 1)
    this.numTimesteps = o.numTimesteps
    this.positiveTimesteps = o.timeEmbedding === 'fourier'
    this.numClasses = o.numClasses
    this.contextDim = o.contextDim
    this.vectorDim = o.vectorDim
    this.vectorIsOptional = o.vectorEmbedding === 'augment'
    this.selfCondition = o.selfCondition
    this.#levelChannels = levelChannels(o)
    this.#names = namesOf(o.layout, o.numResBlocks, o.channelMult.length)

    const names = this.#names
    this.#embedding = new SampleEmbedding(this.#root, o, names)
    const skips: number[] = []
    this.#down = this.#wayDown(skips)
    this.#middle = this.#bottom()
    this.#up = this.#wayUp(skips)
    this.#normOut = new GroupNorm(this.#root.at(names.normOut), o.modelChannels, this.#norm(o.modelChannels))
    this.#convOut = new Conv2d(this.#root.at(names.convOut), o.modelChannels, o.outChannels, {
      kernel: 3,
      padding: 1,
      zero: o.layout === 'openai',
    })
    this.#embeddings.placeTogether(this.parameters)
    this.preparation = {
      toldChannels: this.#embeddings.channels,
      told: (context, t, conditioning) => {
        return this.#embeddings.joined(context, this.#embed(context, t, conditioning))
      },
      attendedChannels: this.#contextLayers.flat().map(({ slots }) => slots.weight.shape[0]),
      attended: (context, tokens) => {
        return this.#contextLayers.flatMap((layers) => Linear.buildAll(context, tokens, layers))
      },
    }
    const { size } = this.parameters
    if (size > limits.parameters) throw invalidArgument('modelChannels', `at most ${limits.parameters} weights`, size)
  }

  /** What console.log shows: the options that matter most. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    const { imageSize, inChannels, outChannels, modelChannels, channelMult, numResBlocks } = this.options
    const shown = { imageSize, inChannels, outChannels, modelChannels, channelMult, numResBlocks }
    return `UNet ${inspect(shown, options)}`
  }

  /**
   * From diffusers' config.json of a UNet2DModel or UNet2DConditionModel; its state_dict's names are those of diffusers from 0.14 on.
   * Fields that the class does not have are ignored, as diffusers does. Throws `unsupported` for what this class can't express.
   */
  static fromDiffusers(config: UNet2DConfig): UNet {
    return new UNet(diffusersUNet(config).options)
  }

  build(given: BuildContext, x: Value, t: Value, conditioning: Conditioning = {}, prepared: Prepared = {}): Value {
    const context = { ...given, recompute: given.train && this.options.useCheckpoint }
    const { graph } = context
    this.#check(x, conditioning)
    const embeddings = prepared.told
      ? this.#embeddings.split(graph, prepared.told)
      : this.#embeddings.build(context, this.#embed(context, t, conditioning))
    const { attended } = prepared
    const inputs: BlockInputs = {
      projected: new Map([
        ...embeddings,
        ...(attended ? this.#contextLayers.flat().map((layer, i) => [layer, attended[i]] as const) : []),
      ]),
      tokens: conditioning.context,
      down: {},
      up: {},
    }
    const { lists } = this.#names
    const own = withEstimate(graph, x, conditioning, this.selfCondition)
    const seen = conditioning.concat ? graph.concat([own, conditioning.concat]) : own
    let h = this.options.centerInput ? graph.affine(seen, { scale: 2, shift: -1 }) : seen
    inputs.down.picture = h
    const run = (block: Block, input: Value, name?: string) => {
      const output = block.reduce((h, layer) => layer.build(context, h, inputs), input)
      return name ? observed(context, name, output) : output
    }
    const skips: Value[] = []
    for (const [i, block] of this.#down.entries()) {
      h = run(block, h, lists && `${lists.down}.${i}`)
      skips.push(h)
    }
    h = run(this.#middle, h, lists?.middle)
    for (const [i, block] of this.#up.entries()) {
      h = run(block, graph.concat([h, skips.pop()!]), lists && `${lists.up}.${i}`)
    }
    const out = this.#convOut.build(context, graph.silu(this.#normOut.build(context, h)))
    const sum = inputs.up.picture ? graph.add(out, inputs.up.picture) : out
    return this.options.timeEmbedding === 'fourier' ? graph.divSample(sum, t) : sum
  }

  #embed(context: BuildContext, t: Value, conditioning: Conditioning): Value {
    return context.graph.silu(this.#embedding.build(context, t, conditioning))
  }

  #check(x: Value, { context: tokens, concat }: Conditioning): void {
    const [, height, width, channels] = x.dims
    if (channels !== this.inChannels || height % this.divisor !== 0 || width % this.divisor !== 0) {
      throw invalidArgument('x', `[n, h, w, ${this.inChannels}], h and w multiples of ${this.divisor}`, x.dims)
    }
    if ((concat?.dims[3] ?? 0) !== this.concatChannels) {
      throw invalidArgument('concat', `a map of ${this.concatChannels} channels`, concat?.dims)
    }
    const { contextDim } = this
    if (!contextDim && tokens) throw invalidArgument('context', 'nothing without cross-attention', 'a value')
    if (contextDim && tokens?.dims[3] !== contextDim) {
      throw invalidArgument('context', `[n, 1, l, ${contextDim}]`, tokens?.dims)
    }
  }

  /** `groups` 0: a quarter of the channels, at most 32. */
  #norm(channels: number, groups = this.options.normGroups): NormOptions {
    return { groups: groupsOf(channels, groups), eps: this.options.normEps }
  }

  /** What the residual blocks and attentions of a level have in common; a skip block's norms are its own. */
  #level(
    level: number,
    side: 'down' | 'up',
  ): { readonly skips: boolean; readonly groups?: number; readonly divisor: number } {
    const { skipDownResolutions, skipUpResolutions } = this.options
    const skips = (side === 'down' ? skipDownResolutions : skipUpResolutions).includes(2 ** level)
    return skips ? { skips, groups: 0, divisor: Math.SQRT2 } : { skips, divisor: 1 }
  }

  #channels(level: number): number {
    return this.#levelChannels[level]
  }

  #hasAttention(level: number, side: 'down' | 'up'): boolean {
    const { attentionResolutions, upAttentionResolutions } = this.options
    return (side === 'down' ? attentionResolutions : upAttentionResolutions).includes(2 ** level)
  }

  /** `skips` receives the channels of every block's output. */
  #wayDown(skips: number[]): Block[] {
    const { inChannels, modelChannels, numResBlocks, channelMult, convResample, downsamplePadding } = this.options
    const names = this.#names
    const seen = this.selfCondition ? 2 * inChannels : inChannels
    const blocks: Block[] = [[new Conv2d(this.#root.at(names.convIn), seen, modelChannels, { kernel: 3, padding: 1 })]]
    skips.push(modelChannels)
    let channels = modelChannels
    for (let level = 0; level < channelMult.length; level++) {
      const kind = this.#level(level, 'down')
      for (let i = 0; i < numResBlocks; i++) {
        const name = names.down(level, i)
        const block: Part[] = [this.#resBlock(name.res, channels, this.#channels(level), kind)]
        channels = this.#channels(level)
        if (this.#hasAttention(level, 'down')) {
          block.push(this.#attention(name.attention, level, 'down', kind.skips ? { ...kind, groups: 32 } : {}))
        }
        blocks.push(block)
        skips.push(channels)
      }
      if (level === channelMult.length - 1) break
      skips.push(channels)
      if (kind.skips) {
        const { res, block } = names.downSkip(level)
        blocks.push([
          this.#resBlock(res, channels, channels, { ...kind, resample: 'fir-down', projects: true }),
          new SkipDown(this.#root.at(block), { pictureChannels: inChannels, channels }),
        ])
        continue
      }
      const name = names.downsample(level)
      blocks.push([
        this.options.resblockDownResolutions.includes(2 ** level)
          ? this.#resBlock(name, channels, channels, { resample: 'down' })
          : new Downsample(this.#root.at(name), channels, {
              conv: convResample,
              name: names.downsampleConv,
              padding: downsamplePadding,
            }),
      ])
    }
    return blocks
  }

  #bottom(): Block {
    if (!this.options.middleBlock) return []
    const level = this.options.channelMult.length - 1
    const channels = this.#channels(level)
    const { res, attention } = this.#names.middle
    const { middleAttention, middleNormGroups, middleScale: divisor } = this.options
    const groups = middleNormGroups || 'none'
    const before = this.#resBlock(res[0], channels, channels, { divisor })
    const middle = middleAttention ? [this.#attention(attention, level, 'down', { groups, divisor })] : []
    return [before, ...middle, this.#resBlock(res[1], channels, channels, { divisor })]
  }

  #wayUp(skips: number[]): Block[] {
    const { numResBlocks, channelMult, convResample } = this.options
    const blocks: Block[] = []
    let channels = this.#channels(channelMult.length - 1)
    for (let level = channelMult.length - 1; level >= 0; level--) {
      const kind = this.#level(level, 'up')
      const attention = this.#hasAttention(level, 'up')
      for (let i = 0; i <= numResBlocks; i++) {
        const name = this.#names.up(level, i)
        const skipped = skips.pop()!
        const groups = kind.skips ? skipUpGroups(channels, skipped, attention) : undefined
        const block: Part[] = [this.#resBlock(name.res, channels + skipped, this.#channels(level), { ...kind, groups })]
        channels = this.#channels(level)
        if (kind.skips) {
          if (i === numResBlocks) block.push(...this.#skipUp(level, channels))
          blocks.push(block)
          continue
        }
        if (attention) block.push(this.#attention(name.attention, level, 'up'))
        if (level > 0 && i === numResBlocks) {
          const upsample = this.#names.upsample(level, attention)
          block.push(
            this.options.resblockUpResolutions.includes(2 ** level)
              ? this.#resBlock(upsample, channels, channels, { resample: 'up' })
              : new Upsample(this.#root.at(upsample), channels, { conv: convResample }),
          )
        }
        blocks.push(block)
      }
    }
    return blocks
  }

  /** After the residual blocks of a level: one attention, the picture, and the way to the next level. */
  #skipUp(level: number, channels: number): Part[] {
    const kind = this.#level(level, 'up')
    const { res, block } = this.#names.upSkip(level)
    const picture = {
      pictureChannels: this.options.outChannels,
      channels,
      norm: this.#norm(channels, 0),
      top: level === 0,
    }
    const { attention } = this.#names.up(level, 0)
    return [
      ...(this.#hasAttention(level, 'up') ? [this.#attention(attention, level, 'up', { ...kind, groups: 32 })] : []),
      new SkipUp(this.#root.at(block), picture),
      ...(level > 0 ? [this.#resBlock(res, channels, channels, { ...kind, resample: 'fir-up', projects: true })] : []),
    ]
  }

  /** `groups`: of the first norm; 0 for a quarter of the channels, of both. */
  #resBlock(
    name: string,
    inChannels: number,
    outChannels: number,
    {
      groups,
      skips = false,
      ...o
    }: Pick<ResBlockOptions, 'resample' | 'divisor' | 'projects'> & { groups?: number; skips?: boolean } = {},
  ): ResBlock {
    const block = new ResBlock(this.#root.at(name), {
      layout: this.options.layout,
      inChannels,
      outChannels,
      embeddingChannels: this.options.timeEmbeddingDim,
      norm: this.#norm(inChannels, groups),
      normOut: this.#norm(outChannels, skips ? 0 : groups),
      dropout: { p: this.options.dropout, layer: this.#dropouts++ },
      scaleShift: this.options.useScaleShiftNorm,
      ...o,
    })
    this.#embeddings.add(block.embedding)
    return block
  }

  #attention(
    name: string,
    level: number,
    side: 'down' | 'up',
    { groups = this.options.normGroups, divisor = 1 }: { groups?: number | 'none'; divisor?: number } = {},
  ): AttentionBlock | SpatialTransformer {
    if (this.options.useSpatialTransformer) return this.#transformer(name, level)
    const channels = this.#channels(level)
    return new AttentionBlock(this.#root.at(name), {
      layout: this.options.layout,
      channels,
      heads: this.#heads(channels, side),
      norm: groups === 'none' ? undefined : this.#norm(channels, groups),
      order: this.options.useNewAttentionOrder ? 'qkv-first' : 'heads-first',
      divisor,
    })
  }

  /** openaimodel's rules: heads by their width where that is given, and with `legacy` as wide as fits. */
  #transformer(name: string, level: number): SpatialTransformer {
    const { numHeads, numHeadChannels, legacy, normGroups } = this.options
    const channels = this.#channels(level)
    const heads = numHeadChannels ? Math.floor(channels / numHeadChannels) : numHeads
    if (heads < 1 || heads > channels) {
      const [argument, expected] = numHeadChannels
        ? ['numHeadChannels', `at most ${channels}`]
        : ['numHeads', `at most ${channels}`]
      throw invalidArgument(argument, expected, numHeadChannels ?? numHeads)
    }
    const transformer = new SpatialTransformer(this.#root.at(name), {
      channels,
      heads,
      headChannels: numHeadChannels && !legacy ? numHeadChannels : Math.floor(channels / heads),
      depth: depthsOf(this.options)[level],
      contextDim: this.options.contextDim!,
      groups: normGroups,
      linear: this.options.useLinearInTransformer,
    })
    this.#contextLayers.push(...transformer.contextLayers)
    return transformer
  }

  /** openaimodel's rules: the width of a head, where it is known, decides; then numHeadsUpsample has no effect. */
  #heads(channels: number, side: 'down' | 'up'): number {
    const { numHeads, numHeadChannels, numHeadsUpsample, legacy } = this.options
    if (numHeadChannels) {
      if (channels % numHeadChannels === 0) return channels / numHeadChannels
      throw invalidArgument(
        'numHeadChannels',
        `a divisor of ${channels}, the channels of a level with attention`,
        numHeadChannels,
      )
    }
    return legacy && side === 'up' ? numHeadsUpsample : numHeads
  }
}

/** Those of the first norm, as AttnSkipUpBlock2D and SkipUpBlock2D count them: the former divides only what the skip brought. */
function skipUpGroups(channels: number, skipped: number, attention: boolean): number {
  return Math.min(attention ? channels + Math.floor(skipped / 4) : Math.floor((channels + skipped) / 4), 32)
}
