/** The kinds of conditions, a closed list: what a network is told besides x, t and its own estimate. */
import type { Value } from '../graph'
import type { Conditioning, Network } from './network'

/** Makes the inputs of a graph for n samples, or of an ONNX file. */
export interface ConditionInputs {
  /** Class labels, i32 [n, 1, 1, 1]. */
  labels(): Value
  /** Tokens of cross-attention, [n, 1, l, channels]. */
  context(channels: number): Value
  /** A vector for each sample, [n, 1, 1, channels]; undefined: none is given. */
  vector(channels: number): Value | undefined
  /** A map of x's size, [n, h, w, channels]. */
  concat(channels: number): Value
}

/** The inputs that the network takes. */
export function conditioningOf(
  { numClasses, contextDim, vectorDim, concatChannels }: Network,
  inputs: ConditionInputs,
): Pick<Conditioning, 'y' | 'context' | 'vector' | 'concat'> {
  return {
    y: numClasses === undefined ? undefined : inputs.labels(),
    context: contextDim === undefined ? undefined : inputs.context(contextDim),
    vector: vectorDim === undefined ? undefined : inputs.vector(vectorDim),
    concat: concatChannels ? inputs.concat(concatChannels) : undefined,
  }
}
