// The Frechet distance of Gaussians against closed forms, and the moments that it is computed of.
import assert from 'node:assert/strict'
import { frechetDistance } from '../../lib/evaluate/evaluate-samples'
import { frechet } from '../../lib/evaluate/frechet'
import { choleskyFactor, eigenvalues, nuclearNorm } from '../../lib/evaluate/linear-algebra'
import { type Moments, RunningMoments } from '../../lib/evaluate/moments'
import { Random } from '../support/random'
import { covariance, momentsOf, times, trace } from './support'

function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) <= 1e-6 * Math.max(1, Math.abs(expected)), `${actual}, not ${expected}`)
}

describe('moments', () => {
  const d = 7
  const rows = new Random(3).normals(150 * d, 2, 1)

  it('are the mean and the unbiased covariance', () => {
    const { mean, covariance } = momentsOf(rows, d)
    for (let i = 0; i < d; i++) {
      let sum = 0
      for (let r = 0; r < 150; r++) sum += rows[r * d + i]
      assert.ok(Math.abs(mean[i] - sum / 150) < 1e-13)
      for (let j = 0; j < d; j++) {
        let product = 0
        for (let r = 0; r < 150; r++) product += (rows[r * d + i] - mean[i]) * (rows[r * d + j] - mean[j])
        assert.ok(Math.abs(covariance[i * d + j] - product / 149) < 1e-13)
      }
    }
  })

  it('are those of numpy.cov', () => {
    // numpy.cov(numpy.array([[1, 2, 4], [3, 8, 1], [2, 2, 2], [7, 1, 0]]), rowvar=False)
    const { mean, covariance } = momentsOf([1, 2, 4, 3, 8, 1, 2, 2, 2, 7, 1, 0], 3)
    const expected = [
      ...[6.916666666666666, -1.75, -3.9166666666666665],
      ...[-1.75, 10.25, -0.9166666666666666],
      ...[-3.9166666666666665, -0.9166666666666666, 2.9166666666666665],
    ]
    assert.deepEqual([...mean], [3.25, 3.25, 1.75])
    for (const [i, v] of expected.entries()) assert.ok(Math.abs(covariance[i] - v) < 1e-14, `${i}: ${covariance[i]}`)
  })

  it('depend on the order alone, whatever the batches', () => {
    const running = new RunningMoments(d)
    for (let from = 0, n = 1; from < rows.length; from += n * d, n = (n % 5) + 1)
      running.add(rows.subarray(from, from + n * d))
    assert.deepEqual(running.result(), momentsOf(rows, d))
  })

  it('keep their digits where means are far from 0', () => {
    const far = Float64Array.from(rows, (v) => v + 2 ** 30)
    const [there, here] = [
      momentsOf(far, d),
      momentsOf(
        Float64Array.from(far, (v) => v - 2 ** 30),
        d,
      ),
    ]
    for (const [i, v] of here.covariance.entries()) assert.ok(Math.abs(there.covariance[i] - v) < 1e-6)
  })
})

describe('linear algebra', () => {
  it('eigenvalues of the second difference', () => {
    const n = 50
    const found = eigenvalues(new Float64Array(n).fill(2), new Float64Array(n).fill(-1)).sort()
    for (let k = 0; k < n; k++) assert.ok(Math.abs(found[k] - 2 + 2 * Math.cos(((k + 1) * Math.PI) / (n + 1))) < 1e-13)
  })

  it('a factor of a covariance of any rank', () => {
    for (const rank of [1, 5, 12]) {
      const A = covariance(new Random(rank), 12, rank)
      const factor = choleskyFactor(A, 12)
      assert.equal(factor.rank, rank)
      for (let i = 0; i < 12; i++) {
        for (let j = 0; j < 12; j++) {
          let sum = 0
          for (let r = 0; r < rank; r++) sum += factor.L[i * rank + r] * factor.L[j * rank + r]
          assert.ok(Math.abs(sum - A[i * 12 + j]) < 1e-12)
        }
      }
    }
    assert.equal(choleskyFactor(new Float64Array(9), 3).rank, 0)
  })

  it('singular values of wide, high and singular matrices', () => {
    // | 3 4 |: one row is its length; of u v^T the product of lengths
    assert.ok(Math.abs(nuclearNorm(Float64Array.of(3, 4), 1, 2) - 5) < 1e-14)
    assert.ok(Math.abs(nuclearNorm(Float64Array.of(3, 4), 2, 1) - 5) < 1e-14)
    const outer = Float64Array.from({ length: 12 }, (_, i) => [1, 2, 2][Math.floor(i / 4)] * [0, 3, 0, 4][i % 4])
    assert.ok(Math.abs(nuclearNorm(outer, 3, 4) - 15) < 1e-13)
    assert.equal(nuclearNorm(new Float64Array(6), 2, 3), 0)
    assert.equal(nuclearNorm(new Float64Array(0), 0, 3), 0)
    // the sum of the squares' roots of [[a, b], [c, d]] is the root of |M|^2 + 2 |det M|
    const [a, b, c, d] = [1, -2, 0.5, 3]
    const closed = Math.sqrt(a * a + b * b + c * c + d * d + 2 * Math.abs(a * d - b * c))
    assert.ok(Math.abs(nuclearNorm(Float64Array.of(a, b, c, d), 2, 2) - closed) < 1e-14)
  })
})

