/** What makes one vector of the maps of an EncoderUNet: openaimodel.EncoderUNetModel's pools, each its module `out`. */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import { Conv2d, GroupNorm, Linear, type NormOptions } from '../layers'
import type { BuildContext } from '../network'
import type { Scope } from '../parameters'
import { AttentionPool2d } from './attention-pool'
import type { ResolvedEncoderUNetOptions } from './encoder-unet-options'

/** Its graph may have what no exported network has. */
export type EncoderContext = BuildContext & { readonly graph: Graph }

export interface EncoderPool {
  /** Maps [n, size, size, channels] after each block, of which the last one is the middle block's, to [n, 1, 1, outChannels]. */
  build(context: EncoderContext, maps: readonly Value[]): Value
}

export interface EncoderPoolOptions {
  readonly options: ResolvedEncoderUNetOptions
  readonly norm: NormOptions
  /** Channels of each map. */
  readonly widths: readonly number[]
}

/** Throws `invalid-argument` for heads that don't divide the channels. */
export function encoderPool(scope: Scope, o: EncoderPoolOptions): EncoderPool {
  return o.options.pool.startsWith('spatial') ? spatialPool(scope, o) : lastMapPool(scope, o)
}

function lastMapPool(scope: Scope, { options, norm, widths }: EncoderPoolOptions): EncoderPool {
  const { pool, outChannels, imageSize, channelMult, numHeadChannels } = options
  const size = imageSize / 2 ** (channelMult.length - 1)
  const channels = widths.at(-1)!
  const normOut = new GroupNorm(scope.at('0'), channels, norm)
  const last = (context: EncoderContext, maps: readonly Value[]) =>
    context.graph.silu(normOut.build(context, maps.at(-1)!))
  if (pool === 'attention') {
    if (channels % numHeadChannels! !== 0) {
      throw invalidArgument('numHeadChannels', `a divisor of ${channels}`, numHeadChannels)
    }
    const heads = channels / numHeadChannels!
    const attention = new AttentionPool2d(scope.at('2'), channels, { size, heads, outChannels })
    return { build: (context, maps) => attention.build(context, last(context, maps)) }
  }
  const conv = new Conv2d(scope.at('3'), channels, outChannels, { kernel: 1, zero: true })
  return {
    build: (context, maps) => conv.build(context, context.graph.avgPool(last(context, maps), { kernel: size })),
  }
}

const hidden = 2048

function spatialPool(scope: Scope, { options, norm, widths }: EncoderPoolOptions): EncoderPool {
  const features = widths.reduce((a, b) => a + b, 0)
  const isSecond = options.pool === 'spatial_v2'
  const first = new Linear(scope.at('0'), features, hidden)
  const normed = isSecond ? new GroupNorm(scope.at('1'), hidden, norm) : undefined
  const second = new Linear(scope.at(isSecond ? '3' : '2'), hidden, options.outChannels)
  return {
    build(context, maps) {
      const { graph } = context
      const means = maps.map((map) => graph.avgPool(map, { kernel: map.dims[1] }))
      const h = first.build(context, graph.concat(means))
      return second.build(context, normed ? graph.silu(normed.build(context, h)) : graph.relu(h))
    },
  }
}
