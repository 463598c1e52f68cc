/** What text encoders have in common: token ids to states, one after each layer. */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Parameter, ParameterTable } from '../parameters'

/** Text encoders are not written to ONNX files, and so may use all that a graph has. */
export interface TextContext {
  readonly graph: Graph
  /** True in training: dropout is active. */
  readonly train: boolean
  /** i32 [1, 1, 1, 4]: seed low, seed high, step, 0. Needed where train is true and there is dropout. */
  readonly rng?: Value
}

/** All [n, 1, length, width]. What nobody reads is not computed. */
export interface TextStates {
  /** The embedding, then what each layer puts out. */
  readonly hidden: readonly Value[]
  /** The last of these, normalized. */
  readonly last: Value
}

export interface TextNetwork {
  readonly parameters: ParameterTable
  /** Ids are below this. */
  readonly vocabSize: number
  /** How many tokens a text has at most. */
  readonly maxLength: number
  /** Channels of a token. */
  readonly width: number
  /**
   * Appends the network for `samples` texts of one length, ids i32 [samples * length, 1, 1, 1]. mask [1 or samples, 1, length, length]
   * as in Graph.attention; `pairMask` makes one. Default: what the network was trained with.
   */
  build(context: TextContext, ids: Value, o: { readonly samples: number; readonly mask?: Value }): TextStates
}

/** Tokens and their positions as [samples, 1, length, width]. */
export function embedTokens(
  { graph }: TextContext,
  ids: Value,
  samples: number,
  { tokens, positions }: { readonly tokens: Parameter; readonly positions: Parameter },
): Value {
  const [count] = ids.dims
  const length = count / samples
  if (length > positions.shape[0]) throw invalidArgument('ids', `at most ${positions.shape[0]} tokens a text`, length)
  const places = graph.constant(
    Int32Array.from({ length: count }, (_, i) => i % length),
    [count, 1, 1, 1],
  )
  const sum = graph.add(
    graph.embedding(ids, graph.parameter(tokens)),
    graph.embedding(places, graph.parameter(positions)),
  )
  return graph.reshape(sum, [samples, 1, length, tokens.shape[1]])
}

/** Of each text the state at one position: `rows` i32 [n, 1, 1, 1] counts through all texts, n * length + position. [n, 1, 1, width]. */
export function statesAt({ graph }: TextContext, states: Value, rows: Value): Value {
  const [samples, , length, width] = states.dims
  return graph.embedding(rows, graph.reshape(states, [samples * length, 1, 1, width]))
}
