/** The loss of images that the training does not see: ddpm.py's validation_step over a folder, with the same noise every time. */
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/ddpm'
import type { Seed } from '../options'
import { drawTimesteps, heldOutSeed } from '../rng'
import { quarters, type Scalars } from '../run/scalars'
import { labelsFor } from './labels'
import { batchOf } from './model-batch'

export interface HeldOutOptions {
  /** How many: the first of the data's order. */
  readonly images: number
  readonly batchSize: number
  readonly seed: Seed
  readonly signal?: AbortSignal
}

/**
 * Each image is evaluated once in each quarter of the timesteps. Timestep and noise of image i follow from the seed and i alone, in
 * any batch and at any step of the training. A loss is the mean over all timesteps; 'val/loss_q0' to 'val/loss_q3' are those of the quarters
 * (improved-diffusion's names), q3 of the noisiest. Undefined where the signal ended it. Changes nothing in the model.
 */
export async function heldOutLosses(
  ddpm: DDPM,
  data: TrainingData,
  { images, batchSize, seed, signal }: HeldOutOptions,
): Promise<Scalars | undefined> {
  const labelOf = labelsFor(ddpm, data)
  const parts = quartersOf(ddpm.numTimesteps)
  const sums: Record<string, number> = {}
  const add = (name: string, loss: number) => {
    sums[name] = (sums[name] ?? 0) + loss
  }
  for (let first = 0; first < images; first += batchSize) {
    const n = Math.min(batchSize, images - first)
    const { images: pixels, shape, labels } = await data.batch(first, n)
    const batch = batchOf(ddpm, pixels, labelOf?.(n, labels), shape)
    for (const { quarter, start, count } of parts) {
      if (signal?.aborted) return undefined
      const own = heldOutSeed(seed, quarter)
      const drawn = drawTimesteps(own, 0, { batchSize: n, numTimesteps: count, sampleOffset: first })
      const t = drawn.map((k) => start + k)
      const losses = await ddpm.validationStep(batch, { t, seed: own, sampleOffset: first })
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
