/** The distance of two Gaussians by which FID compares two sets of images. */
import { DiffusionError } from '../errors'
import { addProduct, choleskyFactor, nuclearNorm } from './linear-algebra'
import type { Moments } from './moments'

/**
 * |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al. 2017, eq. 6. With C1 = F F^T and C2 = G G^T, of any rank, the eigenvalues
 * of C1 C2 are those of (F^T G)(F^T G)^T, so that the last trace is the sum of F^T G's singular values.
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
  const product = new Float64Array(F.rank * G.rank)
  addProduct(product, F.L, G.L, { rows: d, m: F.rank, n: G.rank })
  const root = nuclearNorm(product, F.rank, G.rank)
  return Math.max(0, means + traces - 2 * root) // what is below 0 is rounding
}
