/** What a step's programs hand on, on the device: of the batch under way, flat [n, 1, 1, d] but for `features`. */
import type { Device } from '../device'
import type { NativeBuffer } from '../native'
import type { Autoencoder } from '../nn/autoencoder/autoencoder'

/** `image` and what it was made of; gradients with respect to it, of the error, of the logits, of the perceptual loss. */
const names = ['image', 'features', 'ofError', 'ofLogits', 'ofPerception'] as const
export type Buffers = Readonly<Record<(typeof names)[number], NativeBuffer>>

export class StepBuffers {
  readonly #buffers = new Map<string, NativeBuffer>()

  constructor(
    private readonly device: Device,
    private readonly network: Autoencoder,
  ) {}

  /** For a batch of images [n, c, h, w]; what is in them stays until the next. */
  for([n, channels, height, width]: readonly number[]): Buffers {
    const pixels = n * height * width
    const entries = names.map((name) => {
      const elements = pixels * (name === 'features' ? this.network.shape.channels[0] : channels)
      const old = this.#buffers.get(name)
      if (old?.elements === elements) return [name, old] as const
      old?.release()
      const buffer = this.device.allocate(elements)
      this.#buffers.set(name, buffer)
      return [name, buffer] as const
    })
    return Object.fromEntries(entries) as unknown as Buffers
  }

  release(): void {
    for (const buffer of this.#buffers.values()) buffer.release()
    this.#buffers.clear()
  }
}
