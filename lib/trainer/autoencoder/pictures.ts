/** What a first stage's training shows of itself: upstream's log_images. */
import type { AutoencoderTraining } from '../../autoencoder/training'
import type { TrainingData } from '../../data/training-data'
import { makeGrid } from '../../diffusion/models/make-grid'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import { Tensor } from '../../tensor'
import type { ResolvedAutoencoderTrainOptions } from '../../train/autoencoder/options'
import type { Pictures } from '../journal'
import { columns, pixels } from '../pictures'

/**
 * The same images every time, and what the averaged weights make of them: of the posterior's mode, or through the codebook. Changes
 * nothing in the training.
 */
export async function drawReconstructions(
  training: AutoencoderTraining,
  data: TrainingData,
  { sampleCount }: ResolvedAutoencoderTrainOptions,
): Promise<Pictures> {
  const { images, shape } = await data.batch(0, sampleCount)
  using x = Tensor.wrap(images, shape)
  using stage = await training.averaged()
  const reconstructions =
    stage instanceof AutoencoderKL
      ? (await stage.forward(x, { samplePosterior: false })).dec
      : await stage.decode(await stage.encode(x))
  return {
    inputs: await pixels(await makeGrid(x, columns)),
    samples: await pixels(await makeGrid(reconstructions, columns)),
  }
}
