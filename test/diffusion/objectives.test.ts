// What the network may be trained for, beyond ddpm.py's losses.
import assert from 'node:assert/strict'
import { LossSecondMoment } from '../../lib/diffusion/process/timestep-sampler'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { normal, Purpose, SeedSequence } from '../../lib/rng'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { Fixture, randomize } from './fixture'

const unetConfig = {
  imageSize: 4,
  inChannels: 2,
  outChannels: 2,
  modelChannels: 8,
  normGroups: 4,
  channelMult: [1],
  numResBlocks: 1,
  attentionResolutions: [],
}
const shape = [3, 2, 4, 4]
const x = Tensor.randn(shape, { seed: 1 })
const noise = Tensor.randn(shape, { seed: 2 })

function network(options: Partial<DDPMOptions> = {}): Promise<DDPM> {
  return randomize(new DDPM({ unetConfig, device: testDevice, useEma: false, ...options }))
}

describe('v-prediction', () => {
  it("a network that predicts diffusers' get_velocity has no loss", async () => {
    const fixture = await Fixture.load('scheduler_ddpm')
    const schedules = { linear: 'sqrt_linear', scaled_linear: 'linear', squaredcos_cap_v2: 'cosine' } as const
    for (const [name, betaSchedule] of Object.entries(schedules)) {
      const velocity = fixture.tensor(`out/ops/${name}/velocity`)
      using ddpm = new DDPM({ model: () => velocity, parameterization: 'v', betaSchedule, device: testDevice })
      const t = fixture.integers('in/ops/t')
      const { loss } = await ddpm.pLosses(fixture.tensor('in/ops/x_start'), t, fixture.tensor('in/ops/noise'))
      assert.ok(loss < 1e-9, `${name}: ${loss}`)
    }
  })

  it('the loss of every parameterization is that of its x_0, weighted by the signal-to-noise ratio', async () => {
    for (const parameterization of ['eps', 'x0', 'v'] as const) {
      using ddpm = await network({ parameterization, clipDenoised: false, betaSchedule: 'cosine', timesteps: 4 })
      const bar = ddpm.alphasCumprod[0]
      // At t = 0 the posterior's mean is the prediction of x_0.
      const { modelMean } = await ddpm.pMeanVariance(await ddpm.qSample(x, 0, noise), 0)
      const [found, truth] = [await modelMean.data(), await x.data()]
      const squared = found.reduce((sum, v, i) => sum + (v - truth[i]) ** 2, 0) / found.length
      const weight = { eps: bar / (1 - bar), x0: 1, v: 1 / (1 - bar) }[parameterization]
      const { loss } = await ddpm.pLosses(x, 0, noise)
      assertClose([loss], [weight * squared], { rel: 1e-3, abs: 0 }, parameterization)
    }
  })
})

describe('min-SNR weights', () => {
  it('are min(SNR, gamma) in terms of x_0, on the loss and its gradients', async () => {
    const gamma = 5
    for (const parameterization of ['eps', 'x0', 'v'] as const) {
      using plain = await network({ parameterization })
      using weighted = await network({ parameterization, minSnrGamma: gamma })
      for (const t of [5, 300, 900]) {
        const snr = plain.alphasCumprod[t] / (1 - plain.alphasCumprod[t])
        const ofEps = { eps: snr, x0: 1, v: snr + 1 }[parameterization]
        const [a, b] = [await plain.lossAndGradients(x, t, noise), await weighted.lossAndGradients(x, t, noise)]
        const weight = Math.min(snr, gamma) / ofEps
        assertClose([b.loss], [weight * a.loss], { rel: 1e-5, abs: 0 }, `${parameterization} ${t}`)
        assert.equal(b.lossDict['train/loss_simple'], a.lossDict['train/loss_simple'])
        const name = 'out.2.weight'
        const expected = (await a.gradients[name].data()).map((v) => v * weight)
        assertCloseToScale(await b.gradients[name].data(), expected, 1e-5, `${parameterization} ${t} ${name}`)
      }
    }
  })
})

describe('offset noise', () => {
  const offset = 0.3
  const expectedNoise = (seed: number, n: number, step: number): Float32Array => {
    const parts = Array.from({ length: n }, (_, i) => {
      const numbers = normal(seed, Purpose.training, i, step, 32 + 2)
      return [...numbers.slice(0, 32)].map((v, e) => v + offset * numbers[32 + Math.floor(e / 16)])
    })
    return Float32Array.from(parts.flat())
  }

  it('adds one number to a channel', async () => {
    const states: Float32Array[] = []
    using ddpm = new DDPM({
      device: testDevice,
      offsetNoise: offset,
      seed: 7,
      model: async (state) => {
        states.push(await state.data())
        return Tensor.from(new Float32Array(state.size), state.shape)
      },
    })
    await ddpm.pLosses(Tensor.from(new Float32Array(96), shape), 500)
    const factor = ddpm.sqrtOneMinusAlphasCumprod[500]
    const drawn = expectedNoise(new SeedSequence(7).next(), 3, 0)
    assertCloseToScale(
      states[0],
      drawn.map((v) => factor * v),
      1e-6,
      'x_t',
    )
  })

  it('in training alone', async () => {
    using ddpm = await network({ offsetNoise: offset, seed: 4 })
    ddpm.configureOptimizers({ lr: 0 })
    const { loss } = await ddpm.trainBatch(x, { t: 600, step: 9 })
    const given = await ddpm.pLosses(x, 600, Tensor.from(expectedNoise(4, 3, 9), shape))
    assertClose([loss], [given.loss], { rel: 1e-5, abs: 0 }, 'loss')
    using fresh = await network({ offsetNoise: offset, seed: 4 })
    using plain = await network({ seed: 4 })
    assert.equal((await fresh.eval().pLosses(x, 3)).loss, (await plain.eval().pLosses(x, 3)).loss)
  })
})

