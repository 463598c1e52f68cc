/** Batches as ddpm.py has them: images with the channels last, by the model's keys. */
import type { Batch } from '../diffusion/models/batch'
import type { DDPM } from '../diffusion/models/ddpm'
import { Tensor } from '../tensor'

/** `images` are [n, c, h, w]. */
export function batchOf(
  ddpm: DDPM,
  images: Float32Array,
  labels: Int32Array | undefined,
  shape: readonly [number, number, number, number],
): Batch {
  return {
    [ddpm.firstStageKey]: nhwc(images, shape),
    ...(labels && { [ddpm.classKey]: Tensor.wrap(labels, [shape[0]]) }),
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
