/** What latents are multiplied by to have a standard deviation of 1: LatentDiffusion's scale_by_std. */
import type { TrainingData } from '../../data/training-data'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import type { VQModelInterface } from '../../stages/vq-model'
import { Tensor } from '../../tensor'
import type { ResolvedAutoencoderTrainOptions } from '../../train/autoencoder/options'

/** Upstream's are those of one batch. */
const most = 256

/**
 * 1 / std, unbiased over all numbers, of the first images of the data: of samples of the posterior, or before the codebook. 1 where all
 * numbers are the same.
 */
export async function scaleFactor(
  stage: AutoencoderKL | VQModelInterface,
  data: TrainingData,
  { batchSize }: Pick<ResolvedAutoencoderTrainOptions, 'batchSize'>,
): Promise<number> {
  const images = Math.min(most, Math.max(batchSize, data.length))
  let [count, mean, squares] = [0, 0, 0]
  for (let first = 0; first < images; first += batchSize) {
    const batch = await data.batch(first, batchSize)
    using x = Tensor.wrap(batch.images, batch.shape)
    const z =
      stage instanceof AutoencoderKL ? await (await stage.encode(x)).sample({ seed: first }) : await stage.encode(x)
    // Welford's sums.
    for (const value of await z.values()) {
      count++
      const difference = value - mean
      mean += difference / count
      squares += difference * (value - mean)
    }
  }
  return squares > 0 ? 1 / Math.sqrt(squares / (count - 1)) : 1
}
