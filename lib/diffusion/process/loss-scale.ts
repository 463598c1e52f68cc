/**
 * Dynamic loss scaling (Micikevicius et al. 2018, section 3.2), with torch.amp.GradScaler's defaults: gradients in fp16 are
 * computed of a loss that is multiplied by `scale`, so that small ones are not lost, and divided by it in the optimizer. A
 * scale at which they overflow is halved and its update not made; after many good ones it is doubled.
 */

export interface LossScaleState {
  /** What losses are multiplied by. */
  scale: number
  /** Updates since it was last changed. */
  goodUpdates: number
}

const growthInterval = 2000
/** Of sums in float32, so that the scale itself never makes a loss or a gradient's square infinite. */
const largest = 2 ** 24

export class LossScale {
  /** A power of two: multiplying by it rounds nothing. */
  scale = 2 ** 16
  #goodUpdates = 0

  get state(): LossScaleState {
    return { scale: this.scale, goodUpdates: this.#goodUpdates }
  }

  load(state: LossScaleState | undefined): void {
    this.scale = state?.scale ?? 2 ** 16
    this.#goodUpdates = state?.goodUpdates ?? 0
  }

  /** After an update whose gradients were finite, or overflowed. */
  update(finite: boolean): void {
    this.#goodUpdates = finite ? this.#goodUpdates + 1 : 0
    if (!finite) this.scale /= 2
    else if (this.#goodUpdates === growthInterval) {
      this.scale = Math.min(2 * this.scale, largest)
      this.#goodUpdates = 0
    }
  }
}
