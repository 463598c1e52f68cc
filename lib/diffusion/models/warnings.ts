/** What the user of a model should know, each once. */
import type { Tensor } from '../../tensor'

/** Beyond what rounding and sharpening leave outside of [-1, 1]. */
const limit = 1.5

export class Warnings {
  readonly #all = new Set<string>()
  #ofRange = false

  get all(): readonly string[] {
    return [...this.#all]
  }

  add(warnings: readonly string[]): void {
    for (const warning of warnings) this.#all.add(warning)
  }

  /** Of images that are not in [-1, 1], such as bytes: most likely something was forgotten. The network is given what is there. */
  async ofRange(x: Tensor, argument: string): Promise<void> {
    if (this.#ofRange) return
    let [least, most] = [0, 0]
    for (const v of await x.values()) {
      if (v < least) least = v
      if (v > most) most = v
    }
    if (least >= -limit && most <= limit) return
    this.#ofRange = true
    const bytes = least >= 0 && most <= 255 ? ': of bytes, v / 127.5 - 1' : ''
    const range = `${Number(least.toPrecision(4))} to ${Number(most.toPrecision(4))}`
    this.add([`${argument} has values from ${range}, where images are expected to be in [-1, 1]${bytes}`])
  }
}

/** Of a network with positiveTimesteps. */
export const noTimestepZero =
  "the network's Fourier time embedding takes the logarithm of the timestep: what it predicts at timestep 0 is no number"
