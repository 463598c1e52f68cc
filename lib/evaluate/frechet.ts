/** The distance of two Gaussians by which FID compares two sets of images. */
import { DiffusionError } from '../errors'
import { choleskyFactor, nuclearNorm, product } from './linear-algebra'
import type { Moments } from './moments'

/**
 * |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al. 2017, eq. 6. With C1 = F^T F and C2 = G^T G, of any rank, the eigenvalues
 * of C1 C2 are those of (F G^T)(F G^T)^T, so that the last trace is the sum of F G^T's singular values.
 */
export function frechet(a: Moments, b: Moments): number {
  const d = a.mean.length
  let means = 0
  let traces = 0
  for (let i = 0; i < d; i++) {
    means += (a.mean[i] - b.mean[i]) ** 2
    traces += a.covariance[i * d + i] + b.covariance[i * d + i]
  }
  if (!Number.isFinite(means)) throw new DiffusionError('not-finite', 'a mean of features is not finite')
  const [F, G] = [choleskyFactor(a.covariance, d), choleskyFactor(b.covariance, d)]
  return means + traces - 2 * nuclearNorm(product(F.rows, G.rows, F.rank, G.rank, d), F.rank, G.rank)
}
