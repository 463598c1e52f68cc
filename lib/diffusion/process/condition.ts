/** What a network is told besides x and t: class labels, the context of cross-attention, a vector, a map. */
import type { Device } from '../../device'
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import { conditioningOf } from '../../nn/conditions'
import type { Conditioning, Network } from '../../nn/network'
import type { Bindings } from '../../program'
import type { Shape, Tensor } from '../../tensor'
import type { Integers } from './timesteps'

/** One label for all samples, or one for each; also by names, as classLabel takes them. */
export type ClassLabels = Integers | string | readonly (string | number)[]

/** A condition that the step's graph makes, so that gradients reach what makes it. */
export interface MadeCondition {
  readonly as: 'context' | 'concat'
  /** Names everything that `build` depends on. */
  readonly key: string
  /** Inputs of it. */
  readonly bindings: Bindings
  /** Tokens [n, 1, l, d], or a map [n, h, w, c]. */
  build(context: { graph: Graph; train: boolean; rng?: Value }): Value
}

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
  /** In place of context or map. */
  readonly made?: MadeCondition
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

/** The inputs that the network takes, with `prefix` before their names; `made` takes the place of one. */
export function conditionInputs(
  graph: Graph,
  network: Network,
  o: ConditionKind & { shape: Shape; prefix?: string; train: boolean; made?: MadeCondition },
): Conditioning {
  const { contextLength, vector, prefix = '', train, made } = o
  const [n, , height, width] = o.shape
  const name = (input: string) => prefix + input
  const make = (dims: readonly (number | undefined)[]) => {
    const rng = train ? graph.input('stageDropoutRng', [1, 1, 1, 4], 'i32') : undefined
    const value = made!.build({ graph, train, rng })
    if (dims.every((size, axis) => size === undefined || size === value.dims[axis])) return value
    throw invalidArgument(
      'condStage',
      `what gives the network [${dims.map((size) => size ?? 'any').join(', ')}]`,
      value,
    )
  }
  return conditioningOf(network, {
    labels: () => graph.input(name('labels'), [n, 1, 1, 1], 'i32'),
    context: (channels) => {
      if (made?.as === 'context') return make([n, 1, undefined, channels])
      return graph.input(name('context'), [n, 1, contextLength, channels])
    },
    vector: (channels) => (vector ? graph.input(name('vector'), [n, 1, 1, channels]) : undefined),
    concat: (channels) => {
      if (made?.as === 'concat') return make([n, height, width, channels])
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
  { y, context, vector, concat, made }: Condition,
  prefix = '',
): Promise<Bindings> {
  return {
    ...made?.bindings,
    ...(y && { [`${prefix}labels`]: y }),
    ...(context && { [`${prefix}context`]: await context.binding(device) }),
    ...(vector && { [`${prefix}vector`]: await vector.binding(device) }),
    ...(concat && { [`${prefix}concat`]: await concat.binding(device) }),
  }
}
