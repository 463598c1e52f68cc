import type { Bank, Weights } from '../../nn/weights'

/** Updates from one look to the next. */
const every = 100
const banks: readonly Bank[] = ['weights', 'm', 'v', 'ema']

/** What ranks must have the same bits of: weights, moments, averages. Looked at before the first update of a process, and from time to time. */
export class Checksums {
  #updates = 0

  constructor(readonly weights: Weights) {}

  /** Once before an update: of each bank that is whole here, where it is time, else NaN. */
  async take(): Promise<Record<string, number>> {
    const isTime = this.#updates++ % every === 0
    const { weights } = this
    const sums = banks.map(async (name) =>
      isTime && weights.isWhole(name) ? weights.bank(name).checksum() : Number.NaN,
    )
    return Object.fromEntries((await Promise.all(sums)).map((sum, i) => [`the checksum of ${banks[i]}`, sum]))
  }
}
