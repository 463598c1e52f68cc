/** What a network is told besides x and t: class labels, the context of cross-attention, a vector, a map. */
import type { Device } from '../../device'
import type { Graph } from '../../graph'
import { conditioningOf } from '../../nn/conditions'
import type { Conditioning, Network } from '../../nn/network'
import type { Bindings } from '../../program'
import type { Shape, Tensor } from '../../tensor'
import type { Integers } from './timesteps'

/** One label for all samples, or one for each; also by names, as classLabel takes them. */
export type ClassLabels = Integers | string | readonly (string | number)[]

/** What the network is told besides x and t. */
export interface Condition {
  /** A label for each sample; undefined where the network takes none. */
  readonly y?: Int32Array
  /** Tokens [n, l, contextDim]; undefined where the network takes none. */
  readonly context?: Tensor
  /** [n, vectorDim]; undefined where the network takes none, or can do without. */
  readonly vector?: Tensor
  /** A map of x's size, [n, concatChannels, h, w]; undefined where the network takes none. */
  readonly concat?: Tensor
}

/** What the graph of a conditioned network depends on: a part of programs' keys. */
export type ConditionKind = {
  /** 0 without context. */
  readonly contextLength: number
  /** A vector is given. */
  readonly vector: boolean
}

export function kindOf({ context, vector }: Condition): ConditionKind {
  return { contextLength: context?.shape[1] ?? 0, vector: vector !== undefined }
}

/** The inputs that the network takes, with `prefix` before their names. */
export function conditionInputs(
  graph: Graph,
  network: Network,
  { shape, contextLength, vector, prefix = '' }: ConditionKind & { shape: Shape; prefix?: string },
): Conditioning {
  const [n, , height, width] = shape
  const name = (input: string) => prefix + input
  return conditioningOf(network, {
    labels: () => graph.input(name('labels'), [n, 1, 1, 1], 'i32'),
    context: (channels) => graph.input(name('context'), [n, 1, contextLength, channels]),
    vector: (channels) => (vector ? graph.input(name('vector'), [n, 1, 1, channels]) : undefined),
    concat: (channels) => {
      return graph.toNhwc(graph.input(name('concat'), [n, 1, 1, channels * height * width]), {
        channels,
        height,
        width,
      })
    },
  })
}

/** What these inputs are at run time. */
export async function conditionBindings(
  device: Device,
  { y, context, vector, concat }: Condition,
  prefix = '',
): Promise<Bindings> {
  return {
    ...(y && { [`${prefix}labels`]: y }),
    ...(context && { [`${prefix}context`]: await context.binding(device) }),
    ...(vector && { [`${prefix}vector`]: await vector.binding(device) }),
    ...(concat && { [`${prefix}concat`]: await concat.binding(device) }),
  }
}
