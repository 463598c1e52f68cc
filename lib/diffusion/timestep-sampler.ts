/**
 * Timesteps drawn by how much they contribute to the loss: Nichol & Dhariwal 2021, eq. 18; improved-diffusion's
 * LossSecondMomentResampler.
 */
import { DiffusionError } from '../errors'
import type { Seed } from '../options'
import { Purpose, words } from '../rng'
import { sameShape, Tensor } from '../tensor'

/** Losses that are kept of each timestep. Until all have that many, timesteps are drawn evenly. */
const perTimestep = 10
/** The part that is drawn evenly afterwards, so that no timestep is forgotten. */
const evenly = 0.001

export interface DrawnTimesteps {
  readonly t: Int32Array
  /** 1 / (T p(t)): what makes the weighted loss as large as the evenly drawn one, in expectation. */
  readonly weights: Float32Array
}

export class LossSecondMoment {
  /** Row t: how many losses there were of t, then the last of them, each of which goes where it replaces the oldest. */
  #rows: Float32Array
  readonly #width = perTimestep + 1

  constructor(readonly numTimesteps: number) {
    this.#rows = new Float32Array(numTimesteps * this.#width)
  }

  /** p(t), in proportion to the root of the mean squared loss. */
  probabilities(): Float64Array {
    const T = this.numTimesteps
    const roots = new Float64Array(T)
    for (let t = 0; t < T; t++) {
      const [count, ...losses] = this.#row(t)
      if (count < perTimestep) return new Float64Array(T).fill(1 / T)
      roots[t] = Math.sqrt(losses.reduce((sum, loss) => sum + loss * loss, 0) / perTimestep)
    }
    const total = roots.reduce((a, b) => a + b, 0)
    return total > 0 ? roots.map((v) => (v / total) * (1 - evenly) + evenly / T) : roots.fill(1 / T)
  }

  /** Sample i of a step is drawn by its own stream, but depends on the losses so far. */
  draw(seed: Seed, step: number, o: { batchSize: number; sampleOffset: number }): DrawnTimesteps {
    const p = this.probabilities()
    let sum = 0
    const cumulative = p.map((v) => {
      sum += v
      return sum
    })
    const t = Int32Array.from({ length: o.batchSize }, (_, i) => {
      const place = (words(seed, Purpose.timesteps, o.sampleOffset + i, step, 1)[0] / 2 ** 32) * sum
      return cumulative.findIndex((v) => place < v)
    })
    return { t, weights: Float32Array.from(t, (k) => 1 / (this.numTimesteps * p[k])) }
  }

  /** losses: of each sample, unweighted. */
  update(t: Int32Array, losses: Float32Array): void {
    for (const [i, k] of t.entries()) {
      const row = this.#row(k)
      row[1 + (row[0] % perTimestep)] = losses[i]
      // The place of the oldest is the count modulo perTimestep; it starts over before float32 stops counting.
      row[0] = row[0] + 1 === 2 * perTimestep ? perTimestep : row[0] + 1
    }
  }

  #row(t: number): Float32Array {
    return this.#rows.subarray(t * this.#width, (t + 1) * this.#width)
  }

  /** Everything that it remembers, [T, 11]. */
  get state(): Tensor {
    return Tensor.from(this.#rows, [this.numTimesteps, this.#width])
  }

  async load(state: Tensor): Promise<void> {
    const shape = [this.numTimesteps, this.#width]
    if (!sameShape(state.shape, shape)) {
      throw new DiffusionError('state-mismatch', `timestepLosses: expected shape [${shape}], got [${state.shape}]`, {
        argument: 'timestepLosses',
      })
    }
    this.#rows = await state.data()
  }
}
