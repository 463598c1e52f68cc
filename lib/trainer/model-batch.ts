/** Batches as ddpm.py has them: images with the channels last, by the model's keys. */
import type { ImageBatch } from '../data/training-data'
import type { Batch } from '../diffusion/models/batch'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import { Tensor } from '../tensor'

/** Images, or of a latent model perhaps latents. */
export function batchOf(
  ddpm: DDPM,
  { images, latents, shape, captions }: ImageBatch,
  labels: Int32Array | undefined,
): Batch {
  const isTold = ddpm instanceof LatentDiffusion && ddpm.conditioningKey !== undefined
  return {
    ...(latents ? { z: Tensor.wrap(images, shape) } : { [ddpm.firstStageKey]: nhwc(images, shape) }),
    ...(labels && { [ddpm.classKey]: Tensor.wrap(labels, [shape[0]]) }),
    ...(isTold && captions && { [ddpm.condStageKey]: captions }),
  }
}

function nhwc(images: Float32Array, [n, c, h, w]: readonly number[]): Tensor {
  const out = new Float32Array(images.length)
  const plane = h * w
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      for (let p = 0; p < plane; p++) out[(i * plane + p) * c + k] = images[(i * c + k) * plane + p]
    }
  }
  return Tensor.wrap(out, [n, h, w, c])
}
