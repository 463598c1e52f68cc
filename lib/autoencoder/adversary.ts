/** The other side of a first stage's training: ldm's adaptive patch discriminator, as long as one batch is at hand. */
import type { Device } from '../device'
import type { NativeBuffer } from '../native'
import type { Autoencoder } from '../nn/autoencoder/autoencoder'
import type { Seed } from '../options'
import type { Binding } from '../program'
import type { DiscriminatorLoss } from './adversarial-loss'
import type { Buffers } from './buffers'
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

/** What the discriminator has the generator do. */
export interface Guidance {
  /** A gradient with respect to the last convolution's output, flat [n, 1, 1, d], and what it counts for. */
  readonly gradient: NativeBuffer
  readonly weight: number
  /** What upstream logs of it. */
  readonly log: { readonly d_weight: number; readonly disc_factor: number; readonly g_loss: number }
  /** Its part of the total. */
  readonly loss: number
}

export class Adversary {
  readonly discriminator: Discriminator
  readonly #last: LastLayer
  readonly #o: AdversaryOptions

  constructor(device: Device, network: Autoencoder, o: AdversaryOptions, programs: Programs) {
    const { outChannels: channels, channels: levels } = network.shape
    const shape = { inChannels: channels, ndf: 64, nLayers: o.discNumLayers, useActnorm: o.useActnorm }
    this.discriminator = new Discriminator(device, { shape, loss: o.discLoss, seed: o.seed }, network, programs)
    this.#last = new LastLayer(device, { features: levels[0], channels }, programs)
    this.#o = o
  }

  /** disc_factor at a step: 0 before discStart. */
  factorAt(globalStep: number): number {
    return globalStep >= this.#o.discStart ? this.#o.discFactor : 0
  }

  /** By what is in the buffers: calculate_adaptive_weight and the generator's term. */
  async guide(o: {
    readonly shape: readonly number[]
    readonly x: Binding
    readonly buffers: Buffers
    readonly errorWeights: Float32Array
    /** What a perceptual loss adds to the error's gradient. */
    readonly perceptual?: NativeBuffer
    readonly factor: number
  }): Promise<Guidance> {
    const { shape, x, buffers, errorWeights, perceptual, factor } = o
    const { image, features, ofError, ofLogits } = buffers
    const judged = { shape, x, image, errorWeights, ofError, ofLogits, ...(perceptual && { perceptual }) }
    const { gLoss } = await this.discriminator.judge(judged)
    const error = await this.#last.gradientNorm(shape, features, ofError)
    const logits = await this.#last.gradientNorm(shape, features, ofLogits)
    const dWeight = Math.min(Math.max(error / (logits + 1e-4), 0), 1e4) * this.#o.discWeight
    const weight = dWeight * factor
    const log = { d_weight: dWeight, disc_factor: factor, g_loss: gLoss }
    return { gradient: ofLogits, weight, log, loss: weight * gLoss }
  }

  /** Gives its memory back. */
  dispose(): void {
    this.#last.dispose()
    this.discriminator.dispose()
  }
}
