/** A mask of pixels as one of latents: a latent is kept where all of its pixels are. */
import { invalidArgument } from '../../errors'
import { sizeOf, Tensor } from '../../tensor'

export async function smallerMask(mask: Tensor, shape: readonly number[]): Promise<Tensor> {
  const [, , h, w] = shape
  const [n, c, height, width] = mask.shape
  if (mask.shape.length !== 4 || height % h !== 0 || width % w !== 0 || height / h !== width / w) {
    throw invalidArgument('mask', "the images' height and width", mask)
  }
  const by = height / h
  const values = await mask.data()
  const data = new Float32Array(n * c * h * w).fill(1)
  for (let i = 0; i < sizeOf(mask.shape); i++) {
    const [plane, y, x] = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width]
    const to = (plane * h + Math.floor(y / by)) * w + Math.floor(x / by)
    data[to] = Math.min(data[to], values[i])
  }
  return Tensor.wrap(data, [n, c, h, w])
}
