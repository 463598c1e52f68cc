/** What a training shows of itself: the pictures of ddpm.py's ImageLogger. */
import type { Pixels } from '../data/image-format'
import { imageAt, toBytes } from '../data/image-grid'
import type { TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { makeGrid } from '../diffusion/models/make-grid'
import type { Tensor } from '../tensor'
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
  const { images, shape, labels } = await data.batch(0, N)
  const batch = batchOf(ddpm, images, trainedLabels(ddpm, data)(N, labels), shape)
  const steps = Math.min(options.sampleSteps, ddpm.numTimesteps)
  const log = await ddpm.logImages(batch, { N, steps, seed, signal })
  return {
    inputs: await pixels(await makeGrid(log.inputs!, columns)),
    diffusion_row: await pixels(log.diffusionRow!),
    samples: await pixels(await makeGrid(log.samples!, columns)),
    denoise_row: await pixels(log.denoiseRow!),
  }
}

/** Of more channels than can be seen, the first three are, of two the first. */
export async function pixels(picture: Tensor): Promise<Pixels> {
  const [channels, height, width] = picture.shape
  const seen = channels === 2 ? 1 : Math.min(channels, 3)
  const values = ((await picture.values()) as Float32Array).subarray(0, seen * height * width)
  return imageAt(toBytes(values, [1, seen, height, width]), 0)
}
