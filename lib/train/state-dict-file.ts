/** State dicts as safetensors files. */
import { readSafetensors, type StoredTensor, writeSafetensors } from '../checkpoint/safetensors'
import { DiffusionError } from '../errors'
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
    tensors[name] = { dtype, shape: tensor.shape, data: await tensor.data() }
  }
  await writeSafetensors(file, tensors, metadata)
}

/** Throws `not-found`, `io`, and `bad-file` for a file that is damaged or holds anything but floating-point tensors. */
export async function readStateDict(file: string): Promise<{ dict: StateDict; metadata: Record<string, string> }> {
  const { tensors, metadata } = await readSafetensors(file)
  const dict: StateDict = {}
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    if (!(data instanceof Float32Array)) {
      throw new DiffusionError('bad-file', `${file}: ${name} is not floating point`, { argument: name, received: file })
    }
    dict[name] = Tensor.wrap(data, shape)
  }
  return { dict, metadata }
}