describe('zero terminal SNR', () => {
  it("is diffusers' rescale_zero_terminal_snr", async () => {
    const fixture = await Fixture.load('scheduler_ddpm')
    using ddpm = new DDPM({
      model: (v) => v,
      parameterization: 'v',
      zeroTerminalSnr: true,
      linearEnd: 0.02,
      device: testDevice,
    })
    const golden = (name: string) => fixture.numbers(`out/ops/scaled_linear_zero_snr/${name}`)
    assertClose(ddpm.alphasCumprod, golden('alphas_cumprod'), { rel: 1e-4, abs: 1e-6 }, 'alphas_cumprod')
    assertClose(ddpm.betas, golden('betas'), { rel: 1e-4, abs: 1e-6 }, 'betas')
    assert.equal(ddpm.alphasCumprod[999], 0)
  })

  it('can be sampled from and trained with v and x0, not with eps', async () => {
    for (const parameterization of ['v', 'x0'] as const) {
      using ddpm = await network({ parameterization, zeroTerminalSnr: true, timesteps: 20 })
      for (const options of [{}, { sampler: 'ddim', steps: 5, timestepSpacing: 'trailing' }] as const) {
        await ddpm.sample({ batchSize: 1, ...options })
      }
      assert.ok(Number.isFinite((await ddpm.pLosses(x, 19, noise)).loss))
    }
    const make = () => new DDPM({ unetConfig, zeroTerminalSnr: true, device: testDevice })
    assert.throws(make, { code: 'invalid-argument', argument: 'zeroTerminalSnr' })
  })
})

describe('timesteps by their losses', () => {
  const filled = (numTimesteps: number, lossOf: (t: number) => number) => {
    const sampler = new LossSecondMoment(numTimesteps)
    for (let i = 0; i < 25; i++) {
      for (let t = 0; t < numTimesteps; t++) sampler.update(Int32Array.of(t), Float32Array.of(i < 15 ? 100 : lossOf(t)))
    }
    return sampler
  }

  it('are drawn evenly until there are ten of each', () => {
    const sampler = new LossSecondMoment(4)
    for (let i = 0; i < 10; i++) sampler.update(Int32Array.of(0, 1, 2), Float32Array.of(1, 2, 3))
    assert.deepEqual([...sampler.probabilities()], [0.25, 0.25, 0.25, 0.25])
  })

  it('in proportion to the last ten, the others forgotten; the weights make up for it', () => {
    const sampler = filled(4, (t) => t + 1)
    const expected = [1, 2, 3, 4].map((v) => (0.999 * v) / 10 + 0.001 / 4)
    assertClose(sampler.probabilities(), expected, { rel: 1e-6, abs: 0 }, 'probabilities')
    const n = 20000
    const { t, weights } = sampler.draw(3, 1, { batchSize: n, sampleOffset: 0 })
    for (const k of [0, 1, 2, 3]) {
      const share = t.filter((v) => v === k).length / n
      const error = 4 * Math.sqrt((expected[k] * (1 - expected[k])) / n)
      assertClose([share], [expected[k]], { abs: error, rel: 0 }, `share of ${k}`)
      assertClose([weights![t.indexOf(k)]], [1 / (4 * expected[k])], { rel: 1e-6, abs: 0 }, `weight of ${k}`)
    }
  })

  it('weigh losses and gradients, and a resumed training draws the same ones', async () => {
    const options = { timesteps: 2, timestepSampler: 'loss-second-moment', seed: 1 } as const
    const train = async (ddpm: DDPM, from: number, to: number) => {
      const losses: number[] = []
      for (let step = from; step < to; step++) losses.push((await ddpm.trainBatch(x, { step })).loss)
      return Float32Array.from(losses)
    }
    using whole = await network(options)
    whole.configureOptimizers({ lr: 1e-3 })
    await train(whole, 0, 12)
    const state = await whole.trainingState()
    assert.ok((await state.timestepLosses!.data())[0] >= 10)
    const expected = await train(whole, 12, 16)
    using resumed = await network(options)
    resumed.configureOptimizers({ lr: 1e-3 })
    await resumed.loadTrainingState(state)
    assertSameBits(await train(resumed, 12, 16), expected, 'losses')
    using uniform = await network({ timesteps: 2, seed: 1 })
    uniform.configureOptimizers({ lr: 1e-3 })
    await uniform.loadTrainingState(state)
    assert.notDeepEqual(await train(uniform, 12, 16), expected)
    await assert.rejects(resumed.loadTrainingState(await uniform.trainingState()), { code: 'state-mismatch' })
  })
})
