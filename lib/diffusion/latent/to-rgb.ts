/** ddpm.py's to_rgb: maps of many channels as pictures. */
import type { Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import { Tensor } from '../../tensor'

/** x [n, c, h, w] by random colours of the channels, the same for a seed, as [n, 3, h, w] from -1 to 1. */
export async function toRgb(x: Tensor, seed: Seed): Promise<Tensor> {
  const [n, channels, h, w] = x.shape
  const colours = normal(seed, Purpose.user, channels, 4, 3 * channels)
  const values = await x.data()
  const area = h * w
  const picture = new Float32Array(n * 3 * area)
  for (let to = 0; to < n * 3; to++) {
    const [i, colour] = [Math.floor(to / 3), to % 3]
    for (let k = 0; k < channels; k++) {
      const from = (i * channels + k) * area
      const share = colours[colour * channels + k]
      for (let p = 0; p < area; p++) picture[to * area + p] += share * values[from + p]
    }
  }
  const [least, most] = picture.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity])
  return Tensor.wrap(
    picture.map((v) => (2 * (v - least)) / (most - least) - 1),
    [n, 3, h, w],
  )
}
