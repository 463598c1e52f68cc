/** Low-rank updates of a model: read, applied to its state, and made part of its weights. */
import { readLora } from '../../checkpoint/lora-file'
import { invalidArgument } from '../../errors'
import { LoraNetwork } from '../../nn/lora/lora'
import {
  adapterEntries,
  checkUpdates,
  joinUpdates,
  type LayerShapes,
  type LoraUpdates,
  layerShapes,
  mergeUpdates,
  updatesOf,
} from '../../nn/lora/lora-weights'
import type { Network } from '../../nn/network'
import type { ParameterTable, StateDict } from '../../nn/parameters'
import { UNet } from '../../nn/unet/unet'
import { boolean, number, parseOptions, required, type SchemaOf, string } from '../../options'
import { emaName, modelPrefix } from '../formats/state'

/** A file of low-rank updates, and how much of them. */
export interface LoraSource {
  /** safetensors or .pt, by PEFT's, diffusers' or kohya's names. */
  path: string
  /** What the updates are multiplied by, beside their alpha / rank. Default 1. */
  scale?: number
}

/** Of DDPM.withLoras. */
export interface WithLorasOptions {
  /** Make them part of the weights, which costs nothing in sampling; else they are layers beside. Default true. */
  merge?: boolean
}

const sourceSchema = { path: required(string()), scale: number(1) } satisfies SchemaOf<LoraSource>
export const withLorasSchema = { merge: boolean(true) } satisfies SchemaOf<WithLorasOptions>

/** A model's text encoder, by transformers' names. */
export interface UpdatedText {
  /** What updates may be of. */
  layers(): Promise<LayerShapes>
  /** Makes them part of its weights. */
  add(updates: LoraUpdates): Promise<void>
}

/** All files as one update for each module, and names in them that were left out. */
export async function readLoras(
  network: Network,
  sources: readonly LoraSource[],
  updatedText: UpdatedText | undefined,
): Promise<{ updates: LoraUpdates; textUpdates: LoraUpdates; warnings: string[] }> {
  if (!Array.isArray(sources) || sources.length === 0)
    throw invalidArgument('loras', 'an array of { path, scale }', sources)
  const layers = layerShapes(network.parameters)
  const text = await updatedText?.layers()
  const modules = { unet: [...layers.keys()], aliases: diffusersAliases(network), text: text && [...text.keys()] }
  const all: LoraUpdates[] = []
  const allText: LoraUpdates[] = []
  const warnings: string[] = []
  for (const given of sources) {
    const { path, scale } = parseOptions('loras', given, sourceSchema)
    const found = await readLora(path, modules)
    checkUpdates(layers, found.unet, path)
    checkUpdates(text ?? new Map(), found.text, path)
    all.push(scaled(found.unet, scale))
    allText.push(scaled(found.text, scale))
    const { ignored } = found
    if (ignored.length > 0)
      warnings.push(`${path}: ${ignored.length} names are of no update of the UNet, such as ${ignored[0]}`)
  }
  return { updates: await joinUpdates(all), textUpdates: await joinUpdates(allText), warnings }
}

/** What a model has beside its weights for these updates; undefined for none. */
export function ranksOf(updates: LoraUpdates): { rank: Record<string, number> } | undefined {
  if (updates.size === 0) return undefined
  return { rank: Object.fromEntries([...updates].map(([module, { down }]) => [module, down.shape[0]])) }
}

function scaled(updates: LoraUpdates, scale: number): LoraUpdates {
  return new Map([...updates].map(([module, update]) => [module, { ...update, scale: scale * update.scale }]))
}

/** The modules of a UNet by diffusers' names, by which updates of Stable Diffusion are written, and its own. */
function diffusersAliases(network: Network): ReadonlyMap<string, string> {
  if (!(network instanceof UNet) || network.options.layout === 'diffusers') return new Map()
  const own = network.parameters.slots
  const theirs = new UNet({ ...network.options, layout: 'diffusers', useNewAttentionOrder: false }).parameters.slots
  // An attention without transformer has three modules there for one here.
  if (own.length !== theirs.length) return new Map()
  const moduleOf = (name: string) => name.replace(/\.weight$/, '')
  return new Map(theirs.map(({ name }, i) => [moduleOf(name), moduleOf(own[i].name)]))
}

/** A state dict of ddpm.py's names with the network's weights, and its averages, changed by `change`. */
export async function changeWeights(
  dict: StateDict,
  { slots }: ParameterTable,
  change: (weights: StateDict) => Promise<StateDict>,
): Promise<StateDict> {
  const changed = { ...dict }
  for (const nameOf of [(name: string) => modelPrefix + name, emaName]) {
    const own = slots.filter(({ name }) => nameOf(name) in dict)
    if (own.length === 0) continue
    const weights = Object.fromEntries(own.map(({ name }) => [name, dict[nameOf(name)]]))
    for (const { name } of own) delete changed[nameOf(name)]
    for (const [name, tensor] of Object.entries(await change(weights))) changed[nameOf(name)] = tensor
  }
  return changed
}

/** The weights with updates, which are beside them in a network that has adapters, and else a part of them. */
export async function updated(
  weights: StateDict,
  updates: LoraUpdates,
  network: Network | undefined,
): Promise<StateDict> {
  if (!(network instanceof LoraNetwork)) return mergeUpdates(weights, updates)
  return { ...weights, ...(await adapterEntries(network.adapters, updates)) }
}

/** The weights of the network without adapters that computes the same. */
export async function mergeAdapters({ adapters }: LoraNetwork, weights: StateDict): Promise<StateDict> {
  const merged = await mergeUpdates(weights, updatesOf(adapters, weights))
  for (const { down, up } of adapters) {
    delete merged[down.name]
    delete merged[up.name]
  }
  return merged
}
