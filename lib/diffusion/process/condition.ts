/** What a network is told besides x and t: class labels, and the context of cross-attention. */
import type { Tensor } from '../../tensor'
import type { Integers } from './timesteps'

/** One label for all samples, or one for each; also by names, as classLabel takes them. */
export type ClassLabels = Integers | string | readonly (string | number)[]

/** What the network is told besides x and t. */
export interface Condition {
  /** A label for each sample; undefined where the network takes none. */
  readonly y?: Int32Array
  /** Tokens [n, l, contextDim]; undefined where the network takes none. */
  readonly context?: Tensor
}

/** What the graph of a conditioned network depends on: a part of programs' keys. */
export interface ConditionKind {
  /** 0 without context. */
  readonly contextLength: number
}

export function kindOf({ context }: Condition): ConditionKind {
  return { contextLength: context?.shape[1] ?? 0 }
}