describe('Frechet distance', () => {
  const gaussian = (mean: ArrayLike<number>, covariance: Float64Array): Moments => ({
    mean: Float64Array.from(mean),
    covariance,
  })
  const random = new Random(11)

  it('of independent features: differences of means and of deviations', () => {
    const [s, t] = [
      [1, 2, 0, 4],
      [3, 2, 5, 0],
    ]
    const diagonal = (of: number[]) => Float64Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? of[i / 5] ** 2 : 0))
    near(frechet(gaussian([0, 1, 2, 3], diagonal(s)), gaussian([1, 1, 1, 1], diagonal(t))), 1 + 1 + 4 + 4 + 25 + 16)
  })

  it('of two dimensions: the root of trace and determinant', () => {
    const [A, B] = [covariance(random, 2), covariance(random, 2)]
    const AB = times(A, B, 2)
    const root = Math.sqrt(trace(AB, 2) + 2 * Math.sqrt(AB[0] * AB[3] - AB[1] * AB[2]))
    near(frechet(gaussian([0, 0], A), gaussian([3, 4], B)), 25 + trace(A, 2) + trace(B, 2) - 2 * root)
  })

  // y = T x + b of a symmetric positive T is the optimal transport: the distance is |b|^2 + Tr((T - 1) C (T - 1))
  for (const [title, n, rank] of [
    ['of 40 features', 40, 40],
    ['of singular covariances', 40, 9],
    ['of constant features', 8, 0],
  ] as const) {
    it(`${title}, transported by a symmetric matrix that does not commute`, () => {
      const C = covariance(random, n, rank)
      const T = covariance(random, n, n + 5).map((v) => v / n)
      const moved = times(times(T, C, n), T, n)
      const less = T.map((v, i) => v - (i % (n + 1) === 0 ? 1 : 0))
      const b = random.normals(n)
      const expected = trace(times(times(less, C, n), less, n), n) + b.reduce((sum, v) => sum + v * v, 0)
      near(frechet(gaussian(new Float64Array(n), C), gaussian(b, moved)), expected)
    })
  }

  it('of features of fewer images than there are features', () => {
    const [n, d] = [20, 64]
    const X = random.normals(n * d)
    const Y = X.map((v, i) => v * 3 + (i % d) / 64)
    const x = momentsOf(X, d)
    const means = x.mean.reduce((sum, m, i) => sum + (momentsOf(Y, d).mean[i] - m) ** 2, 0)
    near(frechet(x, momentsOf(Y, d)), means + 4 * trace(x.covariance, d))
    near(frechet(x, x), 0)
  })

  it('of Gaussian samples: the closed form, within what so many samples say', () => {
    const d = 3
    const [X, Y] = [random.normals(20000 * d), random.normals(20000 * d, 2, 1)]
    const distance = frechet(momentsOf(X, d), momentsOf(Y, d))
    assert.ok(Math.abs(distance - (d + d)) < 0.2, String(distance))
  })

  it('on its thread: the same, aborted within a moment, and refused for what is no covariance', async () => {
    const [a, b] = [gaussian([1, 2], covariance(random, 2)), gaussian([0, 0], covariance(random, 2))]
    assert.equal(await frechetDistance(a, b), frechet(a, b))
    await assert.rejects(frechetDistance(a, gaussian([0], Float64Array.of(1))), { code: 'invalid-argument' })
    const indefinite = gaussian([0, 0], Float64Array.of(1, 0, 0, -1))
    await assert.rejects(frechetDistance(a, indefinite), { code: 'invalid-argument', message: /semidefinite/ })
    await assert.rejects(frechetDistance(a, gaussian([0, 0], Float64Array.of(1, 0, 0, Number.NaN))), {
      code: 'invalid-argument',
    })
    await assert.rejects(frechetDistance(a, gaussian([0, Number.NaN], b.covariance)), { code: 'not-finite' })
    const stopped = AbortSignal.abort(new Error('enough'))
    await assert.rejects(frechetDistance(a, b, { signal: stopped }), { code: 'aborted' })
    const large = gaussian(new Float64Array(600), covariance(random, 600))
    const controller = new AbortController()
    setTimeout(() => controller.abort(), 5)
    await assert.rejects(frechetDistance(large, large, { signal: controller.signal }), { code: 'aborted' })
  })
})
