/** Weights for InceptionV3 that nothing has trained, as pytorch-fid's file has its own. */
import { type StoredTensor, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { inceptionTensors } from '../../lib/nn/inception/fold'
import { InceptionNetwork } from '../../lib/nn/inception/network'
import { hashedWeights } from '../nn/hashed-weights'

export async function writeInception(file: string): Promise<string> {
  const slots = inceptionTensors(new InceptionNetwork().parameters)
  const tensors: Record<string, StoredTensor> = {}
  for (const [name, tensor] of Object.entries(hashedWeights({ slots })))
    tensors[name] = { dtype: 'F32', shape: tensor.shape, data: await tensor.data() }
  await writeSafetensors(file, tensors)
  return file
}
