/** Files of classifiers: safetensors with the weights by openaimodel's names, and in `__metadata__` the options that make the network. */
import { isObject, type JsonObject, parseJsonObject } from '../../checkpoint/json'
import { readSafetensors, type StoredTensor, writeSafetensors } from '../../checkpoint/safetensors'
import { EncoderUNet } from '../../nn/unet/encoder-unet'
import type { EncoderUNetOptions } from '../../nn/unet/encoder-unet-options'
import { checkFits } from '../../nn/unet-fit'
import type { StateDict } from '../../nn/weights'
import { Tensor } from '../../tensor'

export interface ClassifierFile {
  /** Of Classifier: the network's and the schedule's. Undefined in a file that has the weights alone. */
  readonly config?: JsonObject
  readonly dict: StateDict
}

/** Writes atomically. Throws `io`. */
export async function writeClassifierFile(path: string, config: object, dict: StateDict): Promise<void> {
  const tensors: Record<string, StoredTensor> = {}
  for (const [name, tensor] of Object.entries(dict)) {
    tensors[name] = { dtype: 'F32', data: await tensor.data(), shape: tensor.shape }
  }
  const arrays = (_: string, v: unknown) => (ArrayBuffer.isView(v) ? Array.from(v as Float64Array) : v)
  await writeSafetensors(path, tensors, { format: 'pt', config: JSON.stringify(config, arrays) })
}

/** Throws `not-found`, `io` and `bad-file`. */
export async function readClassifierFile(path: string): Promise<ClassifierFile> {
  const { tensors, metadata, budget } = await readSafetensors(path)
  const entries = Object.entries(tensors).map(([name, { data, shape }]) => {
    return [name, Tensor.from(Float32Array.from(data as ArrayLike<number>), shape)]
  })
  const config =
    metadata.config === undefined
      ? undefined
      : parseJsonObject(Buffer.from(metadata.config), budget, "'config' of its metadata")
  return { config, dict: Object.fromEntries(entries) }
}

/** Before anything of the network's size is made. Throws `state-mismatch`. */
export function checkClassifierFits(encoderConfig: unknown, dict: StateDict, path: string): void {
  if (!isObject(encoderConfig)) return
  checkFits(new EncoderUNet(encoderConfig as unknown as EncoderUNetOptions).parameters.slots, dict, path)
}
