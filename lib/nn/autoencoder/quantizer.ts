/** A codebook: taming-transformers' VectorQuantizer2, of which VQModel and VQModelInterface have one. */
import type { Graph, Value } from '../../graph'
import type { BuildContext } from '../network'
import { type Parameter, type Scope, uniformFanIn } from '../parameters'

export interface QuantizerShape {
  /** Entries of the codebook, and numbers of each. */
  readonly nE: number
  readonly eDim: number
  readonly beta: number
  readonly legacy: boolean
}

export interface Quantized {
  /** The entries nearest to z, [n, h, w, c]; its gradient is z's. */
  readonly quant: Value
  /** Their numbers as f32, [n, h, w, 1]. */
  readonly number: Value
  /** Codebook and commitment loss of each sample, [n, 1, 1, 1]: their mean is upstream's. */
  readonly loss: Value
}

/** What a codebook needs of a graph. */
type QuantizerContext = Pick<BuildContext, 'train'> & { readonly graph: Graph }

export class Quantizer {
  readonly #embedding: Parameter

  constructor(
    scope: Scope,
    private readonly o: QuantizerShape,
  ) {
    // U(-1 / nE, 1 / nE)
    this.#embedding = scope.at('embedding').parameter('weight', [o.nE, o.eDim], uniformFanIn(o.nE ** 2))
  }

  /** van den Oord et al. 2017, eq. 1 to 3; legacy: beta on the codebook's term in place of the commitment's. */
  quantize({ graph }: QuantizerContext, z: Value): Quantized {
    const codebook = graph.parameter(this.#embedding)
    const { index, number } = graph.nearestCode(z, codebook)
    const entries = graph.embedding(index, codebook)
    const commitment = graph.loss(z, graph.straightThrough(entries), { type: 'l2' })
    const codes = graph.loss(entries, graph.straightThrough(z), { type: 'l2' })
    const [first, second] = this.o.legacy ? [commitment, codes] : [codes, commitment]
    const loss = graph.add(first, graph.affine(second, { scale: this.o.beta }))
    return { quant: graph.straightThrough(entries, z), number, loss }
  }

  /** The entries of these numbers, i32 [n, h, w, 1]. */
  entries({ graph }: QuantizerContext, index: Value): Value {
    return graph.embedding(index, graph.parameter(this.#embedding))
  }
}
