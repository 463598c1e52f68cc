/** The loss of images that the training does not see: ddpm.py's validation_step over a folder, with the same noise every time. */
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { DiffusionError, invalidArgument } from '../errors'
import { integer, parseOptions, type SchemaOf, type Seed, seed, value } from '../options'
import { drawTimesteps, heldOutSeed } from '../rng'
import { quarters, type Scalars } from '../train/scalars'
import { labelsFor } from './labels'
import { batchOf } from './model-batch'
import { Ranks } from './ranks'

/** Of heldOutLosses. */
export interface HeldOutOptions {
  /** Images to evaluate: the first of the data's order. Default: all. */
  limit?: number
  /** Images in a batch; no loss depends on it, but for rounding. Default 16. */
  batchSize?: number
  /** Of the timesteps and of the noise. Default 0. */
  seed?: Seed
  /** Ends it within one evaluation of the network, with `aborted`. Default: none. */
  signal?: AbortSignal
}

const schema = {
  limit: integer(undefined, { min: 1 }),
  batchSize: integer(16, { min: 1 }),
  seed: seed(0),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<HeldOutOptions>

/**
 * Each image is evaluated once in each quarter of the timesteps. Timestep and noise of image i follow from the seed and i alone, in
 * any batch and at any step of the training. A loss is the mean over all timesteps; 'val/loss_q0' to 'val/loss_q3' are those of the quarters
 * (improved-diffusion's names), q3 of the noisiest. Classes are as in `evaluate`. Changes nothing in the model. Throws `aborted`, and
 * `invalid-argument` for classes that the model does not have.
 */
export function heldOutLosses(ddpm: DDPM, data: TrainingData, options: HeldOutOptions = {}): Promise<Scalars> {
  return heldOutLossesOf(new Ranks(undefined), ddpm, data, options)
}

/** The same by ranks, which divide the batches: each has all losses, and the bits are those of one. */
export async function heldOutLossesOf(
  ranks: Ranks,
  ddpm: DDPM,
  data: TrainingData,
  options: HeldOutOptions,
): Promise<Scalars> {
  const { limit, batchSize, seed, signal } = parseOptions('heldOutLosses', options, schema)
  const images = Math.min(data.length || Number.POSITIVE_INFINITY, limit ?? Number.POSITIVE_INFINITY)
  if (images === Number.POSITIVE_INFINITY) throw invalidArgument('limit', 'a number, where the data have none', limit)
  const labelOf = labelsFor(ddpm, data)
  const parts = quartersOf(ddpm.numTimesteps)
  const sizeOf = (index: number) => Math.min(batchSize, images - index * batchSize)
  /** Of each quarter. */
  const lossesOf = async (index: number) => {
    const [first, n] = [index * batchSize, sizeOf(index)]
    const drawn = await data.batch(first, n)
    const batch = batchOf(ddpm, drawn, labelOf?.(n, drawn.labels))
    const all: Readonly<Record<string, number>>[] = []
    for (const { quarter, start, count } of parts) {
      if (signal?.aborted) throw new DiffusionError('aborted', 'the evaluation was aborted', { cause: signal.reason })
      const own = heldOutSeed(seed, quarter)
      const drawn = drawTimesteps(own, 0, { batchSize: n, numTimesteps: count, sampleOffset: first })
      const t = drawn.map((k) => start + k)
      all.push(await ddpm.validationStep(batch, { t, seed: own, sampleOffset: first }))
    }
    return all
  }
  const sums: Record<string, number> = {}
  const add = (name: string, loss: number) => {
    sums[name] = (sums[name] ?? 0) + loss
  }
  let index = 0
  for await (const all of ranks.divided(Math.ceil(images / batchSize), lossesOf)) {
    const n = sizeOf(index++)
    for (const [i, losses] of all.entries()) {
      const { quarter, count } = parts[i]
      for (const [name, loss] of Object.entries(losses)) {
        add(name, (loss * n * count) / (images * ddpm.numTimesteps))
        const ofQuarter = quarters[name]?.[quarter]
        if (ofQuarter) add(ofQuarter, (loss * n) / images)
      }
    }
  }
  return sums
}

/** Timestep t of T is in quarter floor(4 t / T). With fewer than four timesteps some have none. */
function quartersOf(T: number): { quarter: number; start: number; count: number }[] {
  const start = (quarter: number) => Math.ceil((quarter * T) / 4)
  const all = [0, 1, 2, 3].map((q) => ({ quarter: q, start: start(q), count: start(q + 1) - start(q) }))
  return all.filter(({ count }) => count > 0)
}
