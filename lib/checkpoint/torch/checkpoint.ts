/**
 * Files of torch.save: .ckpt, .pt, .bin. Their pickle can put plain data together and nothing else (pickle.ts, globals.ts); a
 * file that asks for more is refused.
 */
import { elementBytes } from '../dtypes'
import type { StoredTensor } from '../safetensors'
import { type Source, withSource } from '../source'
import { readArchive } from './archive'
import type { Global } from './globals'
import { readView, type TorchTensor } from './tensor'

export { Global } from './globals'
export { TorchTensor } from './tensor'

/**
 * What a checkpoint consists of. A dict is a Map, a tuple a frozen array, None null, an integer beyond 2^53 a bigint, a NumPy
 * scalar a number; a class or function is its name. Values that are one object in Python are one here, so there may be cycles.
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
  | readonly TorchValue[]
  | ReadonlySet<TorchValue>
  | ReadonlyMap<TorchValue, TorchValue>

export interface TorchFile {
  /** Of the file, in bytes. */
  readonly size: number
  readonly value: TorchValue
  /** Reads one tensor. Throws `bad-file` for one whose elements, repeated by strides of 0, are far more than the file. */
  load(tensor: TorchTensor): Promise<StoredTensor>
  /** The `bad-file` error for a problem. */
  readonly bad: Source['bad']
}

/** Beyond twice the file's size. */
const allowance = 32 * 2 ** 20

/**
 * Opens a file, or its bytes, for the duration of `use`. Throws `not-found`, `io`, and `bad-file` for anything that is damaged,
 * not supported, or would have to be executed.
 */
export function withTorchFile<T>(pathOrBytes: string | Uint8Array, use: (file: TorchFile) => Promise<T>): Promise<T> {
  return withSource(pathOrBytes, 'PyTorch checkpoint that can be read', async (source) => {
    const archive = await readArchive(source)
    const load = async (tensor: TorchTensor): Promise<StoredTensor> => {
      const { shape, dtype, storage, size } = tensor
      if (size * elementBytes[dtype] > 2 * source.size + allowance) {
        throw source.bad(`a tensor of shape [${shape.join(', ')}] repeats few elements to very many`)
      }
      return { shape, dtype, data: await readView(tensor, await archive.open(storage)) }
    }
    return use({ size: source.size, value: archive.value as TorchValue, load, bad: source.bad })
  })
}
