// Learned variances against closed forms, the fixed variances that they interpolate, and finite differences.
import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Tensor, type UNet } from '../../lib/index'
import { assertClose, assertCloseToScale } from '../support/compare'
import { testDevice } from '../support/devices'
import { Random } from '../support/random'
import { runGraph } from '../support/run-graph'
import { randomize } from './fixture'

const T = 20
const schedule = { timesteps: T, linearStart: 0.01, linearEnd: 0.3 }
const shape = [3, 2, 4, 4]
const d = 32

const numbers = (seed: number, scale = 1) => new Random(seed).normals(shape[0] * d, scale)
const tensor = (values: Float32Array) => Tensor.from(values, shape)

/** Predicts `eps` and `v`, whatever it is given. */
const constant = (eps: Float32Array, v: Float32Array | number, options: Partial<DDPMOptions> = {}) =>
  new DDPM({
    ...schedule,
    model: (x) => stacked(x.shape[0], eps, v),
    clipDenoised: false,
    device: testDevice,
    ...options,
  })

/** [n, 2c, h, w]: the one on the first half of the channels, the other on the second. */
function stacked(n: number, first: Float32Array, second: Float32Array | number): Tensor {
  const out = new Float32Array(2 * n * d)
  for (let i = 0; i < n; i++) {
    out.set(first.subarray(i * d, (i + 1) * d), 2 * i * d)
    const half = out.subarray((2 * i + 1) * d, (2 * i + 2) * d)
    if (typeof second === 'number') half.fill(second)
    else half.set(second.subarray(i * d, (i + 1) * d))
  }
  return Tensor.from(out, [n, 2 * shape[1], ...shape.slice(2)])
}

/** log of beta_tilde, the next one's at t = 0, and of beta. */
function logVariances(ddpm: DDPM, t: number): [number, number] {
  const at = Math.max(t, 1)
  const tilde = (ddpm.betas[at] * (1 - ddpm.alphasCumprodPrev[at])) / (1 - ddpm.alphasCumprod[at])
  return [Math.log(tilde), Math.log(ddpm.betas[t])]
}

/** improved-diffusion's _vb_terms_bpd, in float64. */
function boundTerm(o: {
  x0: number
  mean: number
  trueMean: number
  trueLogVar: number
  logVar: number
  t: number
}): number {
  const { x0, mean, trueMean, trueLogVar, logVar } = o
  if (o.t > 0) {
    const kl = -1 + logVar - trueLogVar + Math.exp(trueLogVar - logVar) + (trueMean - mean) ** 2 * Math.exp(-logVar)
    return (0.5 * kl) / Math.LN2
  }
  const cdf = (u: number) => 0.5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3)))
  const scale = Math.exp(-0.5 * logVar)
  const [above, below] = [1, -1].map((side) => cdf(scale * (x0 - mean + side / 255)))
  const p = x0 < -0.999 ? above : x0 > 0.999 ? 1 - below : above - below
  return -Math.log(Math.max(p, 1e-12)) / Math.LN2
}

