/** vqperceptual.py's hinge_d_loss and vanilla_d_loss, of single logits. */
import type { Graph, Value } from '../graph'

export const discriminatorLosses = ['hinge', 'vanilla'] as const
export type DiscriminatorLoss = (typeof discriminatorLosses)[number]

/** Logits [n, h, w, 1], one below the other: [n h w, 1, 1, 1]. */
export function column(graph: Graph, logits: Value): Value {
  const [n, h, w] = logits.dims
  return graph.reshape(logits, [n * h * w, 1, 1, 1])
}

/** The mean of a column. */
export function meanOf(graph: Graph, values: Value): Value {
  const [count] = values.dims
  return graph.weightedSum(values, graph.constant(new Float32Array(count).fill(1 / count), values.dims))
}

/** Of each logit of a column: what the discriminator loses by it. */
export function lossOfLogits(graph: Graph, logits: Value, o: { loss: DiscriminatorLoss; real: boolean }): Value {
  if (o.loss === 'hinge') return graph.relu(graph.affine(logits, { scale: o.real ? -1 : 1, shift: 1 }))
  // softplus(-l) = -log(e^l / (e^l + e^0)), and softplus(l) is of the other class
  const [count] = logits.dims
  const zeros = graph.constant(new Float32Array(count), logits.dims)
  const label = graph.constant(new Int32Array(count).fill(o.real ? 0 : 1), logits.dims)
  return graph.crossEntropy(graph.concat([logits, zeros]), label)
}
