import assert from 'node:assert/strict'
import { DDPM, Tensor } from '../../lib/index'
import { assertClose } from '../support/compare'
import { testDevice } from '../support/devices'
import { Random } from '../support/random'
import { camelCase, Fixture, goldenModel } from './fixture'

describe('p_losses', () => {
  it('every case: total, keys and values', async () => {
    const fixture = await Fixture.load('p_losses')
    const rel = fixture.tolerance.suggest.rtol
    for (const c of fixture.config.cases) {
      const { id, training, keys, ...options } = camelCase(c)
      using ddpm = await goldenModel(fixture, options)
      ddpm.train(training)
      const [xStart, noise] = [fixture.tensor('in/x_start'), fixture.tensor('in/noise')]
      const { loss, lossDict } = await ddpm.pLosses(xStart, fixture.integers('in/t'), noise)
      assert.deepEqual(Object.keys(lossDict), keys)
      assertClose([loss], fixture.numbers(`out/${id}/total`), { rel, abs: 0 }, `${id} total`)
      for (const key of keys) {
        assertClose([lossDict[key]], fixture.numbers(`out/${id}/${key}`), { rel, abs: 0 }, `${id} ${key}`)
      }
    }
  })

  it('a function as denoiser has the same loss', async () => {
    const random = new Random(3)
    const tensor = () => Tensor.from(random.normals(3 * 8), [3, 2, 2, 2])
    const [x, noise, out] = [tensor(), tensor(), tensor()]
    for (const parameterization of ['eps', 'x0'] as const) {
      using ddpm = new DDPM({ model: () => out, parameterization, device: testDevice })
      const { lossDict } = await ddpm.pLosses(x, [0, 10, 999], noise)
      const target = await (parameterization === 'eps' ? noise : x).data()
      const squares = (await out.data()).map((v, i) => (v - target[i]) ** 2)
      const mean = squares.reduce((a, b) => a + b, 0) / squares.length
      assertClose([lossDict['train/loss_simple']], [mean], { rel: 1e-5, abs: 0 }, parameterization)
    }
  })
})

describe('get_loss', () => {
  it('l1, l2 and huber, with and without the mean', async () => {
    const [pred, target] = [Tensor.from([1, -2, 3, 0.5], [2, 2]), Tensor.from([0, 2, 3, 1], [2, 2])]
    const expected = { l1: [1, 4, 0, 0.5], l2: [1, 16, 0, 0.25], huber: [0.5, 3.5, 0, 0.125] }
    for (const lossType of ['l1', 'l2', 'huber'] as const) {
      using ddpm = new DDPM({ model: (x) => x, lossType, device: testDevice })
      const each = await ddpm.getLoss(pred, target, false)
      const mean = await ddpm.getLoss(pred, target)
      assert.deepEqual([...(await each.data())], expected[lossType])
      assert.deepEqual(mean.shape, [])
      const average = expected[lossType].reduce((a, b) => a + b) / 4
      assertClose(await mean.data(), [average], { rel: 1e-6, abs: 0 }, lossType)
    }
  })

  it('smooth_l1 and pseudo_huber by lossDelta, which l1 and l2 have not got', async () => {
    const [pred, target] = [Tensor.from([0.05, -2], [1, 2]), Tensor.from([0, 0], [1, 2])]
    const expected = {
      smooth_l1: [0.0125, 1.95],
      pseudo_huber: [0.2 * (Math.sqrt(0.0125) - 0.1), 0.2 * (Math.sqrt(4.01) - 0.1)],
    }
    for (const lossType of ['smooth_l1', 'pseudo_huber'] as const) {
      using ddpm = new DDPM({ model: (x) => x, lossType, lossDelta: 0.1, device: testDevice })
      const each = await ddpm.getLoss(pred, target, false)
      assertClose(await each.data(), expected[lossType], { rel: 1e-5, abs: 0 }, lossType)
    }
    assert.throws(() => new DDPM({ model: (x) => x, lossDelta: 0.1 }), {
      code: 'invalid-argument',
      argument: 'lossDelta',
    })
  })
})
