/** Low-rank updates of a latent model's text encoder, by the names of transformers' CLIPTextModel. */
import { type LayerShapes, type LoraUpdates, mergeUpdates } from '../../nn/lora/lora-weights'
import { clipWeightsOf, openClipWeightsOf } from '../../nn/text/open-clip-names'
import type { StateDict } from '../../nn/weights'
import { FrozenCLIPEmbedder } from '../../stages/text/clip'
import { FrozenOpenCLIPEmbedder } from '../../stages/text/open-clip'
import type { CondStage } from './stages'

const clipPrefix = 'transformer.'
const layer = /^(text_model\.encoder\.layers\.\d+\..*_proj|text_model\.encoder\.layers\.\d+\.mlp\.fc[12])\.weight$/

type Clip = FrozenCLIPEmbedder | FrozenOpenCLIPEmbedder

/** Of CLIP, OpenCLIP's too; undefined for another stage. */
export function updatedText(stage: CondStage | undefined) {
  if (!(stage instanceof FrozenCLIPEmbedder || stage instanceof FrozenOpenCLIPEmbedder)) return undefined
  return { layers: () => layersOf(stage), add: (updates: LoraUpdates) => add(stage, updates) }
}

async function layersOf(stage: Clip): Promise<LayerShapes> {
  const shapes = Object.entries(await weightsOf(stage)).flatMap(([name, { shape }]) => {
    const module = layer.exec(name)?.[1]
    return module === undefined ? [] : [[module, shape] as const]
  })
  return new Map(shapes)
}

async function add(stage: Clip, updates: LoraUpdates): Promise<void> {
  const weights = await mergeUpdates(await weightsOf(stage), updates)
  if (stage instanceof FrozenCLIPEmbedder) {
    const named = Object.entries(weights).map(([name, tensor]) => [clipPrefix + name, tensor])
    await stage.loadStateDict(Object.fromEntries(named))
    return
  }
  const own = await openClipWeightsOf(weights, stage.network.options.layers, 'text_model.', 'model.')
  await stage.loadStateDict({ ...(await stage.stateDict()), ...own })
}

async function weightsOf(stage: Clip): Promise<StateDict> {
  const dict = await stage.stateDict()
  if (stage instanceof FrozenOpenCLIPEmbedder)
    return clipWeightsOf(dict, stage.network.options.layers, 'model.', 'text_model.')
  return Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [name.slice(clipPrefix.length), tensor]))
}
