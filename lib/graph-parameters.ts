/** The parameters of a graph: each slot is one value, wherever in the banks a part of the graph finds it. */
import type { Value } from './graph-values'
import type { WeightFormat } from './native'
import type { ParameterSlot, TablePlace } from './parameter-slot'

/** Of a 'parameter' node. */
type ParameterAttributes = {
  readonly name: string
  readonly shape: readonly number[]
  readonly offset: number
  readonly frozen: boolean
  readonly format: WeightFormat
  readonly scales?: number
}

export class GraphParameters {
  readonly #values = new Map<string, Value>()
  #place: TablePlace = { prefix: '', offset: 0, frozenOffset: 0 }
  #untrained = false

  /** The slot's value, which `add` makes where it was not asked for before. */
  value(slot: ParameterSlot, add: (attributes: ParameterAttributes) => Value): Value {
    const name = this.#place.prefix + slot.name
    const known = this.#values.get(name)
    if (known) return known
    const { shape, graphShape = shape, frozen = false, format = 'fp32', scales } = slot
    const place = frozen ? this.#place.frozenOffset : this.#place.offset
    const value = add({
      name,
      shape: graphShape,
      offset: slot.offset + place,
      frozen: frozen || this.#untrained,
      format,
      ...(scales !== undefined && { scales: scales + place }),
    })
    this.#values.set(name, value)
    return value
  }

  /** Those that `build` asks for have no gradients, and are read from the bank 'frozen'. */
  untrained<T>(build: () => T): T {
    this.#untrained = true
    try {
      return build()
    } finally {
      this.#untrained = false
    }
  }

  /** Those that `build` asks for lie at `place`. */
  placed<T>(place: TablePlace, build: () => T): T {
    const outer = this.#place
    this.#place = place
    try {
      return build()
    } finally {
      this.#place = outer
    }
  }
}
