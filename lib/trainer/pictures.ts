/** What a training shows of itself: the pictures of ddpm.py's ImageLogger. */
import type { Pixels } from '../data/image-format'
import { imageAt, toBytes } from '../data/image-grid'
import type { ImageBatch, TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import { makeGrid } from '../diffusion/models/make-grid'
import type { Seed } from '../options'
import { Tensor } from '../tensor'
import type { ResolvedTrainOptions } from '../train/options'
import type { Pictures } from './journal'
import { trainedLabels } from './labels'
import { batchOf } from './model-batch'

/** Images in a row, as in ImageLogger. */
export const columns = 4

/**
 * The same images and the same noise every time, so that the pictures show the progress; of a class-conditional model, samples of
 * the images' classes. Changes nothing in the training. Throws `aborted`.
 */
export async function drawPictures(
  ddpm: DDPM,
  data: TrainingData,
  options: ResolvedTrainOptions,
  signal?: AbortSignal,
): Promise<Pictures> {
  const { sampleCount: N, seed } = options
  const drawn = await data.batch(0, N)
  const labels = trainedLabels(ddpm, data)(N, drawn.labels)
  const steps = Math.min(options.sampleSteps, ddpm.numTimesteps)
  if (ddpm instanceof LatentDiffusion) return drawLatents(ddpm, drawn, { labels, steps, seed, signal })
  const log = await ddpm.logImages(batchOf(ddpm, drawn, labels), { N, steps, seed, signal })
  return {
    inputs: await pixels(await makeGrid(log.inputs!, columns)),
    diffusion_row: await pixels(log.diffusionRow!),
    samples: await pixels(await makeGrid(log.samples!, columns)),
    denoise_row: await pixels(log.denoiseRow!),
  }
}

/** The inputs as the first stage decodes them, and samples of their captions or classes. */
async function drawLatents(
  ldm: LatentDiffusion,
  { images, shape, captions }: ImageBatch,
  { labels, ...o }: { labels?: Int32Array; steps: number; seed: Seed; signal?: AbortSignal },
): Promise<Pictures> {
  const told = { ...(ldm.conditioningKey && { prompt: captions }), ...(labels && { classLabels: [...labels] }) }
  const sampler = o.steps < ldm.numTimesteps ? { sampler: 'ddim' as const, steps: o.steps } : {}
  const { seed, signal } = o
  const samples = await ldm.emaScope(() => ldm.sample({ ...told, ...sampler, batchSize: shape[0], seed, signal }))
  return {
    inputs: await pixels(await makeGrid(await ldm.decodeFirstStage(Tensor.wrap(images, shape)), columns)),
    samples: await pixels(await makeGrid(samples, columns)),
  }
}

/** Of more channels than can be seen, the first three are, of two the first. */
export async function pixels(picture: Tensor): Promise<Pixels> {
  const [channels, height, width] = picture.shape
  const seen = channels === 2 ? 1 : Math.min(channels, 3)
  const values = ((await picture.values()) as Float32Array).subarray(0, seen * height * width)
  return imageAt(toBytes(values, [1, seen, height, width]), 0)
}
