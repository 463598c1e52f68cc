/** The layer of all these encoders: self-attention and two linear layers, each after a norm and around it a residual. */
import type { Value } from '../../graph'
import { type Layer, Linear } from '../layers'
import { normalOf, type Parameter, type Scope, zeros } from '../parameters'
import type { TextContext } from './network'

/** 'gelu': the exact one, with erf. 'quick_gelu': x sigmoid(1.702 x). */
export type TextActivation = 'gelu' | 'quick_gelu'

/** From the tokens to queries, keys and values. */
interface QueriesKeysValues {
  build(context: TextContext, x: Value): readonly Value[]
}

/** Three linear layers, which are computed as one. */
export class SeparateQkv implements QueriesKeysValues {
  constructor(
    scope: Scope,
    private readonly layers: readonly [Linear, Linear, Linear],
  ) {
    Linear.placeTogether(scope.table, layers)
  }

  build(context: TextContext, x: Value): Value[] {
    return Linear.buildAll(context, x, this.layers)
  }
}

/** torch.nn.MultiheadAttention's in_proj_weight and in_proj_bias, [q; k; v]. */
export class JoinedQkv implements QueriesKeysValues {
  readonly #weight: Parameter
  readonly #bias: Parameter

  constructor(
    scope: Scope,
    private readonly dim: number,
    std: number,
  ) {
    this.#weight = scope.parameter('in_proj_weight', [3 * dim, dim], normalOf(std), 'linear')
    this.#bias = scope.parameter('in_proj_bias', [3 * dim], zeros)
  }

  build({ graph }: TextContext, x: Value): Value[] {
    const all = graph.linear(x, graph.parameter(this.#weight), graph.parameter(this.#bias))
    return [0, 1, 2].map((i) => graph.slice(all, { start: i * this.dim, count: this.dim }))
  }
}

interface BlockParts {
  readonly attentionNorm: Layer
  readonly qkv: QueriesKeysValues
  readonly out: Layer
  readonly feedForwardNorm: Layer
  readonly up: Layer
  readonly down: Layer
}

interface BlockOptions {
  readonly heads: number
  readonly headChannels: number
  readonly activation: TextActivation
}

export class TextBlock {
  constructor(
    private readonly parts: BlockParts,
    private readonly o: BlockOptions,
  ) {}

  build(context: TextContext, x: Value, mask?: Value): Value {
    const { graph } = context
    const { attentionNorm, qkv, out, feedForwardNorm, up, down } = this.parts
    const { heads, headChannels, activation } = this.o
    const [q, k, v] = qkv.build(context, attentionNorm.build(context, x))
    const attended = graph.attention(q, k, v, { heads, scale: 1 / Math.sqrt(headChannels), mask })
    const h = graph.add(x, out.build(context, attended))
    const inner = up.build(context, feedForwardNorm.build(context, h))
    const active = activation === 'gelu' ? graph.gelu(inner) : graph.quickGelu(inner)
    return graph.add(h, down.build(context, active))
  }
}

/** What `x` and then each of the blocks puts out. */
export function buildBlocks(context: TextContext, x: Value, blocks: readonly TextBlock[], mask?: Value): Value[] {
  const hidden = [x]
  for (const block of blocks) hidden.push(block.build(context, hidden[hidden.length - 1], mask))
  return hidden
}
