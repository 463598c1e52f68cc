/** The weights of a UNet by the names of openaimodel's, without a layer of augmentation. */
import { openaiWeights } from '../checkpoint/diffusers/unet'
import type { UNet } from '../nn/unet/unet'
import { augmentationLayer, withoutAugmentation } from '../nn/unet/vector-embedding'
import type { StateDict } from '../nn/weights'
import { Tensor } from '../tensor'

export async function openai({ options }: UNet, given: StateDict): Promise<StateDict> {
  const dict = Object.fromEntries(Object.entries(given).filter(([name]) => !name.startsWith(`${augmentationLayer}.`)))
  if (options.layout === 'openai') return dict
  const data: Record<string, Float32Array> = {}
  for (const [name, tensor] of Object.entries(dict)) data[name] = await tensor.data()
  const converted = Object.entries(openaiWeights(withoutAugmentation(options), data))
  return Object.fromEntries(
    converted.map(([name, { data: values, shape }]) => [name, Tensor.wrap(values as Float32Array, shape)]),
  )
}
