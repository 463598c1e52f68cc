/**
 * Random numbers that depend only on (seed, purpose, sample, step): the same in any batch, order, process and backend.
 * The generator is kernels/philox.h, Philox 4x32-10.
 */
import { native } from './native'
import type { Seed } from './options'

/** What a stream is for, so that streams of one seed never meet. The same list as in kernels/philox.h. */
export const Purpose = {
  initial: 0,
  posterior: 1,
  training: 2,
  timesteps: 3,
  dropout: 4,
  weights: 5,
  data: 6,
  user: 7,
  latent: 8,
} as const
export type PurposeId = (typeof Purpose)[keyof typeof Purpose]

/** [low, high]: the 64 bits that key the generator. */
export function seedWords(seed: Seed): [number, number] {
  const bits = BigInt(seed)
  return [Number(bits & 0xffffffffn), Number((bits >> 32n) & 0xffffffffn)]
}

/** The graph input `rng` of kernels/ops.h, i32 [1, 1, 1, 4]: seed low, seed high, step, 0. */
export function rngWords(seed: Seed, step = 0): Int32Array {
  const [low, high] = seedWords(seed)
  return Int32Array.of(low, high, step, 0)
}

/** `n` raw 32-bit words of a stream. */
export function words(seed: Seed, purpose: PurposeId, sample: number, step: number, n: number): Uint32Array {
  const [low, high] = seedWords(seed)
  return native.philox(low, high, purpose, sample, step, n)
}

/** `n` normal numbers of a stream, from its beginning. */
export function normal(seed: Seed, purpose: PurposeId, sample: number, step: number, n: number): Float32Array {
  const [low, high] = seedWords(seed)
  return native.normal(low, high, purpose, sample, step, n)
}

/** A word as an integer in [0, n) by multiply and shift; the bias is n / 2^32. */
export function below(word: number, n: number): number {
  return Math.floor((word * n) / 2 ** 32)
}

/** Timesteps of a training batch: sample i of step s has the same one in any batch. */
export function drawTimesteps(
  seed: Seed,
  step: number,
  o: { batchSize: number; numTimesteps: number; sampleOffset: number },
): Int32Array {
  return Int32Array.from({ length: o.batchSize }, (_, i) =>
    below(words(seed, Purpose.timesteps, o.sampleOffset + i, step, 1)[0], o.numTimesteps),
  )
}

/** Seed number `index` of those that are made of a seed for one use. */
function seedFrom(seed: Seed, index: number, use: number): number {
  const [low, high] = words(seed, Purpose.user, index, use, 2)
  return (high >>> 11) * 2 ** 32 + low
}

/** Seeds of the held-out loss, so that its noise is never the training's. */
export function heldOutSeed(seed: Seed, index: number): number {
  return seedFrom(seed, index, 2)
}

/** Seed of the noise that conditions get, which is then never that of the samples. */
export function conditionSeed(seed: Seed): number {
  return seedFrom(seed, 0, 3)
}

/**
 * Seeds for calls that were given none: they differ from call to call, and a new model of the same seed repeats them.
 * `drawn`, the number of seeds handed out, is all its state.
 */
export class SeedSequence {
  drawn = 0

  constructor(readonly seed: Seed) {}

  next(): number {
    return seedFrom(this.seed, this.drawn++, 1)
  }
}
