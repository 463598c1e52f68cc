/** How the timesteps of a training are drawn, where that is not evenly. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { Seed } from '../../options'
import { normal, Purpose, words } from '../../rng'
import { sameShape, Tensor } from '../../tensor'
import type { Parameterization } from './prediction'
import type { Schedule } from './schedule'
import type { TimestepSampler } from './settings'

/** Losses that are kept of each timestep. Until all have that many, timesteps are drawn evenly. */
const perTimestep = 10
/** The part that is drawn evenly afterwards, so that no timestep is forgotten. */
const evenly = 0.001

export interface DrawnTimesteps {
  readonly t: Int32Array
  /** 1 / (T p(t)): what makes the weighted loss as large as the evenly drawn one, in expectation. None: the draw is the objective's. */
  readonly weights?: Float32Array
}

/** Of the normal distribution. */
export interface NormalOptions {
  readonly mean?: number
  readonly std?: number
}

interface SamplerOptions {
  readonly timestepSampler?: TimestepSampler
  readonly timestepMean?: number
  readonly timestepStd?: number
  readonly parameterization: Parameterization
}

/** The sampler that is asked for, or the parameterization's. Throws `invalid-argument` for what it has not got. */
export function timestepSamplerOf({
  parameterization,
  ...o
}: SamplerOptions): NormalOptions & { readonly name: TimestepSampler } {
  const { timestepSampler: name = parameterization === 'edm' ? 'lognormal' : 'uniform' } = o
  const { timestepMean: mean, timestepStd: std } = o
  if (name === 'lognormal' || name === 'logit-normal') return { name, mean, std }
  for (const option of ['timestepMean', 'timestepStd'] as const) {
    if (o[option] !== undefined) throw invalidArgument(option, `nothing with timestepSampler '${name}'`, o[option])
  }
  return { name }
}

/**
 * Timesteps by a normal number of each sample's own stream: the nearest one in log(sigma) that it is ('lognormal', Karras et al. 2022,
 * table 1), or the one at the place among all whose logit it is ('logit-normal', Esser et al. 2024, eq. 19).
 */
export function drawNormal(
  sampler: 'lognormal' | 'logit-normal',
  { sqrtAlphasCumprod: a, sqrtOneMinusAlphasCumprod: b }: Schedule,
  o: NormalOptions & { seed: Seed; step: number; batchSize: number; sampleOffset: number },
): Int32Array {
  const { mean = sampler === 'lognormal' ? -1.2 : 0, std = sampler === 'lognormal' ? 1.2 : 1 } = o
  return Int32Array.from({ length: o.batchSize }, (_, i) => {
    const z = mean + std * normal(o.seed, Purpose.timesteps, o.sampleOffset + i, o.step, 1)[0]
    if (sampler === 'logit-normal') return Math.min(Math.floor(a.length / (1 + Math.exp(-z))), a.length - 1)
    let t = a.findIndex((signal, k) => Math.log(b[k] / signal) >= z)
    if (t < 0) t = a.length - 1
    const nearer = t > 0 && z - Math.log(b[t - 1] / a[t - 1]) < Math.log(b[t] / a[t]) - z
    return nearer ? t - 1 : t
  })
}

/**
 * Timesteps drawn by how much they contribute to the loss: Nichol & Dhariwal 2021, eq. 18; improved-diffusion's
 * LossSecondMomentResampler.
 */
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
