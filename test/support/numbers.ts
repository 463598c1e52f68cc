/** A state dict by its numbers: deepEqual of Tensors would compare their shapes alone, as their numbers are private. */
import type { StateDict } from '../../lib/nn/weights'

export async function numbersOf(dict: StateDict): Promise<Record<string, { shape: readonly number[]; data: unknown }>> {
  const entries = Object.entries(dict).map(async ([name, tensor]) => {
    return [name, { shape: tensor.shape, data: await tensor.data() }] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}
