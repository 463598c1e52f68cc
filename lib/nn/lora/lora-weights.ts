/** Low-rank updates as numbers: what a file has of them, several as one, and as part of the weights. */
import { DiffusionError, quote } from '../../errors'
import { pauses } from '../../pause'
import { sizeOf, Tensor } from '../../tensor'
import type { ParameterTable, StateDict } from '../parameters'
import { type Adapter, adaptable } from './lora'

/** Of one module: A, [rank, ...in], and B, [out, rank, ...], whose product times `scale` is added to the weight. */
export interface LoraUpdate {
  readonly down: Tensor
  readonly up: Tensor
  /** alpha / rank. */
  readonly scale: number
}

/** By the names of modules. */
export type LoraUpdates = ReadonlyMap<string, LoraUpdate>

/** Shapes of the weights of a network's layers, by the names of modules. */
export type LayerShapes = ReadonlyMap<string, readonly number[]>

export function layerShapes(table: ParameterTable): LayerShapes {
  return new Map([...adaptable(table)].map(([module, { shape }]) => [module, shape]))
}

/** Throws `state-mismatch` where a module is not one of the network's layers, or has another shape. */
export function checkUpdates(layers: LayerShapes, updates: LoraUpdates, file: string): void {
  for (const [module, { down, up }] of updates) {
    const shape = layers.get(module)
    if (!shape) throw misfit(file, `the network has no layer ${quote(module)}`)
    const [outs, ...ins] = shape
    const rank = down.shape[0]
    if (up.shape[1] !== rank || sizeOf(down.shape) !== rank * sizeOf(ins) || sizeOf(up.shape) !== outs * rank) {
      const got = `[${down.shape.join(', ')}] and [${up.shape.join(', ')}]`
      throw misfit(file, `${quote(module)}: ${got} is no update of a weight [${shape.join(', ')}]`)
    }
  }
}

function misfit(file: string, why: string): DiffusionError {
  return new DiffusionError('state-mismatch', `${file} does not fit the model: ${why}`, { argument: 'loras' })
}

/** The state dict with scale B A added to the weights, in float64. By the network's names; others stay. */
export async function mergeUpdates(dict: StateDict, updates: LoraUpdates): Promise<StateDict> {
  const merged = { ...dict }
  const pause = pauses()
  for (const [module, update] of updates) {
    const name = `${module}.weight`
    const weight = dict[name]
    const data = Float64Array.from(await weight.data())
    const [down, up] = [await update.down.data(), await update.up.data()]
    const rank = update.down.shape[0]
    const ins = down.length / rank
    for (let o = 0; o < up.length / rank; o++) {
      for (let r = 0; r < rank; r++) {
        const factor = update.scale * up[o * rank + r]
        for (let i = 0; i < ins; i++) data[o * ins + i] += factor * down[r * ins + i]
      }
      await pause()
    }
    merged[name] = Tensor.wrap(Float32Array.from(data), weight.shape)
  }
  return merged
}

/** The updates that a network's adapters are, of a state dict by the network's names. */
export function updatesOf(adapters: readonly Adapter[], dict: StateDict): LoraUpdates {
  return new Map(
    adapters.map(({ module, down, up }) => [module, { down: dict[down.name], up: dict[up.name], scale: 1 }]),
  )
}

/** One update for several: [s1 B1, s2 B2] [A1; A2] = s1 B1 A1 + s2 B2 A2. */
export async function joinUpdates(all: readonly LoraUpdates[]): Promise<LoraUpdates> {
  const joined = new Map<string, LoraUpdate>()
  for (const module of new Set(all.flatMap((updates) => [...updates.keys()]))) {
    const parts = all.flatMap((updates) => updates.get(module) ?? [])
    const ranks = parts.map(({ down }) => down.shape[0])
    const rank = ranks.reduce((a, b) => a + b, 0)
    const downs = await Promise.all(parts.map(({ down }) => down.data()))
    const ups = await Promise.all(parts.map(({ up }) => up.data()))
    const outs = parts[0].up.shape[0]
    const up = new Float32Array(outs * rank)
    let start = 0
    for (const [k, { scale }] of parts.entries()) {
      for (let o = 0; o < outs; o++) {
        for (let r = 0; r < ranks[k]; r++) up[o * rank + start + r] = scale * ups[k][o * ranks[k] + r]
      }
      start += ranks[k]
    }
    joined.set(module, {
      down: Tensor.wrap(Float32Array.from(downs.flatMap((d) => [...d])), [rank, ...parts[0].down.shape.slice(1)]),
      up: Tensor.wrap(up, [outs, rank, ...parts[0].up.shape.slice(2)]),
      scale: 1,
    })
  }
  return joined
}

/** As entries of the state dict of a network that has adapters of these modules, in the shapes that it has. */
export async function adapterEntries(adapters: readonly Adapter[], updates: LoraUpdates): Promise<StateDict> {
  const dict: StateDict = {}
  for (const { module, down, up } of adapters) {
    const update = updates.get(module)!
    dict[down.name] = Tensor.wrap(await update.down.data(), down.shape)
    dict[up.name] = Tensor.wrap(await update.up.data(), up.shape)
  }
  return dict
}
