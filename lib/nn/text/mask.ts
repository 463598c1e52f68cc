/** Masks of attention among the tokens of a text, as Graph.attention takes them. */
import type { Graph, Value } from '../../graph'

export interface PairMaskOptions {
  /** A token attends to itself and those before it. Default false. */
  readonly causal?: boolean
  /** 1 where a token is attended to and 0 where it is padding, [samples, length]. Default: to all, the same for all texts. */
  readonly attended?: Int32Array
  /** Tokens that are not attended to attend to none, and so to all alike: x_transformer's input_mask. Default false. */
  readonly ofQueries?: boolean
}

/** [samples, 1, length, length], or [1, 1, length, length] without `attended`. */
export function pairMask(
  length: number,
  { causal = false, attended, ofQueries = false }: PairMaskOptions,
): Float32Array {
  const samples = attended ? attended.length / length : 1
  const mask = new Float32Array(samples * length * length)
  for (let n = 0, i = 0; n < samples; n++) {
    const isAttended = (token: number) => attended?.[n * length + token] !== 0
    for (let query = 0; query < length; query++) {
      const attends = !ofQueries || isAttended(query)
      for (let key = 0; key < length; key++, i++) {
        if (attends && isAttended(key) && (!causal || key <= query)) mask[i] = 1
      }
    }
  }
  return mask
}

/** A constant of the graph. */
export function causalMask(graph: Graph, length: number): Value {
  return graph.constant(pairMask(length, { causal: true }), [1, 1, length, length])
}
