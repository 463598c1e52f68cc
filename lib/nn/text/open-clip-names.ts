/** OpenCLIP's text transformer as transformers' CLIPTextModel, as Stable Diffusion 2's folders have it, and back. */

import { Tensor } from '../../tensor'
import type { StateDict } from '../parameters'
import type { CLIPTextOptions } from './clip'
import type { ResolvedOpenCLIPTextOptions } from './open-clip'

/** Modules of a layer, OpenCLIP's name and transformers'. */
const ofLayer: readonly (readonly [string, string])[] = [
  ['ln_1', 'layer_norm1'],
  ['attn.out_proj', 'self_attn.out_proj'],
  ['ln_2', 'layer_norm2'],
  ['mlp.c_fc', 'mlp.fc1'],
  ['mlp.c_proj', 'mlp.fc2'],
]
const projections = ['q_proj', 'k_proj', 'v_proj']

/** What is beside the layers. */
const others: readonly (readonly [string, string])[] = [
  ['token_embedding.weight', 'embeddings.token_embedding.weight'],
  ['positional_embedding', 'embeddings.position_embedding.weight'],
  ['ln_final.weight', 'final_layer_norm.weight'],
  ['ln_final.bias', 'final_layer_norm.bias'],
]

/** The same network without the projection to what texts share with images; `layers`: the first of them. */
export function clipOptionsOf(o: ResolvedOpenCLIPTextOptions, layers: number = o.layers): CLIPTextOptions {
  return {
    vocabSize: o.vocabSize,
    hiddenSize: o.width,
    intermediateSize: 4 * o.width,
    numHiddenLayers: layers,
    numAttentionHeads: o.heads,
    maxPositionEmbeddings: o.contextLength,
    hiddenAct: o.quickGelu ? 'quick_gelu' : 'gelu',
  }
}

/** Its weights by transformers' names. Either has names with what is before them: 'model.', 'text_model.'. */
export async function clipWeightsOf(dict: StateDict, layers: number, from: string, to: string): Promise<StateDict> {
  const result: StateDict = {}
  for (const [name, theirs] of others) result[to + theirs] = dict[from + name]
  for (let i = 0; i < layers; i++) {
    const [own, other] = [`${from}transformer.resblocks.${i}.`, `${to}encoder.layers.${i}.`]
    for (const [name, theirs] of ofLayer) {
      for (const part of ['weight', 'bias']) result[`${other}${theirs}.${part}`] = dict[`${own}${name}.${part}`]
    }
    for (const part of ['weight', 'bias']) {
      const joined = dict[`${own}attn.in_proj_${part}`]
      const values = await joined.data()
      const [rows, ...rest] = joined.shape
      for (const [which, name] of projections.entries()) {
        const size = values.length / 3
        const third = Tensor.wrap(values.slice(which * size, (which + 1) * size), [rows / 3, ...rest])
        result[`${other}self_attn.${name}.${part}`] = third
      }
    }
  }
  return result
}

/** The way back, of the layers that there are. */
export async function openClipWeightsOf(dict: StateDict, layers: number, from: string, to: string): Promise<StateDict> {
  const result: StateDict = {}
  for (const [name, theirs] of others) result[to + name] = dict[from + theirs]
  for (let i = 0; i < layers; i++) {
    const [own, other] = [`${to}transformer.resblocks.${i}.`, `${from}encoder.layers.${i}.`]
    for (const [name, theirs] of ofLayer) {
      for (const part of ['weight', 'bias']) result[`${own}${name}.${part}`] = dict[`${other}${theirs}.${part}`]
    }
    for (const part of ['weight', 'bias']) {
      const parts = projections.map((name) => dict[`${other}self_attn.${name}.${part}`])
      const values = await Promise.all(parts.map((tensor) => tensor.data()))
      const joined = new Float32Array(3 * values[0].length)
      for (const [which, data] of values.entries()) joined.set(data, which * data.length)
      const [rows, ...rest] = parts[0].shape
      result[`${own}attn.in_proj_${part}`] = Tensor.wrap(joined, [3 * rows, ...rest])
    }
  }
  return result
}
