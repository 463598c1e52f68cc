/** The image that a sampling begins with, and its mask, in pixels: what latents of so many they must be. */
import { invalidArgument } from '../../errors'
import { checkTensor, sizeOf, Tensor } from '../../tensor'

/** `shape`: of the latents; `factor`: pixels of a latent. Throws `invalid-argument`. */
export async function checkOwnImage(
  { image, mask }: { readonly image?: Tensor; readonly mask?: Tensor },
  [n, , h, w]: readonly number[],
  channels: number,
  factor = 1,
): Promise<void> {
  const [height, width] = [factor * h, factor * w]
  if (image) checkTensor(image, 'image', [n, channels, height, width])
  if (!mask) return
  const fits = mask.shape.length === 4 && mask.shape[2] === height && mask.shape[3] === width
  if (!fits || (await mask.data()).some((v) => !(v >= 0 && v <= 1))) {
    throw invalidArgument('mask', `numbers from 0 to 1 of shape [n or 1, c or 1, ${height}, ${width}]`, mask)
  }
}

/** A mask of pixels as one of latents [n, c, h, w]: a latent is kept where all of its pixels are. */
export async function smallerMask(mask: Tensor, [, , h, w]: readonly number[]): Promise<Tensor> {
  const [n, c, height, width] = mask.shape
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
