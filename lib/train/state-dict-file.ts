/** State dicts as safetensors files. */
import type { Budget } from '../checkpoint/budget'
import { openSafetensors, type StoredTensor, writeSafetensors } from '../checkpoint/safetensors'
import { DiffusionError, quote } from '../errors'
import type { StateDict } from '../nn/weights'
import { Tensor } from '../tensor'

/** Atomically. Throws `io`. */
export async function writeStateDict(
  file: string,
  dict: Readonly<StateDict>,
  metadata: Readonly<Record<string, string>> = {},
  dtype: 'F32' | 'F16' = 'F32',
): Promise<void> {
  const tensors: Record<string, StoredTensor> = {}
  for (const [name, tensor] of Object.entries(dict)) {
    tensors[name] = { dtype, shape: tensor.shape, data: (await tensor.values()) as Float32Array }
  }
  await writeSafetensors(file, tensors, metadata)
}

/** What a file holds, and what may still be made of it. */
export interface StateDictFile {
  readonly dict: StateDict
  readonly metadata: Record<string, string>
  readonly budget: Budget
}

/**
 * Its numbers stay in the file until they are asked for. Throws `not-found`, `io`, and `bad-file` for a file that is damaged or holds
 * anything but floating-point tensors.
 */
export async function readStateDict(file: string): Promise<StateDictFile> {
  const { tensors, metadata, budget } = await openSafetensors(file)
  const dict: StateDict = {}
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    if (!('file' in data)) {
      throw new DiffusionError('bad-file', `${file}: ${quote(name)} is not floating point`, {
        argument: name,
        received: file,
      })
    }
    dict[name] = Tensor.inFile(data, shape)
  }
  return { dict, metadata, budget }
}
