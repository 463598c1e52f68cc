/** Between the images of two seeds: Song et al. 2021, section 5.3. */
import type { Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import { type Shape, sizeOf, Tensor } from '../../tensor'

/** x_T of `count` images, [count, ...image]: those that two seeds begin sample `sample` with, and between them on an arc. */
export function interpolatedNoise(
  image: Shape,
  o: { seeds: readonly [Seed, Seed]; count: number; sample: number },
): Tensor {
  const size = sizeOf(image)
  const [a, b] = o.seeds.map((seed) => normal(seed, Purpose.initial, o.sample, 0, size))
  const data = new Float32Array(o.count * size)
  for (let i = 0; i < o.count; i++) data.set(slerp(a, b, o.count === 1 ? 0 : i / (o.count - 1)), i * size)
  return Tensor.wrap(data, [o.count, ...image])
}

/** Spherical linear interpolation (Shoemake 1985): what lies between two normal vectors keeps their length, unlike on a line. */
export function slerp(a: Float32Array, b: Float32Array, weight: number): Float32Array {
  if (weight === 0) return a
  if (weight === 1) return b
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, v, i) => sum + v * y[i], 0)
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1))
  if (Math.sin(angle) < 1e-6) return a.map((v, i) => v + weight * (b[i] - v))
  const [p, q] = [Math.sin((1 - weight) * angle), Math.sin(weight * angle)].map((v) => v / Math.sin(angle))
  return a.map((v, i) => p * v + q * b[i])
}
