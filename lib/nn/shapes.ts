/** Options of networks by the names and shapes of their state dicts, for files that come without a configuration. */
import { DiffusionError, quote } from '../errors'

/** What a file says of its tensors, by the network's names. */
export type Shapes = Readonly<Record<string, { readonly shape: readonly number[] }>>

/** The tensors of one network, by its own names. */
export class ShapeReader {
  /** `what` begins messages: a path. */
  constructor(
    private readonly shapes: Shapes,
    private readonly what: string,
  ) {}

  has(name: string): boolean {
    return Object.hasOwn(this.shapes, name)
  }

  /** Throws `unsupported` unless it is there with so many dimensions, none of them 0. */
  of(name: string, rank: number): readonly number[] {
    const shape = this.has(name) ? this.shapes[name].shape : []
    if (shape.length === rank && shape.every((extent) => extent > 0)) return shape
    throw this.unknown(`it has no ${quote(name)} of ${rank} dimensions`)
  }

  /** How many of a list of modules there are: `name` says one parameter of module i. */
  count(name: (i: number) => string): number {
    let n = 0
    while (this.has(name(n))) n++
    return n
  }

  /** `option`: what says it. */
  unknown(problem: string, option = 'config'): DiffusionError {
    const message = `${this.what}: its configuration does not follow from its tensors: ${problem}; the option ${option} says it`
    return new DiffusionError('unsupported', message, { argument: option })
  }
}

/** The tensors whose names begin with `prefix`, without it. */
export function shapesWithin(shapes: Shapes, prefix: string): Shapes {
  const own = Object.entries(shapes).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(own.map(([name, value]) => [name.slice(prefix.length), value]))
}
