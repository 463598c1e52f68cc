/** The other side of a first stage's training: ldm's adaptive patch discriminator, as long as one batch is at hand. */
import type { Device } from '../device'
import type { NativeBuffer } from '../native'
import type { Autoencoder } from '../nn/autoencoder/autoencoder'
import type { Seed } from '../options'
import type { Binding } from '../program'
import type { DiscriminatorLoss } from './adversarial-loss'
import { Discriminator, type Programs } from './discriminator'
import { LastLayer } from './last-layer'

export interface AdversaryOptions {
  readonly discStart: number
  readonly discFactor: number
  readonly discWeight: number
  readonly discNumLayers: number
  readonly discLoss: DiscriminatorLoss
  readonly useActnorm: boolean
  readonly seed: Seed
}

/** Gradients for the last convolution's output, flat [n, 1, 1, d], and what the second counts for in their sum. */
export interface Guidance {
  readonly ofError: NativeBuffer
  readonly ofLogits: NativeBuffer
  readonly weight: number
  /** What upstream logs of it. */
  readonly log: { readonly d_weight: number; readonly disc_factor: number; readonly g_loss: number }
  /** Its part of the total. */
  readonly loss: number
}

/** Of the batch under way, on the device. */
const bufferNames = ['image', 'features', 'ofError', 'ofLogits'] as const
export type Buffers = Readonly<Record<(typeof bufferNames)[number], NativeBuffer>>

export class Adversary {
  readonly discriminator: Discriminator
  readonly #last: LastLayer
  readonly #o: AdversaryOptions
  readonly #device: Device
  readonly #network: Autoencoder
  readonly #buffers = new Map<string, NativeBuffer>()

  constructor(device: Device, network: Autoencoder, o: AdversaryOptions, programs: Programs) {
    const { outChannels: channels, channels: levels } = network.shape
    const shape = { inChannels: channels, ndf: 64, nLayers: o.discNumLayers, useActnorm: o.useActnorm }
    this.discriminator = new Discriminator(device, { shape, loss: o.discLoss, seed: o.seed }, network, programs)
    this.#last = new LastLayer(device, { features: levels[0], channels }, programs)
    this.#o = o
    this.#device = device
    this.#network = network
  }

  /** disc_factor at a step: 0 before discStart. */
  factorAt(globalStep: number): number {
    return globalStep >= this.#o.discStart ? this.#o.discFactor : 0
  }

  /** For the batch of this shape; what is in them stays until the next. */
  buffersFor([n, channels, height, width]: readonly number[]): Buffers {
    const d = channels * height * width
    const features = this.#network.shape.channels[0] * height * width
    const entries = bufferNames.map((name) => {
      const elements = n * (name === 'features' ? features : d)
      const old = this.#buffers.get(name)
      if (old?.elements === elements) return [name, old] as const
      old?.release()
      const buffer = this.#device.allocate(elements)
      this.#buffers.set(name, buffer)
      return [name, buffer] as const
    })
    return Object.fromEntries(entries) as unknown as Buffers
  }

  /** By what is in the buffers: calculate_adaptive_weight and the generator's term. */
  async guide(o: {
    readonly shape: readonly number[]
    readonly x: Binding
    readonly buffers: Buffers
    readonly errorWeights: Float32Array
    readonly factor: number
  }): Promise<Guidance> {
    const { shape, x, buffers, errorWeights, factor } = o
    const { image, features, ofError, ofLogits } = buffers
    const { gLoss } = await this.discriminator.judge({ shape, x, image, errorWeights, ofError, ofLogits })
    const error = await this.#last.gradientNorm(shape, features, ofError)
    const logits = await this.#last.gradientNorm(shape, features, ofLogits)
    const dWeight = Math.min(Math.max(error / (logits + 1e-4), 0), 1e4) * this.#o.discWeight
    const weight = dWeight * factor
    const log = { d_weight: dWeight, disc_factor: factor, g_loss: gLoss }
    return { ofError, ofLogits, weight, log, loss: weight * gLoss }
  }

  /** Gives its memory back. */
  dispose(): void {
    for (const buffer of this.#buffers.values()) buffer.release()
    this.#buffers.clear()
    this.#last.dispose()
    this.discriminator.dispose()
  }
}
