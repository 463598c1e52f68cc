/** Whether tensors are those of a UNet, found out before anything of its size is made. */
import { DiffusionError, describe } from '../errors'
import type { Shapes } from './shapes'
import { resolveUNetOptions } from './unet/options'
import { isOfUNet, networkOfConfig, type UNetConfig } from './unet-config'

export type { Shapes } from './shapes'

/**
 * Throws `state-mismatch` unless each of the network's parameters is there in its shape, and what UNet's constructor throws. `what`
 * begins the message: a path.
 */
export function checkUNetFits(options: UNetConfig, tensors: Shapes, what: string): void {
  if (isOfUNet(options)) {
    const { numResBlocks, channelMult } = resolveUNetOptions(options)
    const count = Object.keys(tensors).length
    const layers = numResBlocks * channelMult.length
    if (layers > count) {
      const message = `${what}: the configuration has ${layers} layers, the weights ${count} tensors`
      throw new DiffusionError('state-mismatch', message, { argument: 'numResBlocks' })
    }
  }
  checkFits(networkOfConfig(options).parameters.slots, tensors, what)
}

/** The same of any network's parameters. */
export function checkFits(
  slots: readonly { readonly name: string; readonly shape: readonly number[] }[],
  tensors: Shapes,
  what: string,
): void {
  const shapeOf = (name: string) => (Object.hasOwn(tensors, name) ? tensors[name].shape : undefined)
  const wrong = slots.find(({ name, shape }) => shapeOf(name)?.join() !== shape.join())
  if (!wrong) return
  const { name } = wrong
  const [expected, got] = [describe(wrong.shape), shapeOf(name)]
  const received = got ? describe(got) : 'nothing'
  const message = `${what}: the weights do not fit the configuration: expected ${name} of shape ${expected}, got ${received}`
  throw new DiffusionError('state-mismatch', message, { argument: name, expected, received })
}
