/** Conditions with noise: what ddpm.py's num_timesteps_cond makes of them in training and sampling. */
import type { Seed } from '../../options'
import { conditionSeed, normal, Purpose } from '../../rng'
import { type Shape, sizeOf, Tensor } from '../../tensor'
import type { Condition } from './condition'
import type { Core } from './core'
import { qSample, type Stream } from './process'

/** q_sample of context or map at timesteps `tc`, one for each sample; labels stay. */
export async function noisyCondition(
  core: Core,
  { context, concat, ...rest }: Condition,
  tc: Int32Array,
  noise: (shape: Shape) => Tensor | Promise<Tensor>,
): Promise<Condition> {
  const noisy = async (tensor: Tensor) => qSample(core, tensor, tc, await noise(tensor.shape))
  return {
    ...rest,
    ...(context && { context: await noisy(context) }),
    ...(concat && { concat: await noisy(concat) }),
  }
}

/** Sample i of a stream has the same noise in any batch. */
export function conditionNoise(shape: Shape, { seed, sampleOffset, step }: Stream): Tensor {
  const [n, ...rest] = shape
  const size = sizeOf(rest)
  const own: Seed = conditionSeed(seed)
  const data = new Float32Array(n * size)
  for (let i = 0; i < n; i++) data.set(normal(own, Purpose.latent, sampleOffset + i, step, size), i * size)
  return Tensor.wrap(data, shape)
}
