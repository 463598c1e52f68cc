/** CLIP's pool of a map: attention of its mean to itself and to all pixels (openaimodel.AttentionPool2d). */
import type { Graph, Value } from '../../graph'
import { Linear } from '../layers'
import { type Parameter, type Scope, uniformFanIn } from '../parameters'

export interface AttentionPoolOptions {
  /** Height and width of the map. */
  readonly size: number
  /** A divisor of the channels. */
  readonly heads: number
  readonly outChannels: number
}

export class AttentionPool2d {
  /** A column for the mean, then one for each pixel. */
  readonly #position: Parameter
  readonly #qkv: Linear
  readonly #out: Linear

  constructor(
    scope: Scope,
    readonly channels: number,
    private readonly o: AttentionPoolOptions,
  ) {
    // A third of the channels: the variance of N(0, 1 / channels), which openaimodel draws from.
    const init = uniformFanIn(channels / 3)
    this.#position = scope.parameter('positional_embedding', [channels, o.size ** 2 + 1], init)
    this.#qkv = new Linear(scope.at('qkv_proj'), channels, 3 * channels, { conv1d: true })
    this.#out = new Linear(scope.at('c_proj'), channels, o.outChannels, { conv1d: true })
  }

  /** x [n, size, size, channels] to [n, 1, 1, outChannels]. */
  build(context: { readonly graph: Graph; readonly train: boolean }, x: Value): Value {
    const { graph } = context
    const { channels } = this
    const { size, heads } = this.o
    const tokens = graph.concatTokens(graph.avgPool(x, { kernel: size }), x)
    const qkv = this.#qkv.build(context, graph.add(tokens, this.#positions(graph, x.dims[0])))
    const [q, k, v] = [0, 1, 2].map((i) => graph.slice(qkv, { start: i * channels, count: channels }))
    // Of what comes out only the mean's token is used.
    const mean = graph.sliceTokens(q, { start: 0, height: 1, width: 1 })
    return this.#out.build(context, graph.attention(mean, k, v, { heads, scale: 1 / Math.sqrt(channels / heads) }))
  }

  /** For each sample: the only row of a table, which is a sample in CHW order. */
  #positions(graph: Graph, n: number): Value {
    const { channels } = this
    const width = this.o.size ** 2 + 1
    const table = graph.parameter({ ...this.#position, shape: [1, channels * width] })
    const rows = graph.embedding(graph.constant(new Int32Array(n), [n, 1, 1, 1]), table)
    return graph.toNhwc(rows, { channels, height: 1, width })
  }
}
