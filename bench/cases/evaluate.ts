/** What FID and KID take beside the network: in float64 on a thread of JavaScript's, and products on the device. */
import { Device } from '../../lib/device'
import { frechet } from '../../lib/evaluate/frechet'
import { kernelDistance } from '../../lib/evaluate/kid'
import { RunningMoments } from '../../lib/evaluate/moments'
import { Products } from '../../lib/evaluate/products'
import { normal, Purpose } from '../../lib/rng'
import type { Case, Prepared } from '../harness'

const d = 2048
const rows = 64
const subset = 1000

const normals = (seed: number, count: number) => normal(seed, Purpose.user, 0, 0, count)

const moments = (features: number, count: number, seed: number) => {
  const running = new RunningMoments(features)
  running.add(normals(seed, count * features))
  return running.result()
}

const add: Case = {
  name: `evaluate moments of ${d} features`,
  flops: rows * d * d,
  items: rows,
  async prepare(): Promise<Prepared> {
    const running = new RunningMoments(d)
    const features = normals(1, rows * d)
    return { run: async () => running.add(features), dispose() {} }
  },
}

/** Of singular covariances, too, which are those of fewer images than features. */
const distance = (features: number, count: number): Case => ({
  name: `evaluate fid of ${features} features, ${count} images`,
  async prepare(): Promise<Prepared> {
    const [a, b] = [moments(features, count, 1), moments(features, count, 2)]
    return { run: async () => frechet(a, b), dispose() {} }
  },
})

const kid: Case = {
  name: `evaluate kid of ${d} features, a subset of ${subset}`,
  flops: 6 * subset * subset * d,
  async prepare(): Promise<Prepared> {
    const products = new Products(Device.open(), d)
    const [X, Y] = [1, 2].map((seed) => ({ values: normals(seed, subset * d), count: subset }))
    return {
      run: () => kernelDistance(products, X, Y, { subsets: 1, subsetSize: subset, seed: 0 }),
      dispose: () => products.release(),
    }
  },
}

export const evaluateCases: readonly Case[] = [add, distance(1024, 2000), distance(d, 200), distance(d, 3000), kid]
