/** State dicts from any file that PyTorch users have: safetensors, .ckpt, .pt, .bin. */
import type { Budget } from './budget'
import { openRegularFile } from './regular-file'
import { readSafetensors, readSafetensorsHeader, type StoredTensor } from './safetensors'
import { type TorchFile, TorchTensor, type TorchValue, withTorchFile } from './torch/checkpoint'

export interface StateDictFile {
  /** Without a prototype. */
  readonly tensors: Record<string, StoredTensor>
  /** Names whose values are no tensors. */
  readonly others: readonly string[]
  /** Numbers of a checkpoint beside its state_dict, such as global_step and epoch. */
  readonly counters: Readonly<Record<string, number>>
  /** What is left, for what is made of the tensors. */
  readonly budget: Budget
}

/**
 * The file's state_dict: what it calls so, or else the whole. Names for which `wanted` is false are left out. Throws
 * `not-found`, `io` and `bad-file`.
 */
export async function readStateDictFile(
  path: string,
  wanted: (name: string) => boolean = () => true,
): Promise<StateDictFile> {
  if (await isTorch(path)) return withTorchFile(path, (file) => fromTorch(file, wanted))
  const { tensors, budget } = await readSafetensors(path)
  for (const name of Object.keys(tensors)) if (!wanted(name)) delete tensors[name]
  return { tensors, others: [], counters: {}, budget }
}

/** Names and shapes of its tensors; their numbers are not read. Throws as readStateDictFile does. */
export async function readShapes(path: string): Promise<Record<string, { readonly shape: readonly number[] }>> {
  const shapes: Record<string, { shape: readonly number[] }> = Object.create(null)
  if (await isTorch(path)) {
    await withTorchFile(path, async (file) => {
      for (const [name, { shape }] of stateDictOf(file).found) shapes[name] = { shape }
    })
  } else for (const { name, shape } of (await readSafetensorsHeader(path)).entries) shapes[name] = { shape }
  return shapes
}

/**
 * By the first bytes: a zip archive or a pickle, unless they are the length of a safetensors header (below 4 GiB) and its
 * brace.
 */
export async function isTorch(path: string): Promise<boolean> {
  const bytes = new Uint8Array(9)
  const file = await openRegularFile(path).catch(() => undefined) // what is wrong is reported by the reader
  await file?.handle.read(bytes, 0, bytes.length, 0).catch(() => undefined)
  await file?.handle.close()
  const safetensors = bytes.subarray(4, 8).every((byte) => byte === 0) && bytes[8] === 0x7b
  const zip = bytes[0] === 0x50 && bytes[1] === 0x4b
  return !safetensors && (zip || bytes[0] === 0x80)
}

async function fromTorch(file: TorchFile, wanted: (name: string) => boolean): Promise<StateDictFile> {
  const { found, others, counters } = stateDictOf(file, wanted)
  const tensors: Record<string, StoredTensor> = Object.create(null)
  for (const [name] of found) tensors[name] = none // their order in the file stays
  for (const [name, tensor] of byStorage(found)) tensors[name] = await file.load(tensor)
  return { tensors, others, counters, budget: file.budget }
}

function stateDictOf(file: TorchFile, wanted: (name: string) => boolean = () => true) {
  const root = file.value
  if (!(root instanceof Map)) throw file.bad('it holds no dict')
  const inner: TorchValue = root.get('state_dict')
  const dict: ReadonlyMap<TorchValue, TorchValue> = inner instanceof Map ? inner : root
  const found: [string, TorchTensor][] = []
  const others: string[] = []
  for (const [name, value] of dict) {
    if (typeof name !== 'string') throw file.bad('its state_dict has a name that is no string')
    if (!wanted(name)) continue
    if (value instanceof TorchTensor) found.push([name, value])
    else others.push(name)
  }
  const counters = [...root].filter(([name, value]) => typeof name === 'string' && Number.isSafeInteger(value))
  return { found, others, counters: Object.fromEntries(dict === root ? [] : counters) }
}

const none: StoredTensor = { dtype: 'U8', shape: [0], data: new Uint8Array() }

/** Those of one storage side by side, from its begin on: it is opened once, and read once. */
function byStorage(tensors: readonly [string, TorchTensor][]): [string, TorchTensor][] {
  const order = new Map<string, number>()
  for (const [, { storage }] of tensors) if (!order.has(storage.key)) order.set(storage.key, order.size)
  const rank = ({ storage }: TorchTensor) => order.get(storage.key)!
  return [...tensors].sort(([, a], [, b]) => rank(a) - rank(b) || a.offset - b.offset)
}
