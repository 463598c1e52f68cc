/** Batches of images with what the network is told of them. */
import { checkShape, Tensor } from '../../tensor'
import type { Told } from '../options/method-options'

/**
 * Named tensors: with firstStageKey's, images NHWC (or NHW) in [-1, 1]; with classKey's, class
 * labels [n]; with contextKey's, tokens [n, l, contextDim]; with vectorKey's, vectors [n, vectorDim]; with
 * concatKey's, maps NHWC. Of a latent model, with condStageKey's, what its conditioning stage takes, such as texts; and `z`, latents [n, c, h, w]
 * as getFirstStageEncoding gives them, in place of images.
 */
export type Batch = Readonly<Record<string, Tensor | readonly string[]>>

/** What a batch is to the network. */
export interface ModelInput extends Told {
  readonly x: Tensor
}

/** The first n samples of a batch. */
export async function firstImages(x: Tensor, n: number): Promise<Tensor> {
  const [, ...image] = x.shape
  checkShape(image)
  const size = image.reduce((a, b) => a * b, 1)
  return Tensor.wrap((await x.data()).subarray(0, n * size), [n, ...image])
}
