// Two classes, each Gaussian in every pixel: p(y | x_t), its gradient and the outcome of guided sampling have closed forms.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { writeSafetensors } from '../../lib/checkpoint/safetensors'
import { Classifier, type ConditionFunction, DDPM, type DDPMOptions, type SampleOptions, Tensor } from '../../lib/index'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { Random } from '../support/random'
import { randomize } from './fixture'

type Options = Omit<SampleOptions, 'returnIntermediates'>

const process = { timesteps: 100, linearStart: 1e-3, linearEnd: 0.2 }
const [center, deviation, pixels] = [0.5, 0.2, 4]

/** x_0 ~ N(center * (2 y - 1), deviation^2) in each pixel, y 0 or 1. */
function toy(bars: () => Float32Array) {
  const at = (t: number) => {
    const bar = bars()[t]
    return { bar, mean: Math.sqrt(bar) * center, variance: bar * deviation ** 2 + 1 - bar }
  }
  /** p(y = 1 | x_t) of one sample. */
  const posterior = (x: Float32Array, t: number) => {
    const { mean, variance } = at(t)
    return 1 / (1 + Math.exp((-2 * mean * x.reduce((sum, v) => sum + v, 0)) / variance))
  }
  const samplesOf = (x: Float32Array) =>
    Array.from({ length: x.length / pixels }, (_, i) => x.subarray(i * pixels, (i + 1) * pixels))
  return {
    /** E[eps | x_t] = -sqrt(1 - bar) times the score of the mixture. */
    async model(x: Tensor, t: Tensor) {
      const [values, [step]] = [await x.data(), await t.data()]
      const { bar, mean, variance } = at(step)
      const noise = samplesOf(values).flatMap((own) => {
        const p = posterior(own, step)
        return Array.from(own, (v) => (Math.sqrt(1 - bar) * (v - (2 * p - 1) * mean)) / variance)
      })
      return Tensor.from(noise, x.shape)
    },
    /** The gradient of log p(y = 1 | x_t). */
    async condFn(x: Tensor, t: Tensor) {
      const [values, [step]] = [await x.data(), await t.data()]
      const { mean, variance } = at(step)
      const gradient = samplesOf(values).flatMap((own) => {
        const p = posterior(own, step)
        return Array.from(own, () => ((1 - p) * 2 * mean) / variance)
      })
      return Tensor.from(gradient, x.shape)
    },
  }
}

function gaussian(o: DDPMOptions = {}): { ddpm: DDPM; condFn: ConditionFunction } {
  const { model, condFn } = toy(() => ddpm.alphasCumprod)
  const ddpm: DDPM = new DDPM({
    ...{ ...process, clipDenoised: false, imageSize: 2, channels: 1, device: testDevice, model },
    ...o,
  })
  return { ddpm, condFn }
}

function momentsOf(values: Float32Array) {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length
  return { mean, deviation: Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1)) }
}

const encoderConfig = {
  ...{ imageSize: 4, inChannels: 1, modelChannels: 8, outChannels: 2, numResBlocks: 1, channelMult: [1] },
  ...{ attentionResolutions: [], normGroups: 4, numHeadChannels: 4, pool: 'attention' as const },
}
const unetConfig = {
  ...{ imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 8, normGroups: 4, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [] },
}
const network: DDPMOptions = { ...process, useEma: false, device: testDevice, clipDenoised: false, unetConfig }

/** With weights that begin as zero random, too. */
async function randomClassifier(o = {}): Promise<Classifier> {
  const classifier = new Classifier({ encoderConfig, ...process, device: testDevice, deterministic: true, ...o })
  const dict = await classifier.stateDict()
  for (const [i, [name, { shape }]] of Object.entries(dict).entries()) {
    const values = await Tensor.randn(shape, { seed: i }).data()
    dict[name] = Tensor.from(
      values.map((v) => 0.3 * v),
      shape,
    )
  }
  await classifier.loadStateDict(dict)
  return classifier
}

