/**
 * Files of torch.save: .ckpt, .pt, .bin. Their pickle can put plain data together and nothing else (pickle.ts, globals.ts); a
 * file that asks for more is refused.
 */
import type { Budget } from '../budget'
import { elementBytes, isFloating } from '../dtypes'
import type { OpenTensor, StoredTensor } from '../safetensors'
import { type Source, withSource } from '../source'
import { readArchive } from './archive'
import type { Global } from './globals'
import type { Inert } from './inert'
import { isContiguous, readView, type TorchTensor } from './tensor'

export { Global } from './globals'
export { Inert } from './inert'
export { TorchTensor } from './tensor'

/**
 * What a checkpoint consists of. A dict is a Map, a tuple a frozen array, None null, an integer beyond 2^53 a bigint, a NumPy
 * scalar a number; a class or function is its name, and an object of a class that says nothing of the weights Inert. Values that are one object in Python are one here, so there may be cycles.
 */
export type TorchValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | TorchTensor
  | Global
  | Inert
  | readonly TorchValue[]
  | ReadonlySet<TorchValue>
  | ReadonlyMap<TorchValue, TorchValue>

export interface TorchFile {
  readonly value: TorchValue
  /** What all that is read and loaded may cost. */
  readonly budget: Budget
  /** Reads one tensor. Throws `bad-file` where those that were read, with repeated elements, are far more than the file. */
  load(tensor: TorchTensor): Promise<StoredTensor>
  /** The same, but that floating-point numbers which lie in the file as they are stay there until they are asked for. */
  open(tensor: TorchTensor): Promise<OpenTensor>
  /** The `bad-file` error for a problem. */
  readonly bad: Source['bad']
}

/**
 * Opens a file, or its bytes, for the duration of `use`. Throws `not-found`, `io`, and `bad-file` for anything that is damaged,
 * not supported, or would have to be executed.
 */
export function withTorchFile<T>(pathOrBytes: string | Uint8Array, use: (file: TorchFile) => Promise<T>): Promise<T> {
  return withSource(pathOrBytes, 'PyTorch checkpoint that can be read', async (source) => {
    const archive = await readArchive(source)
    const { budget, bad } = source
    const load = async (tensor: TorchTensor): Promise<StoredTensor> => {
      const { shape, dtype, storage } = tensor
      budget.memory(arrayCost)
      return { shape, dtype, data: await readView(tensor, (await archive.open(storage)).read, budget) }
    }
    const open = async (tensor: TorchTensor): Promise<OpenTensor> => {
      const { shape, dtype, storage, size, offset } = tensor
      const { position } = await archive.open(storage)
      if (!source.file || position === undefined || !isFloating(dtype) || !isContiguous(tensor)) return load(tensor)
      budget.memory(arrayCost)
      const [bytes, first] = [size * elementBytes[dtype], position + offset * elementBytes[dtype]]
      return { shape, dtype, data: source.file.numbers(dtype, size, { position: first, bytes, budget }) }
    }
    return use({ value: archive.value as TorchValue, budget, load, open, bad })
  })
}

/** Bytes of an array without its elements. */
const arrayCost = 512