describe('learned variances', () => {
  const x = tensor(numbers(1))
  const eps = numbers(2)
  const t = [0, 7, T - 1]

  it('of a range lie between beta_tilde and beta; others are the output itself', async () => {
    const v = numbers(3, 0.7)
    using range = constant(eps, v, { varianceType: 'learned_range' })
    using free = constant(eps, v, { varianceType: 'learned' })
    using fixed = new DDPM({ ...schedule, model: () => tensor(eps), clipDenoised: false, device: testDevice })
    const ranged = await range.pMeanVariance(x, t)
    const expected = v.map((value, i) => {
      const [low, high] = logVariances(range, t[Math.floor(i / d)])
      return low + ((value + 1) / 2) * (high - low)
    })
    assertCloseToScale(await ranged.posteriorLogVariance.data(), expected, 1e-6, 'log variance')
    assertCloseToScale(await ranged.posteriorVariance.data(), expected.map(Math.exp), 1e-5, 'variance')
    const { modelMean } = await fixed.pMeanVariance(x, t)
    assertCloseToScale(await ranged.modelMean.data(), await modelMean.data(), 1e-6, 'mean')
    assertClose(await (await free.pMeanVariance(x, t)).posteriorLogVariance.data(), v, { abs: 0, rel: 0 }, 'learned')
  })

  it('a step adds noise of that variance, and none at t = 0', async () => {
    using ddpm = constant(eps, numbers(3), { varianceType: 'learned_range' })
    const noise = tensor(numbers(4))
    const { modelMean, posteriorLogVariance } = await ddpm.pMeanVariance(x, t)
    const [mean, logVar, z] = await Promise.all([modelMean.data(), posteriorLogVariance.data(), noise.data()])
    const expected = mean.map((m, i) => m + (t[Math.floor(i / d)] === 0 ? 0 : Math.exp(0.5 * logVar[i]) * z[i]))
    assertCloseToScale(await (await ddpm.pSample(x, t, { noise })).data(), expected, 1e-6, 'step')
    const drawn = await (await ddpm.pSample(x, t, { seed: 5 })).data()
    assert.deepEqual(drawn.slice(0, d), (await (await ddpm.pSample(x, t, { seed: 6 })).data()).slice(0, d))
    assert.notDeepEqual(drawn, await (await ddpm.pSample(x, t, { seed: 6 })).data())
  })

  for (const [v, vPosterior] of [
    [-1, 0],
    [1, 1],
  ]) {
    it(`v = ${v} is the fixed variance of vPosterior ${vPosterior}: samples of all steps and of 6, bits/dim`, async () => {
      using learned = constant(eps, v, { varianceType: 'learned_range' })
      using fixed = new DDPM({
        ...schedule,
        model: () => tensor(eps),
        vPosterior,
        clipDenoised: false,
        device: testDevice,
      })
      for (const options of [{}, { steps: 6 }, { steps: 6, timestepSpacing: 'trailing' as const }, { steps: 1 }]) {
        const draw = async (ddpm: DDPM) => (await ddpm.pSampleLoop(shape, { seed: 3, ...options })).data()
        assertCloseToScale(await draw(learned), await draw(fixed), 1e-5, JSON.stringify(options))
      }
      const pixels = tensor(pixelValues())
      const noise = () => tensor(numbers(9))
      const bits = async (ddpm: DDPM) => (await ddpm.calcBpd(pixels, { noise })).vb.data()
      const [actual, expected] = [await bits(learned), await bits(fixed)]
      // At t = 0 improved-diffusion's fixed_large has beta_tilde's variance, too.
      for (let i = 0; i < actual.length; i++) if (v === 1 && i % T === 0) expected[i] = actual[i]
      assertCloseToScale(actual, expected, 1e-5, 'bits/dim')
    })
  }

  it('bits/dim and the loss have the terms of improved-diffusion', async () => {
    const [v, noise] = [numbers(3, 0.7), numbers(9)]
    using ddpm = constant(eps, v, { varianceType: 'learned_range', parameterization: 'eps' })
    const truth = pixelValues()
    const term = (step: number, i: number) => {
      const bar = ddpm.alphasCumprod[step]
      const state = Math.sqrt(bar) * truth[i] + Math.sqrt(1 - bar) * noise[i]
      const x0 = (state - Math.sqrt(1 - bar) * eps[i]) / Math.sqrt(bar)
      const [c1, c2] = [ddpm.posteriorMeanCoef1[step], ddpm.posteriorMeanCoef2[step]]
      const [low, high] = logVariances(ddpm, step)
      return boundTerm({
        x0: truth[i],
        mean: c1 * x0 + c2 * state,
        trueMean: c1 * truth[i] + c2 * state,
        trueLogVar: low,
        logVar: low + ((v[i] + 1) / 2) * (high - low),
        t: step,
      })
    }
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length
    const ofSample = (step: number, n: number) => mean(Array.from({ length: d }, (_, k) => term(step, n * d + k)))

    const { vb } = await ddpm.calcBpd(tensor(truth), { noise: () => tensor(noise) })
    const expected = Array.from({ length: shape[0] * T }, (_, i) => ofSample(i % T, Math.floor(i / T)))
    assertCloseToScale(await vb.data(), Float32Array.from(expected), 1e-5, 'vb')

    const { loss, lossDict } = await ddpm.pLosses(tensor(truth), t, tensor(noise))
    const simple = mean(Array.from(eps, (e, i) => (e - noise[i]) ** 2))
    const bound = T * mean(t.map((step, n) => ofSample(step, n)))
    assertClose([lossDict['train/loss_simple']], [simple], { abs: 0, rel: 1e-5 }, 'simple')
    assertClose([lossDict['train/loss_vlb']], [bound], { abs: 0, rel: 1e-5 }, 'bound')
    assertClose([loss], [simple + 1e-3 * bound], { abs: 0, rel: 1e-5 }, 'loss')
    using heavier = constant(eps, v, { varianceType: 'learned_range', vlbWeight: 0.5, lSimpleWeight: 2 })
    const other = await heavier.pLosses(tensor(truth), t, tensor(noise))
    assertClose([other.loss], [2 * simple + 0.5 * bound], { abs: 0, rel: 1e-5 }, 'weighted')
  })
})

