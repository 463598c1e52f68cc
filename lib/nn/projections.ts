/** What the residual blocks of a network make of one embedding, each by a linear layer of its own: one product for all of them. */
import type { Value } from '../graph'
import { Linear } from './layers'
import type { BuildContext, NetworkGraph } from './network'
import type { ParameterTable } from './parameters'

export class Projections {
  readonly #layers: Linear[] = []

  add(layer: Linear): void {
    this.#layers.push(layer)
  }

  get count(): number {
    return this.#layers.length
  }

  /** Of all that they give. */
  get channels(): number {
    return this.#layers.reduce((sum, { slots }) => sum + slots.weight.shape[0], 0)
  }

  /** When all are added. */
  placeTogether(table: ParameterTable): void {
    Linear.placeTogether(table, this.#layers)
  }

  /** Of an embedding [n, 1, 1, c], by layer. */
  build(context: BuildContext, embedding: Value): ReadonlyMap<Linear, Value> {
    return this.#byLayer(Linear.buildAll(context, embedding, this.#layers))
  }

  /** The same side by side, [n, 1, 1, channels]. */
  joined(context: BuildContext, embedding: Value): Value {
    return context.graph.concat(Linear.buildAll(context, embedding, this.#layers))
  }

  /** By layer, of what `joined` gave. */
  split(graph: NetworkGraph, joined: Value): ReadonlyMap<Linear, Value> {
    let start = 0
    const parts = this.#layers.map(({ slots }) => {
      const count = slots.weight.shape[0]
      start += count
      return graph.slice(joined, { start: start - count, count })
    })
    return this.#byLayer(parts)
  }

  #byLayer(values: readonly Value[]): ReadonlyMap<Linear, Value> {
    return new Map(this.#layers.map((layer, i) => [layer, values[i]]))
  }
}
