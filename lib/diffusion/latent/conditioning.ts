/** Conditions as LatentDiffusion's methods take them: what DiffusionWrapper's conditioning_key makes of them. */
import { invalidArgument } from '../../errors'
import { Tensor } from '../../tensor'

/** How the network is told: ddpm.py's conditioning_key. */
export type ConditioningKey = 'concat' | 'crossattn' | 'hybrid' | 'adm'
export const conditioningKeys = ['concat', 'crossattn', 'hybrid', 'adm'] as const

/**
 * A tensor or a list of them is `cConcat` with conditioningKey 'concat', else `cCrossattn`. Maps [n, c, h, w] go to the network's
 * channels after x; tokens [n, l, d] one after the other; with 'adm' the first of `cCrossattn` is the class labels, i32 [n], or for a network
 * that takes a vector [n, d].
 */
export type Cond = Tensor | readonly Tensor[] | CondDict

export interface CondDict {
  readonly cConcat?: readonly Tensor[]
  readonly cCrossattn?: readonly Tensor[]
}

/** In DDPM's terms. */
export interface Given {
  readonly y?: Tensor
  readonly context?: Tensor
  readonly vector?: Tensor
  readonly concat?: Tensor
}

export function condDict(cond: Cond, key: ConditioningKey): CondDict {
  if (cond instanceof Tensor || Array.isArray(cond)) {
    const list: readonly Tensor[] = cond instanceof Tensor ? [cond] : (cond as readonly Tensor[])
    return key === 'concat' ? { cConcat: list } : { cCrossattn: list }
  }
  return cond as CondDict
}

/** What the network is told. Throws `invalid-argument` for a condition that the key does not take, or that is missing. */
export async function given(cond: Cond | undefined, key: ConditioningKey | undefined): Promise<Given> {
  if (key === undefined) {
    if (cond !== undefined) throw invalidArgument('cond', 'nothing for an unconditional model', cond)
    return {}
  }
  if (cond === undefined) throw invalidArgument('cond', `a condition, for conditioningKey '${key}'`, cond)
  const { cConcat, cCrossattn } = condDict(cond, key)
  const wants = { cConcat: key === 'concat' || key === 'hybrid', cCrossattn: key !== 'concat' }
  for (const [name, list] of Object.entries({ cConcat, cCrossattn }) as ['cConcat' | 'cCrossattn', unknown][]) {
    const fits = Array.isArray(list) && list.length > 0 && list.every((tensor) => tensor instanceof Tensor)
    if (wants[name] && !fits) throw invalidArgument(name, `a list of tensors, for conditioningKey '${key}'`, list)
    if (!wants[name] && list !== undefined) {
      throw invalidArgument(name, `nothing with conditioningKey '${key}'`, list)
    }
  }
  if (key === 'adm') {
    const [first] = cCrossattn!
    return first.shape.length === 2 && first.dtype === 'float32' ? { vector: first } : { y: first }
  }
  return {
    ...(wants.cCrossattn && { context: await joined(cCrossattn!, 3, 'cCrossattn') }),
    ...(wants.cConcat && { concat: await joined(cConcat!, 4, 'cConcat') }),
  }
}

/** Along the second axis. */
export async function joined(tensors: readonly Tensor[], rank: number, argument: string): Promise<Tensor> {
  const [first] = tensors
  for (const tensor of tensors) {
    const fits =
      tensor.shape.length === rank && tensor.shape.every((size, axis) => axis === 1 || size === first.shape[axis])
    if (!fits) throw invalidArgument(argument, `tensors of ${rank} axes, equal but for the second`, tensor)
  }
  if (tensors.length === 1) return first
  const [n, , ...rest] = first.shape
  const length = tensors.reduce((sum, { shape }) => sum + shape[1], 0)
  const inner = rest.reduce((a, b) => a * b, 1)
  const data = new Float32Array(n * length * inner)
  let from = 0
  for (const tensor of tensors) {
    const values = await tensor.data()
    const size = tensor.shape[1] * inner
    for (let i = 0; i < n; i++) data.set(values.subarray(i * size, (i + 1) * size), i * length * inner + from)
    from += size
  }
  return Tensor.wrap(data, [n, length, ...rest])
}

/** The first n samples of each, or one for all repeated. */
export async function forBatch(cond: Cond, n: number): Promise<Cond> {
  if (cond instanceof Tensor) return firstRows(cond, n)
  const all = (list: readonly Tensor[]) => Promise.all(list.map((tensor) => firstRows(tensor, n)))
  if (Array.isArray(cond)) return all(cond as readonly Tensor[])
  const { cConcat, cCrossattn } = cond as CondDict
  return {
    ...(cConcat && { cConcat: await all(cConcat) }),
    ...(cCrossattn && { cCrossattn: await all(cCrossattn) }),
  }
}

/** The first n samples, or one for all repeated. */
export async function firstRows(tensor: Tensor, n: number): Promise<Tensor> {
  const [samples, ...rest] = tensor.shape
  if (samples === n) return tensor
  if (samples < n && samples !== 1) throw invalidArgument('cond', `${n} conditions, or one for all`, tensor)
  const values = await tensor.values()
  const size = values.length / samples
  const make = (length: number) => new (values.constructor as Float32ArrayConstructor)(length)
  const data = make(n * size)
  for (let i = 0; i < n; i++) {
    const from = samples === 1 ? 0 : i * size
    data.set(values.subarray(from, from + size) as Float32Array, i * size)
  }
  return Tensor.wrap(data, [n, ...rest])
}

/** Of the channels that the UNet takes, those that it does not put out are the condition's. */
export function withConcat<C>(
  config: C | undefined,
  key: ConditioningKey | undefined,
  learned: boolean,
): C | undefined {
  if (!config || (key !== 'concat' && key !== 'hybrid') || 'concatChannels' in (config as object)) return config
  const { inChannels, outChannels } = config as { inChannels?: number; outChannels?: number }
  if (!Number.isInteger(inChannels) || !Number.isInteger(outChannels)) return config
  return { ...config, concatChannels: inChannels! - outChannels! / (learned ? 2 : 1) }
}
