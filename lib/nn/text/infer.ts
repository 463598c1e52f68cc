/** The sizes of text encoders by the names and shapes of their state dicts. */
import { ShapeReader, type Shapes } from '../shapes'
import type { CLIPTextOptions } from './clip'
import type { OpenCLIPTextOptions } from './open-clip'
import type { TransformerWrapperOptions } from './x-transformer'

/** Channels of a head in every published CLIP: no shape says it. */
const headChannels = 64

/** Of transformers' CLIPTextModel. `given` goes before; numAttentionHeads must be given where 64 does not divide the width. */
export function inferCLIPText(shapes: Shapes, given: CLIPTextOptions, what: string): CLIPTextOptions {
  const s = new ShapeReader(shapes, what)
  const at = (name: string) => `text_model.${name}`
  const [vocabSize, hiddenSize] = s.of(at('embeddings.token_embedding.weight'), 2)
  const heads = given.numAttentionHeads ?? hiddenSize / headChannels
  if (!Number.isInteger(heads))
    throw s.unknown(`how many heads ${hiddenSize} channels have`, 'textConfig.numAttentionHeads')
  return {
    vocabSize,
    hiddenSize,
    intermediateSize: s.of(at('encoder.layers.0.mlp.fc1.weight'), 2)[0],
    numHiddenLayers: s.count((i) => at(`encoder.layers.${i}.layer_norm1.weight`)),
    numAttentionHeads: heads,
    maxPositionEmbeddings: s.of(at('embeddings.position_embedding.weight'), 2)[0],
    ...given,
  }
}

/** Of OpenCLIP's text transformer; `given` as above, with `heads`. */
export function inferOpenCLIPText(shapes: Shapes, given: OpenCLIPTextOptions, what: string): OpenCLIPTextOptions {
  const s = new ShapeReader(shapes, what)
  const [vocabSize, width] = s.of('token_embedding.weight', 2)
  const heads = given.heads ?? width / headChannels
  if (!Number.isInteger(heads)) throw s.unknown(`how many heads ${width} channels have`, 'textConfig.heads')
  return {
    vocabSize,
    width,
    heads,
    embedDim: s.has('text_projection') ? s.of('text_projection', 2)[1] : width,
    contextLength: s.of('positional_embedding', 2)[0],
    layers: s.count((i) => `transformer.resblocks.${i}.ln_1.weight`),
    ...given,
  }
}

/** Of a TransformerWrapper. */
export function inferTransformer(shapes: Shapes, what: string): TransformerWrapperOptions {
  const s = new ShapeReader(shapes, what)
  const [vocabSize, nEmbed] = s.of('transformer.token_emb.weight', 2)
  return {
    vocabSize,
    nEmbed,
    nLayer: s.count((i) => `transformer.attn_layers.layers.${2 * i}.1.to_q.weight`),
    maxSeqLen: s.of('transformer.pos_emb.emb.weight', 2)[0],
  }
}
