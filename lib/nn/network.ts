/** What the diffusion classes need of a network that is defined as a graph. */
import { invalidArgument } from '../errors'
import type { Graph, Value } from '../graph'
import type { ParameterTable } from './parameters'

/** What a network may be made of: each of these has to be written to ONNX files too (lib/export). */
export type NetworkGraph = Pick<
  Graph,
  | 'parameter'
  | 'conv2d'
  | 'linear'
  | 'linears'
  | 'groupNorm'
  | 'layerNorm'
  | 'rmsNorm'
  | 'attention'
  | 'attentionQkv'
  | 'linearAttention'
  | 'prependTokens'
  | 'silu'
  | 'gelu'
  | 'tanh'
  | 'geglu'
  | 'add'
  | 'addSample'
  | 'scaleShift'
  | 'affine'
  | 'divSample'
  | 'concat'
  | 'slice'
  | 'upsampleNearest'
  | 'avgPool'
  | 'firResample'
  | 'embedding'
  | 'fourierEmbedding'
  | 'timestepEmbedding'
  | 'dropout'
  | 'recomputed'
>

export interface BuildContext {
  readonly graph: NetworkGraph
  /** True in training: dropout is active. */
  readonly train: boolean
  /** i32 [1, 1, 1, 4]: seed low, seed high, step, 0. Needed where train is true and there is dropout. */
  readonly rng?: Value
  /** Blocks keep nothing for the backward pass but what they put out; see `recomputed`. */
  readonly recompute?: boolean
  /** Called with the name and output of each module, e.g. 'middle_block.1'; for tests and inspection. */
  readonly observe?: (name: string, value: Value) => void
}

/** A block of the network: openaimodel's `checkpoint(fn, inputs, params, flag)`. */
export function recomputed(context: BuildContext, build: () => Value): Value {
  return context.recompute ? context.graph.recomputed(build) : build()
}

/** Extra inputs of conditional networks. */
export interface Conditioning {
  /** Class labels, i32 [n, 1, 1, 1]. */
  readonly y?: Value
  /** Cross-attention tokens, [n, 1, l, d]. */
  readonly context?: Value
  /** A vector for each sample, [n, 1, 1, vectorDim]. */
  readonly vector?: Value
  /** A map that goes to the channels after x, [n, h, w, concatChannels]. */
  readonly concat?: Value
  /** The network's last estimate of x_0, as x; zeros where there is none yet. For a network with `selfCondition`. */
  readonly estimate?: Value
}

/** What of a network does not depend on x. A sampling computes it before the steps that it is for: sampling/prepared.ts. */
export interface Preparation {
  /** Channels of `told`. */
  readonly toldChannels: number
  /** What the blocks are told of each sample, [n, 1, 1, toldChannels]: of its t, label and vector alone. */
  told(context: BuildContext, t: Value, conditioning: Pick<Conditioning, 'y' | 'vector'>): Value
  /** Channels of each value of `attended`. */
  readonly attendedChannels: readonly number[]
  /** Keys and values of cross-attention, [n, 1, l, c]: of tokens [n, 1, l, d] alone. */
  attended(context: BuildContext, tokens: Value): Value[]
}

/** What `Preparation` gave, in place of which the network computes nothing. Default: it computes it. */
export interface Prepared {
  readonly told?: Value
  readonly attended?: readonly Value[]
}

/** What the first layer of a network with `selfCondition` is given, for `conditioning.estimate` beside x: twice as many channels. */
export function withEstimate(graph: NetworkGraph, x: Value, { estimate }: Conditioning, selfCondition: boolean): Value {
  if (selfCondition !== (estimate !== undefined)) {
    const expected = selfCondition ? 'an estimate of x_0' : 'nothing without selfCondition'
    throw invalidArgument('estimate', expected, estimate && 'a value')
  }
  return estimate ? graph.concat([estimate, x]) : x
}

export interface Network {
  readonly inChannels: number
  readonly outChannels: number
  /** Height and width of the images it is configured for; others work where they divide by `divisor`. */
  readonly imageSize: number
  /** Their width, where it is another. */
  readonly imageWidth?: number
  /** Height and width must be multiples of this, 2^(levels - 1). */
  readonly divisor: number
  /** Timesteps that it knows, from 0 on; undefined where it takes any. */
  readonly numTimesteps?: number
  /** Timestep 0 has no meaning for it. */
  readonly positiveTimesteps?: boolean
  /** Of class labels; undefined where it takes none. */
  readonly numClasses?: number
  /** Channels of the context tokens of cross-attention; undefined where it takes none. */
  readonly contextDim?: number
  /** Numbers of the vector that it is told of a sample; undefined where it takes none. */
  readonly vectorDim?: number
  /** It can do without the vector, which is then as one of zeros. */
  readonly vectorIsOptional?: boolean
  /** Channels of the map that it is given beside x; undefined or 0 where it takes none. */
  readonly concatChannels?: number
  /** It takes its own last estimate of x_0: Chen et al. 2023, "Analog Bits", section 3. */
  readonly selfCondition?: boolean
  readonly parameters: ParameterTable
  /** Undefined: nothing that `build` could be given. */
  readonly preparation?: Preparation
  /** Appends the network: x [n, h, w, inChannels] and t [n, 1, 1, 1] (i32 or f32) to [n, h, w, outChannels]. */
  build(context: BuildContext, x: Value, t: Value, conditioning?: Conditioning, prepared?: Prepared): Value
}
