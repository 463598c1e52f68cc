/** State dicts from any file that PyTorch users have: safetensors, .ckpt, .pt, .bin. */
import { open } from 'node:fs/promises'
import { elementBytes } from './dtypes'
import { readSafetensors, type StoredTensor } from './safetensors'
import { type TorchFile, TorchTensor, type TorchValue, withTorchFile } from './torch/checkpoint'

export interface StateDictFile {
  /** Without a prototype. */
  readonly tensors: Record<string, StoredTensor>
  /** Names whose values are no tensors. */
  readonly others: readonly string[]
  /** Numbers of a checkpoint beside its state_dict, such as global_step and epoch. */
  readonly counters: Readonly<Record<string, number>>
}

/** Beyond twice the file's size, for tensors that share a storage. */
const allowance = 32 * 2 ** 20

/**
 * The file's state_dict: what it calls so, or else the whole. Names for which `wanted` is false are left out. Throws
 * `not-found`, `io` and `bad-file`.
 */
export async function readStateDictFile(
  path: string,
  wanted: (name: string) => boolean = () => true,
): Promise<StateDictFile> {
  if (await isTorch(path)) return withTorchFile(path, (file) => fromTorch(file, wanted))
  const { tensors } = await readSafetensors(path)
  for (const name of Object.keys(tensors)) if (!wanted(name)) delete tensors[name]
  return { tensors, others: [], counters: {} }
}

/**
 * By the first bytes: a zip archive or a pickle, unless they are the length of a safetensors header (below 4 GiB) and its
 * brace.
 */
async function isTorch(path: string): Promise<boolean> {
  const bytes = new Uint8Array(9)
  const file = await open(path, 'r').catch(() => undefined) // what is wrong is reported by the reader
  await file?.read(bytes, 0, bytes.length, 0).catch(() => undefined)
  await file?.close()
  const safetensors = bytes.subarray(4, 8).every((byte) => byte === 0) && bytes[8] === 0x7b
  const zip = bytes[0] === 0x50 && bytes[1] === 0x4b
  return !safetensors && (zip || bytes[0] === 0x80)
}

async function fromTorch(file: TorchFile, wanted: (name: string) => boolean): Promise<StateDictFile> {
  const root = file.value
  if (!(root instanceof Map)) throw file.bad('it holds no dict')
  const inner: TorchValue = root.get('state_dict')
  const dict = inner instanceof Map ? inner : root
  const tensors: Record<string, StoredTensor> = Object.create(null)
  const others: string[] = []
  let bytes = 0
  for (const [name, value] of dict) {
    if (typeof name !== 'string') throw file.bad('its state_dict has a name that is no string')
    if (!wanted(name)) continue
    if (!(value instanceof TorchTensor)) others.push(name)
    else {
      bytes += value.size * elementBytes[value.dtype]
      if (bytes > 2 * file.size + allowance) throw file.bad('its tensors are far more than the file')
      tensors[name] = await file.load(value)
    }
  }
  const counters = [...root].filter(([name, value]) => typeof name === 'string' && Number.isSafeInteger(value))
  return { tensors, others, counters: Object.fromEntries(dict === root ? [] : counters) }
}