describe('classifier guidance', () => {
  const count = 1024
  // The error of the steps, beside 4 standard errors of the mean.
  const path: Options = { batchSize: count, seed: 7 }
  const paths: Record<string, Options> = {
    'ddpm, which moves means': { sampler: 'ddpm' },
    'ddim, which moves predictions': { sampler: 'ddim', steps: 50 },
    'dpmsolver++': { sampler: 'dpmsolver++', steps: 25 },
  }
  for (const [name, o] of Object.entries(paths)) {
    it(`by the true p(y | x_t) the mixture's samples become those of the class: ${name}`, async () => {
      const { ddpm, condFn } = gaussian()
      const [mixed, guided] = [
        await (await ddpm.sample({ ...path, ...o })).data(),
        await (await ddpm.sample({ ...path, ...o, condFn })).data(),
      ]
      const share = (values: Float32Array) => {
        const sums = Array.from({ length: count }, (_, i) =>
          values.subarray(i * pixels, (i + 1) * pixels).reduce((sum, v) => sum + v, 0),
        )
        return sums.filter((sum) => sum > 0).length / count
      }
      assertClose([share(mixed)], [0.5], { abs: 4 * Math.sqrt(0.25 / count), rel: 0 }, 'of the class without guidance')
      assert.ok(share(guided) > 0.99, `${share(guided)} of the samples are of the class`)
      const { mean, deviation: spread } = momentsOf(guided)
      assertClose([mean], [center], { abs: (4 * deviation) / Math.sqrt(count * pixels) + 0.02, rel: 0 }, 'mean')
      assertClose([spread], [deviation], { abs: 0.04, rel: 0 }, 'deviation')
      ddpm.dispose()
    })
  }

  it('a step of ddpm moves its mean by Sigma times the gradient, with a learned variance by that', async () => {
    const direction = Tensor.from(new Random(3).normals(16), [1, 1, 4, 4])
    const gradient = await direction.data()
    const condFn = () => direction
    for (const varianceType of ['fixed', 'learned', 'learned_range'] as const) {
      const outChannels = varianceType === 'fixed' ? 1 : 2
      using ddpm = await randomize(
        new DDPM({ ...network, varianceType, unetConfig: { ...unetConfig, outChannels }, timesteps: 10 }),
      )
      const states = async (o: Options) => {
        const list: Float32Array[] = []
        const xT = Tensor.randn([1, 1, 4, 4])
        const onStep: Options['onStep'] = async ({ x }) => list.push(await x.data())
        await ddpm.pSampleLoop([1, 1, 4, 4], { ...o, xT, seed: 1, onStep })
        return list
      }
      const [plain, guided] = [await states({}), await states({ condFn })]
      const { posteriorVariance } = await ddpm.pMeanVariance(Tensor.randn([1, 1, 4, 4]), 9)
      const variance = await posteriorVariance.data()
      const expected = plain[0].map((v, i) => v + variance[variance.length === 1 ? 0 : i] * gradient[i])
      assertClose(guided[0], expected, { abs: 1e-5, rel: 1e-4 }, varianceType)
    }
  })

  it('a prediction is moved as its parameterization has it', async () => {
    const direction = Tensor.from(new Random(3).normals(16), [1, 1, 4, 4])
    const gradient = await direction.data()
    for (const parameterization of ['eps', 'x0', 'v'] as const) {
      using ddpm = await randomize(new DDPM({ ...network, parameterization }))
      // One step of DDIM to the end: x_0 by (1 - bar) / sqrt(bar) times the gradient.
      const one: Options = { sampler: 'ddim', steps: 1, timestepSpacing: 'trailing', batchSize: 1, seed: 2 }
      const plain = await (await ddpm.sample(one)).data()
      const found = await (await ddpm.sample({ ...one, condFn: () => direction })).data()
      const bar = ddpm.alphasCumprod[99]
      const expected = plain.map((v, i) => v + ((1 - bar) / Math.sqrt(bar)) * gradient[i])
      assertCloseToScale(found, expected, 1e-5, parameterization)
    }
  })

  it('a classifier guides as its own gradient does as a function, with steps that are asked for together', async () => {
    using ddpm = await randomize(new DDPM({ ...network, deterministic: true }))
    using classifier = await randomClassifier()
    for (const sampler of ['ddpm', 'ddim', 'heun'] as const) {
      const o: Options = { sampler, steps: 6, seed: 3, batchSize: 2, classLabels: [0, 1] }
      const found = await (await ddpm.sample({ ...o, classifier, classifierScale: 3 })).data()
      const condFn: ConditionFunction = async (x, t) => {
        const gradient = await classifier.logProbGradient(x, Int32Array.from(await t.data()), [0, 1])
        return Tensor.from(
          (await gradient.data()).map((v) => 3 * v),
          x.shape,
        )
      }
      const { classLabels: _, ...without } = o
      const expected = await (await ddpm.sample({ ...without, condFn })).data()
      assertCloseToScale(found, expected, 1e-5, sampler)
      const second = await ddpm.sample({
        ...o,
        ...{ classifier, classifierScale: 3, batchSize: 1, sampleOffset: 1, classLabels: 1 },
      })
      assertSameBits(found.slice(16), await second.data(), `${sampler}: the second image alone`)
    }
  })

  it('goes with thresholding, which a prediction has before or after it', async () => {
    using classifier = await randomClassifier()
    using ddpm = await randomize(new DDPM({ ...network, thresholding: { ratio: 0.95, max: 3 } }))
    for (const sampler of ['ddpm', 'ddim'] as const) {
      const o: Options = { sampler, steps: 4, seed: 3, batchSize: 2, classLabels: [0, 1] }
      const drawn = await (await ddpm.sample({ ...o, classifier, classifierScale: 5 })).data()
      assert.ok(drawn.every(Number.isFinite))
    }
  })

  it('refuses what does not fit', async () => {
    using ddpm = new DDPM(network)
    using classifier = await randomClassifier()
    using other = await randomClassifier({ timesteps: 50 })
    const o: Options = { batchSize: 2, sampler: 'ddim', steps: 2 }
    const rejected = (promise: Promise<unknown>, argument: string) =>
      assert.rejects(promise, { code: 'invalid-argument', argument })
    await rejected(ddpm.sample({ ...o, classifier }), 'classLabels')
    await rejected(ddpm.sample({ ...o, classifier, classLabels: 2 }), 'classLabels')
    await rejected(ddpm.sample({ ...o, classifier: other, classLabels: 1 }), 'classifier')
    await rejected(ddpm.sample({ ...o, classifier, classLabels: 1, condFn: (x) => x }), 'condFn')
    await rejected(ddpm.sample({ ...o, condFn: () => Tensor.randn([1, 1, 4, 4]) }), 'condFn')
    const thrown = ddpm.sample({ ...o, condFn: () => assert.fail('no') })
    await assert.rejects(thrown, { code: 'denoiser-failed', argument: 'condFn' })
    const infinite = ddpm.sample({
      ...o,
      condFn: (x) => Tensor.from(new Float32Array(x.size).fill(Number.NaN), x.shape),
    })
    await assert.rejects(infinite, { code: 'not-finite', argument: 'condFn' })
  })
})

