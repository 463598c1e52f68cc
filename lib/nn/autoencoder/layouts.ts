/** The weights of an autoencoder by the names of either layout. */
import { sizeOf, Tensor } from '../../tensor'
import type { StateDict } from '../parameters'
import { Autoencoder } from './autoencoder'
import { renameLegacyAutoencoder } from './diffusers'
import type { AutoencoderLayout } from './options'

/**
 * The state dict of an autoencoder by the names and shapes of `layout`. The layouts have the same modules in the same order; what is a
 * 1x1 convolution in ldm's attention is a linear layer in diffusers'.
 */
export async function inLayout(network: Autoencoder, dict: StateDict, layout: AutoencoderLayout): Promise<StateDict> {
  const { shape, embedDim, codebook } = network
  const theirs = new Autoencoder({ ...shape, layout }, embedDim, codebook).parameters
  const own = network.parameters.slots
  const entries = theirs.slots.map(async ({ name, shape: theirShape }, i) => {
    return [name, Tensor.wrap((await dict[own[i].name].values()) as Float32Array, theirShape)] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}

/**
 * A state dict with the names of either layout, diffusers' before 0.14 among them, by those of the network, whichever it has most
 * of. What is of neither stays as it is.
 */
export async function inOwnLayout(network: Autoencoder, given: StateDict): Promise<StateDict> {
  const { shape, embedDim, codebook, parameters } = network
  const own = parameters.slots
  const layout = shape.layout === 'ldm' ? 'diffusers' : 'ldm'
  const theirs = new Autoencoder({ ...shape, layout }, embedDim, codebook).parameters.slots
  const renamed = renameLegacyAutoencoder(given)
  const count = (slots: typeof own, dict: StateDict) => slots.filter(({ name }) => Object.hasOwn(dict, name)).length
  const [asItIs, todays, other] = [count(own, given), count(own, renamed), count(theirs, renamed)]
  if (asItIs >= todays && asItIs >= other) return given
  if (todays >= other) return renamed
  const ownSlots = new Map(theirs.map(({ name }, i) => [name, own[i]]))
  const entries = Object.entries(renamed).map(async ([name, tensor]) => {
    const slot = ownSlots.get(name)
    // A 1x1 convolution in one is a linear layer in the other; what has another size is refused by its own name.
    if (!slot || sizeOf(slot.shape) !== tensor.size || tensor.dtype !== 'float32') return [slot?.name ?? name, tensor]
    return [slot.name, Tensor.wrap((await tensor.values()) as Float32Array, slot.shape)]
  })
  return Object.fromEntries(await Promise.all(entries))
}
