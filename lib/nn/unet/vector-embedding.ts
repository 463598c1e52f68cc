/** The options by which a UNet is told a vector of each sample; sample-embedding.ts has the layers. */
import { invalidArgument } from '../../errors'

export const vectorEmbeddings = ['mlp', 'identity', 'augment'] as const
export type VectorEmbedding = (typeof vectorEmbeddings)[number]

/** Numbers that say what was done to an image: see data/augment.ts. */
export const augmentationDim = 9
/** EDM's name of the layer that they go through. */
export const augmentationLayer = 'map_augment'

/** The options of the same network without that layer, which nothing is told in sampling. */
export function withoutAugmentation<T extends { vectorEmbedding?: VectorEmbedding; vectorDim?: number }>(
  options: T,
): T {
  if (options.vectorEmbedding !== 'augment') return options
  return { ...options, vectorEmbedding: undefined, vectorDim: undefined }
}

/** What is said where a network is written without it. */
export const augmentationLeftOut = `${augmentationLayer} was left out: other libraries' networks have no such layer, and samples are drawn without it`

/** The two options with their defaults. Throws `invalid-argument`. */
export function vectorOptions(o: {
  vectorDim?: number
  vectorEmbedding?: VectorEmbedding
  timeEmbeddingDim: number
  numClasses?: number
}): { vectorDim?: number; vectorEmbedding?: VectorEmbedding } {
  if (o.vectorDim === undefined && o.vectorEmbedding === undefined) return {}
  const { vectorEmbedding = 'mlp' } = o
  const implied = { mlp: undefined, identity: o.timeEmbeddingDim, augment: augmentationDim }[vectorEmbedding]
  const vectorDim = o.vectorDim ?? implied
  if (vectorDim === undefined) throw invalidArgument('vectorDim', "a number with vectorEmbedding 'mlp'", vectorDim)
  if (vectorEmbedding === 'identity' && vectorDim !== implied) {
    throw invalidArgument('vectorDim', `timeEmbeddingDim with vectorEmbedding 'identity', ${implied}`, vectorDim)
  }
  if (o.numClasses !== undefined && vectorEmbedding !== 'augment') {
    throw invalidArgument('numClasses', `nothing with vectorEmbedding '${vectorEmbedding}'`, o.numClasses)
  }
  return { vectorDim, vectorEmbedding }
}
