/** What the residual blocks are told of a sample: its timestep, class label and vector, in one embedding. */
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Embedding, type Layer, Linear, observed } from '../layers'
import type { BuildContext, Conditioning } from '../network'
import type { Scope } from '../parameters'
import type { UNetNames } from './names'
import type { ResolvedUNetOptions } from './options'
import {
  EmbeddingLayers,
  FourierProjection,
  LearnedProjection,
  Sinusoids,
  type TimeProjection,
  TimestepEmbedding,
} from './time-embedding'
import { augmentationLayer } from './vector-embedding'

/** The sum of the time embedding and those of label and vector; a vector of augmentation goes through the former's layers. */
export class SampleEmbedding {
  readonly #time: TimestepEmbedding
  readonly #labels?: Layer
  /** Beside the time embedding. */
  readonly #vector?: Layer
  /** Before its layers. */
  readonly #augmentation?: Linear

  constructor(
    root: Scope,
    private readonly options: ResolvedUNetOptions,
    names: UNetNames,
  ) {
    const [first, second] = names.timeEmbedding.map((name) => root.at(name))
    const projection = projectionOf(root.at('time_proj'), options)
    const { timeEmbeddingDim: outDim, numClasses, vectorDim, vectorEmbedding } = options
    this.#time = new TimestepEmbedding(first, second, { projection, outDim })
    const labels = root.at(names.labels)
    if (numClasses !== undefined) {
      this.#labels =
        options.classEmbedding === 'table'
          ? new Embedding(labels, numClasses, outDim)
          : new TimestepEmbedding(labels.at('linear_1'), labels.at('linear_2'), { projection, outDim })
    }
    if (vectorDim === undefined) return
    if (vectorEmbedding === 'mlp') {
      const [one, two] = names.vectorLayers.map((name) => labels.at(name))
      this.#vector = new EmbeddingLayers(one, two, { inDim: vectorDim, outDim })
    }
    if (vectorEmbedding === 'identity') this.#vector = { build: (_, vector) => vector }
    if (vectorEmbedding === 'augment') {
      // Zeros give zeros, whatever the weights. These are others at first, since zeros take long to learn anything.
      const o = { bias: false, adaptable: false }
      this.#augmentation = new Linear(root.at(augmentationLayer), vectorDim, projection.dim, o)
    }
  }

  /** t [n, 1, 1, 1] to [n, 1, 1, timeEmbeddingDim]. Throws `invalid-argument` for a condition that is missing, or in excess. */
  build(context: BuildContext, t: Value, { y, vector }: Conditioning): Value {
    this.#check(y, vector)
    const before = this.#augmentation && vector && this.#augmentation.build(context, vector)
    const time = observed(context, 'time_embed', this.#time.build(context, t, before))
    const beside = this.#labels && y ? context.graph.add(time, this.#labels.build(context, y)) : time
    return this.#vector && vector ? context.graph.add(beside, this.#vector.build(context, vector)) : beside
  }

  #check(y: Value | undefined, vector: Value | undefined): void {
    if (!this.#labels !== !y) {
      throw invalidArgument('y', this.#labels ? 'class labels' : 'nothing without numClasses', y && 'a value')
    }
    const { vectorDim } = this.options
    if (vectorDim === undefined && vector) throw invalidArgument('vector', 'nothing without vectorDim', 'a value')
    if (this.#augmentation && !vector) return
    if (vector?.dims[3] !== vectorDim) throw invalidArgument('vector', `[n, 1, 1, ${vectorDim}]`, vector?.dims)
  }
}

function projectionOf(scope: Scope, o: ResolvedUNetOptions): TimeProjection {
  const { modelChannels, freqShift, flipSinToCos, timeEmbedding, numTimesteps } = o
  return {
    sinusoidal: () => new Sinusoids(modelChannels, { freqShift, sinFirst: !flipSinToCos }),
    fourier: () => new FourierProjection(scope, modelChannels),
    learned: () => new LearnedProjection(scope, numTimesteps!, modelChannels),
  }[timeEmbedding]()
}
