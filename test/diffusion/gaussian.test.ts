// Where everything is Gaussian, the best denoiser and the outcome of sampling have closed forms.
import assert from 'node:assert/strict'
import { DDPM, Tensor } from '../../lib/index'
import { normal, Purpose } from '../../lib/rng'
import { testDevice } from '../support/devices'

const samples = 4096
const means = [0.6, -0.3, 0, 0.9]
const deviations = [0.2, 0.5, 1, 0.05]

interface Moments {
  mean: number
  variance: number
}

function momentsOf(values: ArrayLike<number>): Moments {
  const list = Array.from(values)
  const mean = list.reduce((a, b) => a + b, 0) / list.length
  return { mean, variance: list.reduce((a, b) => a + (b - mean) ** 2, 0) / (list.length - 1) }
}

/** Within 4 standard errors of `count` normal numbers: of the mean sigma/sqrt(n), of the variance sigma^2 sqrt(2/(n-1)). */
function assertMoments(actual: Moments, expected: Moments, count: number, what: string): void {
  const meanError = Math.sqrt(expected.variance / count)
  const varianceError = expected.variance * Math.sqrt(2 / (count - 1))
  assert.ok(Math.abs(actual.mean - expected.mean) < 4 * meanError, `${what}: mean ${actual.mean}, not ${expected.mean}`)
  const off = Math.abs(actual.variance - expected.variance)
  assert.ok(off < 4 * varianceError, `${what}: variance ${actual.variance}, not ${expected.variance}`)
}

/** E[eps | x_t] for x_0 ~ N(mean, deviation^2) is slope * (x_t - sqrt(bar) * mean). */
function slopeOf(bar: number, deviation: number): number {
  return Math.sqrt(1 - bar) / (bar * deviation ** 2 + 1 - bar)
}

/** The chain is linear in x, so mean and variance go from step to step by Ho et al. 2020, algorithm 2. */
function theory(ddpm: DDPM, mean: number, deviation: number): Moments {
  const state = { mean: 0, variance: 1 }
  for (let t = ddpm.numTimesteps - 1; t >= 0; t--) {
    const bar = ddpm.alphasCumprod[t]
    const slope = slopeOf(bar, deviation)
    const alpha = 1 - ddpm.betas[t]
    const k = ddpm.betas[t] / Math.sqrt(1 - bar)
    const factor = (1 - k * slope) / Math.sqrt(alpha)
    state.mean = factor * state.mean + (k * slope * Math.sqrt(bar) * mean) / Math.sqrt(alpha)
    state.variance = factor ** 2 * state.variance + (t === 0 ? 0 : ddpm.posteriorVariance[t])
  }
  return state
}

describe('Gaussian data with the exact denoiser', () => {
  it(`the moments of ${samples} ancestral samples are within 4 standard errors of the theory`, async () => {
    using ddpm = new DDPM({
      timesteps: 200,
      linearStart: 1e-3,
      linearEnd: 0.1,
      clipDenoised: false,
      imageSize: 2,
      channels: 1,
      device: testDevice,
      model: async (x, t) => {
        const [state, [i]] = [await x.data(), await t.data()]
        const bar = ddpm.alphasCumprod[i]
        const noise = state.map((v, e) => slopeOf(bar, deviations[e % 4]) * (v - Math.sqrt(bar) * means[e % 4]))
        return Tensor.from(noise, x.shape)
      },
    })
    const drawn = await (await ddpm.sample({ batchSize: samples, seed: 2024 })).data()
    for (let pixel = 0; pixel < 4; pixel++) {
      const values = drawn.filter((_, e) => e % 4 === pixel)
      const expected = theory(ddpm, means[pixel], deviations[pixel])
      assertMoments(momentsOf(values), expected, samples, `pixel ${pixel}`)
      assert.ok(Math.abs(expected.mean - means[pixel]) < 0.02, 'the theory itself comes near the data')
    }
  })
})

describe('normal numbers', () => {
  const count = 1 << 18

  it('have the first four moments of a normal distribution', () => {
    const values = normal(7, Purpose.user, 0, 0, count)
    assertMoments(momentsOf(values), { mean: 0, variance: 1 }, count, 'noise')
    const moment = (k: number) => values.reduce((sum, v) => sum + v ** k, 0) / count
    assert.ok(Math.abs(moment(3)) < 4 * Math.sqrt(15 / count), `third moment ${moment(3)}`)
    assert.ok(Math.abs(moment(4) - 3) < 4 * Math.sqrt(96 / count), `fourth moment ${moment(4)}`)
  })

  it('are independent of their neighbours and of other streams', () => {
    const base = normal(7, Purpose.posterior, 0, 0, count)
    const others: Record<string, Float32Array> = {
      'the next element': normal(7, Purpose.posterior, 0, 0, count + 1).subarray(1),
      'the element after the next': normal(7, Purpose.posterior, 0, 0, count + 2).subarray(2),
      'the next sample': normal(7, Purpose.posterior, 1, 0, count),
      'the next step': normal(7, Purpose.posterior, 0, 1, count),
      'another purpose': normal(7, Purpose.training, 0, 0, count),
      'the next seed': normal(8, Purpose.posterior, 0, 0, count),
      'a seed that differs in its high half': normal(7n + (1n << 32n), Purpose.posterior, 0, 0, count),
    }
    for (const [name, other] of Object.entries(others)) {
      let product = 0
      let squares = 0
      for (let i = 0; i < count; i++) {
        product += base[i] * other[i]
        squares += (base[i] ** 2 - 1) * (other[i] ** 2 - 1)
      }
      assert.ok(Math.abs(product / count) < 4 / Math.sqrt(count), `${name}: correlation ${product / count}`)
      assert.ok(Math.abs(squares / count) < 8 / Math.sqrt(count), `${name}: of squares ${squares / count}`)
    }
  })
})
