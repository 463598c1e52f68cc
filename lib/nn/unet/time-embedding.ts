/** How a network is told the timestep: a projection of the number to a vector, and two linear layers. */
import type { Value } from '../../graph'
import { Embedding, type Layer, Linear, observed } from '../layers'
import type { BuildContext } from '../network'
import { normalOf, type Parameter, type Scope } from '../parameters'

/** t [n, 1, 1, 1] to [n, 1, 1, dim]. */
export interface TimeProjection extends Layer {
  readonly dim: number
}

/** Vaswani et al. 2017, 3.5: fixed frequencies. */
export class Sinusoids implements TimeProjection {
  constructor(
    readonly dim: number,
    private readonly o: { freqShift: number; sinFirst: boolean },
  ) {}

  build({ graph }: BuildContext, t: Value): Value {
    return graph.timestepEmbedding(t, { dim: this.dim, maxPeriod: 10000, ...this.o })
  }
}

/** diffusers' GaussianFourierProjection: of log(t), by frequencies that are drawn once and not trained. */
export class FourierProjection implements TimeProjection {
  readonly dim: number
  readonly #weight: Parameter

  constructor(scope: Scope, frequencies: number) {
    this.dim = 2 * frequencies
    this.#weight = scope.parameter('weight', [frequencies], normalOf(16))
    const { name } = this.#weight
    scope.table.freeze((other) => other === name)
  }

  build({ graph }: BuildContext, t: Value): Value {
    return graph.fourierEmbedding(t, graph.parameter(this.#weight), { log: true, sinFirst: true })
  }
}

/** A row of a table for each timestep. */
export class LearnedProjection implements TimeProjection {
  readonly #table: Embedding

  constructor(
    scope: Scope,
    timesteps: number,
    readonly dim: number,
  ) {
    this.#table = new Embedding(scope, timesteps, dim)
  }

  build(context: BuildContext, t: Value): Value {
    return this.#table.build(context, t)
  }
}

/** Two linear layers: [n, 1, 1, inDim] to [n, 1, 1, outDim]. */
export class EmbeddingLayers implements Layer {
  readonly #first: Linear
  readonly #second: Linear

  constructor(first: Scope, second: Scope, o: { inDim: number; outDim: number }) {
    this.#first = new Linear(first, o.inDim, o.outDim)
    this.#second = new Linear(second, o.outDim, o.outDim)
  }

  build(context: BuildContext, x: Value): Value {
    return this.#second.build(context, context.graph.silu(this.#first.build(context, x)))
  }
}

/** A projection of t through two linear layers: t [n, 1, 1, 1] to [n, 1, 1, outDim]. */
export class TimestepEmbedding implements Layer {
  readonly #projection: TimeProjection
  readonly #layers: EmbeddingLayers

  constructor(first: Scope, second: Scope, o: { projection: TimeProjection; outDim: number }) {
    this.#projection = o.projection
    this.#layers = new EmbeddingLayers(first, second, { inDim: o.projection.dim, outDim: o.outDim })
  }

  /** `added`: to the projection, [n, 1, 1, projection.dim]. */
  build(context: BuildContext, t: Value, added?: Value): Value {
    const projected = observed(context, 'timestep_embedding', this.#projection.build(context, t))
    return this.#layers.build(context, added ? context.graph.add(projected, added) : projected)
  }
}