/** Levels of 1/127.5, the two ends among them. */
function pixelValues(): Float32Array {
  return Float32Array.from(new Random(7).integers(shape[0] * d, 256), (k) =>
    k < 20 ? -1 : k > 235 ? 1 : k / 127.5 - 1,
  )
}

describe('networks that learn their variance', () => {
  const unetConfig = {
    imageSize: 4,
    inChannels: 2,
    outChannels: 4,
    modelChannels: 8,
    normGroups: 4,
    channelMult: [1],
    numResBlocks: 1,
    attentionResolutions: [],
  }
  const tiny = (options: Partial<DDPMOptions> = {}) => {
    const defaults = {
      ...schedule,
      unetConfig,
      varianceType: 'learned_range',
      useEma: false,
      device: testDevice,
    } as const
    return randomize(new DDPM({ ...defaults, ...options }))
  }
  const [x, noise] = [tensor(pixelValues()), tensor(numbers(9))]
  const t = [0, 7, T - 1]

  /** The network's output [n, 2c, h, w] at x_t. */
  async function outputOf(ddpm: DDPM, weights: Float32Array): Promise<Float32Array> {
    const state = await (await ddpm.qSample(x, t, noise)).data()
    const [n, channels, height, width] = shape
    const feeds = {
      x: { dims: [n, 1, 1, d] as const, data: state },
      t: { dims: [n, 1, 1, 1] as const, data: Int32Array.from(t) },
    }
    const build = (
      g: Parameters<Parameters<typeof runGraph>[2]>[0],
      v: Parameters<Parameters<typeof runGraph>[2]>[1],
    ) => {
      const images = g.toNhwc(v.x, { channels, height, width })
      return { out: g.toNchw((ddpm.network as UNet).build({ graph: g, train: false }, images, v.t)) }
    }
    return (await runGraph(testDevice, feeds, build, { banks: { weights } })).out
  }

  it('gradients: the bound trains the variance through every layer, and leaves the mean alone', async () => {
    using ddpm = await tiny({ vlbWeight: 0.1 })
    const table = ddpm.network!.parameters
    const state = await ddpm.trainingState()
    const { flat } = await table.fromStateDict(state.weights)
    const { gradients } = await ddpm.lossAndGradients(x, t, noise)
    const { flat: gradient } = await table.fromStateDict(gradients)
    const frozen = await outputOf(ddpm, flat)

    /** The loss at other weights, the bound with the prediction of the first ones. */
    const lossAt = async (weights: Float32Array) => {
      const out = await outputOf(ddpm, weights)
      const half = (values: Float32Array, which: 0 | 1) =>
        Float32Array.from({ length: shape[0] * d }, (_, i) => values[(2 * Math.floor(i / d) + which) * d + (i % d)])
      const evaluate = async (prediction: Float32Array) => {
        const options = { varianceType: 'learned_range', vlbWeight: 0.1 } as const
        using model = constant(prediction, half(out, 1), options)
        return (await model.pLosses(x, t, noise)).lossDict
      }
      const [own, before] = [await evaluate(half(out, 0)), await evaluate(half(frozen, 0))]
      return own['train/loss_simple'] + 0.1 * before['train/loss_vlb']
    }
    for (const seed of [1, 2, 3]) {
      const direction = new Random(seed).normals(flat.length)
      const h = 2e-4
      const [plus, minus] = [h, -h].map((step) => flat.map((w, i) => w + step * direction[i]))
      const difference = ((await lossAt(plus)) - (await lossAt(minus))) / (2 * h)
      const expected = gradient.reduce((sum, g, i) => sum + g * direction[i], 0)
      const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0))
      assert.ok(Math.abs(difference - expected) < 5e-3 * norm, `${difference} and ${expected} of ${norm}`)
    }

    // The rows of the last convolution that predict the noise have the gradient of the simple loss alone.
    using simple = await tiny({ vlbWeight: 0 })
    const without = (await simple.lossAndGradients(x, t, noise)).gradients['out.2.weight']
    const [both, one] = [await gradients['out.2.weight'].data(), await without.data()]
    const rows = both.length / 2
    assertCloseToScale(both.slice(0, rows), one.slice(0, rows), 1e-6, 'prediction')
    assert.ok(one.slice(rows).every((g) => g === 0) && both.slice(rows).some((g) => g !== 0))
  })

  it('train, sample by every sampler, evaluate, and come back from their state', async () => {
    using ddpm = await tiny({ timestepSampler: 'loss-second-moment', vlbWeight: 1 })
    ddpm.configureOptimizers({ lr: 1e-2 })
    const lossOf = async () => (await ddpm.eval().pLosses(x, t, noise)).lossDict['val/loss_vlb']
    const before = await lossOf()
    for (let step = 0; step < 60; step++) await ddpm.trainBatch(x)
    assert.ok((await lossOf()) < 0.95 * before, `${before} to ${await lossOf()}`)
    for (const o of [{}, { steps: 5 }, { sampler: 'ddim', steps: 5 }, { sampler: 'dpmsolver++', steps: 5 }] as const) {
      const samples = await ddpm.sample({ batchSize: 2, seed: 1, ...o })
      assert.deepEqual(samples.shape, [2, 2, 4, 4])
    }
    using again = await tiny()
    await again.loadStateDict(await ddpm.stateDict())
    const sample = async (model: DDPM) => (await model.sample({ batchSize: 2, seed: 1 })).data()
    assert.deepEqual(await sample(again), await sample(ddpm))
  })

  it('must have twice as many output channels, and no other option for the variance', () => {
    const refused = (options: object, argument: string) =>
      assert.throws(() => new DDPM({ ...schedule, unetConfig, device: testDevice, ...options }), {
        code: 'invalid-argument',
        argument,
      })
    refused({}, 'model')
    refused({ unetConfig: { ...unetConfig, outChannels: 2 }, varianceType: 'learned' }, 'model')
    refused({ varianceType: 'learned', vPosterior: 0.5 }, 'vPosterior')
    refused({ varianceType: 'learned', originalElboWeight: 1 }, 'originalElboWeight')
    refused({ unetConfig: { ...unetConfig, outChannels: 2 }, vlbWeight: 0.1 }, 'vlbWeight')
    refused({ varianceType: 'learned_sigma' }, 'varianceType')
  })
})
