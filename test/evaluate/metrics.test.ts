// KID, precision and recall and the Inception score: small examples by hand, and against the obvious loops.
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { InceptionScore } from '../../lib/evaluate/inception-score'
import { kernelDistance } from '../../lib/evaluate/kid'
import { precisionRecall } from '../../lib/evaluate/precision-recall'
import { type FeatureRows, Products } from '../../lib/evaluate/products'
import { testedBackends } from '../support/devices'
import { Random } from '../support/random'

const rowsOf = (values: ArrayLike<number>, d: number): FeatureRows => ({
  values: Float32Array.from(values),
  count: values.length / d,
})

for (const device of testedBackends) {
  describe(`sets of features on ${device}`, () => {
    const open: Products[] = []
    const products = (d: number) => {
      open.push(new Products(Device.open(device), d))
      return open[open.length - 1]
    }
    after(() => {
      for (const p of open) p.release()
    })

    it('all products, also beyond one piece', async () => {
      const d = 3
      const [X, Y] = [new Random(1).normals(300 * d), new Random(2).normals(4200 * d)]
      let [seen, worst] = [0, 0]
      await products(d).forEach(rowsOf(X, d), rowsOf(Y, d), (x0, y0, { values, rows, columns }) => {
        seen += rows * columns
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < columns; j++) {
            let dot = 0
            for (let k = 0; k < d; k++) dot += X[(x0 + i) * d + k] * Y[(y0 + j) * d + k]
            worst = Math.max(worst, Math.abs(dot - values[i * columns + j]))
          }
        }
      })
      assert.equal(seen, 300 * 4200)
      assert.ok(worst < 1e-5, String(worst))
    })

    it('KID by hand', async () => {
      // d = 1, k(x, y) = (xy + 1)^3: x = 0, 1 and y = 1, 2. k(0, 1) = 1, k(1, 2) = 27; across 1 + 1 + 8 + 27
      const o = { subsets: 4, subsetSize: 9, seed: 0 }
      const { mean, std } = await kernelDistance(products(1), rowsOf([0, 1], 1), rowsOf([1, 2], 1), o)
      assert.ok(Math.abs(mean - (1 + 27 - (2 * 37) / 4)) < 1e-4, String(mean))
      assert.ok(std < 1e-4)
    })

    it('KID of subsets: unbiased, the same by its seed, and far for another distribution', async () => {
      const d = 4
      const random = new Random(9)
      const [X, Y, Z] = [random.normals(400 * d), random.normals(400 * d), random.normals(400 * d, 1, 0.5)]
      const o = { subsets: 20, subsetSize: 100, seed: 1 }
      const p = products(d)
      const same = await kernelDistance(p, rowsOf(X, d), rowsOf(Y, d), o)
      const other = await kernelDistance(p, rowsOf(X, d), rowsOf(Z, d), o)
      assert.ok(Math.abs(same.mean) < 0.15 && other.mean > 0.5, `${same.mean} ${other.mean}`)
      assert.deepEqual(await kernelDistance(p, rowsOf(X, d), rowsOf(Y, d), o), same)
      assert.notEqual((await kernelDistance(p, rowsOf(X, d), rowsOf(Y, d), { ...o, seed: 2 })).mean, same.mean)
    })

    it('precision and recall by hand', async () => {
      // k = 1, on a line. Reference 0, 1, 10: radii 1, 1, 9. Samples 1.5, 3, 30: radii 1.5, 1.5, 27.
      // 1.5 and 3 lie within 9 of 10 (or 1 of 1), 30 within nothing; 1 (and 0, at the edge) within 1.5 of 1.5, 10 within 27 of 30
      const found = await precisionRecall(products(1), rowsOf([1.5, 3, 30], 1), rowsOf([0, 1, 10], 1), {
        neighbours: 1,
      })
      assert.deepEqual(found, { precision: 2 / 3, recall: 1 })
      const apart = await precisionRecall(products(1), rowsOf([50, 51], 1), rowsOf([0, 1, 60], 1), { neighbours: 1 })
      assert.deepEqual(apart, { precision: 1, recall: 0 })
    })

    it('precision and recall beside the obvious loops', async () => {
      const d = 5
      const random = new Random(4)
      const [X, Y] = [rowsOf(random.normals(290 * d), d), rowsOf(random.normals(350 * d, 0.8, 0.4), d)]
      const distance = (a: FeatureRows, i: number, b: FeatureRows, j: number) => {
        let sum = 0
        for (let k = 0; k < d; k++) sum += (a.values[i * d + k] - b.values[j * d + k]) ** 2
        return sum
      }
      const all = ({ count }: FeatureRows) => Array.from({ length: count }, (_, i) => i)
      const radii = (a: FeatureRows) =>
        all(a).map(
          (i) =>
            all(a)
              .map((j) => distance(a, i, a, j))
              .sort((s, t) => s - t)[3],
        )
      const share = (a: FeatureRows, b: FeatureRows) => {
        const r = radii(b)
        return all(a).filter((i) => all(b).some((j) => distance(a, i, b, j) <= r[j])).length / a.count
      }
      const found = await precisionRecall(products(d), X, Y, { neighbours: 3 })
      assert.deepEqual(found, { precision: share(X, Y), recall: share(Y, X) })
    })

    it('too few images are refused', async () => {
      const p = products(1)
      const [one, three] = [rowsOf([1], 1), rowsOf([1, 2, 3], 1)]
      const refused = { code: 'invalid-argument', argument: 'samples' }
      await assert.rejects(kernelDistance(p, one, three, { subsets: 1, subsetSize: 5, seed: 0 }), refused)
      await assert.rejects(precisionRecall(p, three, three, { neighbours: 3 }), refused)
    })
  })
}

describe('Inception score', () => {
  const scoreOf = (logits: number[], classes: number, splits = 1) => {
    const score = new InceptionScore(logits.length / classes, splits)
    for (let from = 0; from < logits.length; from += 3 * classes)
      score.add(logits.slice(from, from + 3 * classes), classes)
    return score.result()
  }

  it('is 1 where all images are alike, and the number of classes where each is sure of another', () => {
    assert.ok(Math.abs(scoreOf([1, 2, 3, 1, 2, 3], 3).mean - 1) < 1e-12)
    const sure = Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1000 : 0)) // the identity, 8 x 8
    assert.ok(Math.abs(scoreOf(sure, 8).mean - 8) < 1e-12)
  })

  it('by hand', () => {
    // p = (3/4, 1/4) and (1/4, 3/4) of p(y) = (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2 for both
    const logits = [Math.log(3), 0, 0, Math.log(3)]
    const expected = Math.exp(0.75 * Math.log(1.5) + 0.25 * Math.log(0.5))
    assert.ok(Math.abs(scoreOf(logits, 2).mean - expected) < 1e-12)
    // in two parts of one image each, each is all that there is
    assert.deepEqual(scoreOf(logits, 2, 2), { mean: 1, std: 0 })
    const { mean, std } = scoreOf([...logits, ...logits, 0, 0, 0, 0, 0, 0, 0, 0], 2, 2)
    assert.ok(Math.abs(mean - (expected + 1) / 2) < 1e-12 && Math.abs(std - (expected - 1) / 2) < 1e-12)
  })

  it('refuses fewer images than parts, and than it was told', () => {
    assert.throws(() => new InceptionScore(9, 10), { code: 'invalid-argument' })
    const score = new InceptionScore(4, 2)
    score.add([1, 2, 3, 4], 2)
    assert.throws(() => score.result(), { code: 'invalid-argument' })
  })
})
