/** Low-rank updates of a model: read, applied to its state, and made part of its weights. */
import { type LoraReadOptions, readLora } from '../../checkpoint/lora-file'
import { invalidArgument } from '../../errors'
import { adaptable, type LoraNetwork } from '../../nn/lora/lora'
import { checkUpdates, joinUpdates, type LoraUpdates, mergeUpdates, updatesOf } from '../../nn/lora/lora-weights'
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

/** All files as one update for each module, and names in them that were left out. */
export async function readLoras(
  table: ParameterTable,
  sources: readonly LoraSource[],
  options: LoraReadOptions = {},
): Promise<{ updates: LoraUpdates; warnings: string[] }> {
  if (!Array.isArray(sources) || sources.length === 0)
    throw invalidArgument('loras', 'an array of { path, scale }', sources)
  const all: LoraUpdates[] = []
  const warnings: string[] = []
  for (const given of sources) {
    const { path, scale } = parseOptions('loras', given, sourceSchema)
    const { updates, ignored } = await readLora(path, adaptable(table).keys(), options)
    checkUpdates(table, updates, path)
    all.push(new Map([...updates].map(([module, update]) => [module, { ...update, scale: scale * update.scale }])))
    if (ignored.length > 0)
      warnings.push(`${path}: ${ignored.length} names are of no update of the UNet, such as ${ignored[0]}`)
  }
  return { updates: await joinUpdates(all), warnings }
}

/** The modules of a UNet by diffusers' names, by which updates of Stable Diffusion are written, and its own. */
export function diffusersAliases(network: Network): ReadonlyMap<string, string> {
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

/** The weights of the network without adapters that computes the same. */
export async function mergeAdapters({ adapters }: LoraNetwork, weights: StateDict): Promise<StateDict> {
  const merged = await mergeUpdates(weights, updatesOf(adapters, weights))
  for (const { down, up } of adapters) {
    delete merged[down.name]
    delete merged[up.name]
  }
  return merged
}