describe('Classifier', () => {
  const images = (seed: number, n: number) => {
    const random = new Random(seed)
    const y = Int32Array.from({ length: n }, (_, i) => i % 2)
    const x = Float32Array.from({ length: n * 16 }, (_, i) => center * (2 * y[Math.floor(i / 16)] - 1))
    const noise = random.normals(n * 16)
    return {
      x: Tensor.from(
        x.map((v, i) => v + deviation * noise[i]),
        [n, 1, 4, 4],
      ),
      y,
    }
  }

  it('learns p(y | x_t): nearly the best possible cross entropy, and samples of a class', async () => {
    using classifier = new Classifier({ encoderConfig, ...process, device: testDevice })
    classifier.configureOptimizers({ lr: 6e-3 })
    for (let step = 0; step < 60; step++) {
      const { x, y } = images(step, 16)
      await classifier.trainBatch(x, y)
    }
    assert.equal(classifier.globalStep, 60)
    const { x, y } = images(999, 128)
    // At t = 60 the classes overlap: the best is E[log(1 + e^-z)], z the log odds of 16 pixels, by quadrature.
    const bar = classifier.schedule.alphasCumprod[60]
    const variance = bar * deviation ** 2 + 1 - bar
    const odds = (2 * bar * center ** 2 * 16) / variance
    let best = 0
    for (let k = -400; k <= 400; k++) {
      const [u, z] = [k / 50, odds + Math.sqrt(2 * odds) * (k / 50)]
      best += (Math.exp(-(u ** 2) / 2) / Math.sqrt(2 * Math.PI) / 50) * Math.log1p(Math.exp(-z))
    }
    const { loss } = await classifier.evaluate(x, y, 60)
    assert.ok(best > 0.05 && loss < best + 0.12, `loss ${loss}, the best is ${best}`)
    assert.ok((await classifier.evaluate(x, y, 0)).accuracy > 0.98)
  })

  it('its gradient of log p is that of its logits, and training leaves no trace of it', async () => {
    using classifier = await randomClassifier()
    const x = Tensor.randn([2, 1, 4, 4])
    const [values, gradient] = [await x.data(), await (await classifier.logProbGradient(x, 30, [1, 0])).data()]
    const logProbs = async (data: Float32Array) => {
      const logits = await (await classifier.logits(Tensor.from(data, x.shape), 30)).data()
      return [1, 0].map((label, i) => {
        const own = logits.subarray(2 * i, 2 * i + 2)
        return own[label] - Math.log(Math.exp(own[0]) + Math.exp(own[1]))
      })
    }
    const direction = new Random(5).normals(32)
    const h = 1e-2
    const [plus, minus] = [
      await logProbs(values.map((v, i) => v + h * direction[i])),
      await logProbs(values.map((v, i) => v - h * direction[i])),
    ]
    for (const i of [0, 1]) {
      const along = gradient.subarray(16 * i, 16 * i + 16).reduce((sum, v, k) => sum + v * direction[16 * i + k], 0)
      assertClose([(plus[i] - minus[i]) / (2 * h)], [along], { abs: 2e-3, rel: 2e-2 }, `sample ${i}`)
    }
  })

  it('the same batch twice is the same update; files and dicts bring the weights back', async () => {
    const trained = async (optimizer: 'adamw' | 'lion' = 'adamw') => {
      const classifier = new Classifier({
        encoderConfig: { ...encoderConfig, dropout: 0.2 },
        ...process,
        device: testDevice,
      })
      classifier.configureOptimizers({ lr: 1e-3, maxGradNorm: 1, optimizer })
      const { x, y } = images(1, 4)
      const results = [await classifier.trainBatch(x, y), await classifier.trainBatch(x, y, { lr: 1e-4 })]
      return { classifier, results }
    }
    const [a, b] = [await trained(), await trained()]
    assert.deepEqual(a.results, b.results)
    const lion = await trained('lion')
    assert.equal(lion.results[0].loss, a.results[0].loss)
    assert.notEqual(lion.results[1].loss, a.results[1].loss)
    lion.classifier.dispose()
    const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-classifier-'))
    try {
      const file = path.join(folder, 'classifier.safetensors')
      await a.classifier.save(file)
      using other = new Classifier({ encoderConfig, ...process, device: testDevice })
      await other.load(file)
      const { x } = images(2, 3)
      const logits = async (classifier: Classifier) => (await classifier.logits(x, 5)).data()
      assertSameBits(await logits(other), await logits(b.classifier), 'logits')
      await assert.rejects(other.load(path.join(folder, 'none')), { code: 'not-found' })
      // The file says what network and which schedule it is of.
      using again = await Classifier.fromFile(file, { device: testDevice })
      assert.deepEqual([again.network.options, again.numTimesteps], [a.classifier.network.options, process.timesteps])
      assertSameBits(again.schedule.alphasCumprod, a.classifier.schedule.alphasCumprod, 'schedule')
      assertSameBits(await logits(again), await logits(b.classifier), 'logits of the file')
      const wider = { ...encoderConfig, modelChannels: 16 }
      await assert.rejects(Classifier.fromFile(file, { encoderConfig: wider }), { code: 'state-mismatch' })
      const bare = path.join(folder, 'bare.safetensors')
      const kernel = { dtype: 'F32' as const, shape: [1], data: new Float32Array(1) }
      await writeSafetensors(bare, { kernel })
      await assert.rejects(Classifier.fromFile(bare), { code: 'invalid-argument', argument: 'encoderConfig' })
      await writeSafetensors(bare, { kernel }, { config: '{' })
      await assert.rejects(Classifier.fromFile(bare), { code: 'bad-file' })
    } finally {
      await rm(folder, { recursive: true })
      a.classifier.dispose()
      b.classifier.dispose()
    }
    await assert.rejects(a.classifier.logits(images(2, 3).x, 5), { code: 'disposed' })
  })

  it('takes batches by their names, and refuses what is none', async () => {
    using classifier = new Classifier({ encoderConfig, ...process, device: testDevice })
    const { x, y } = images(1, 2)
    await assert.rejects(classifier.trainBatch(x, y), { code: 'not-configured' })
    classifier.configureOptimizers({ lr: 1e-3 })
    const image = Tensor.from(await x.data(), [2, 4, 4, 1])
    const { loss, accuracy } = await classifier.trainingStep({ image, class_label: Tensor.from(y) })
    assert.ok(Number.isFinite(loss) && accuracy >= 0 && accuracy <= 1)
    const rejected = (promise: Promise<unknown>, argument: string) =>
      assert.rejects(promise, { code: 'invalid-argument', argument })
    await rejected(classifier.trainBatch(x, [0, 2]), 'y')
    await rejected(classifier.trainBatch(Tensor.randn([2, 1, 8, 8]), y), 'x')
    await rejected(classifier.trainingStep({ image }), 'batch.class_label')
    await rejected(classifier.trainBatch(x, y, { t: 100 }), 't')
    assert.throws(() => new Classifier({ ...process } as never), { argument: 'encoderConfig' })
    assert.throws(() => new Classifier({ encoderConfig, tiemsteps: 3 } as never), { code: 'unknown-option' })
  })
})
