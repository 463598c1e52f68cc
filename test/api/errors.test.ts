// Bad input gets a DiffusionError that names the argument, and the model works as before.
import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, DiffusionError, Tensor } from '../../lib/index'

const shape = { timesteps: 10, imageSize: 2, channels: 1, device: 'cpu' } as const
const x = Tensor.from([0.1, 0.2, 0.3, 0.4], [1, 1, 2, 2])

/** Options as a user without types may give them. */
// biome-ignore lint/suspicious/noExplicitAny: wrong on purpose
const untyped = (options: unknown) => options as any

function network(): DDPM {
  const unetConfig = { imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1, 2] }
  const small = { ...unetConfig, numResBlocks: 1, attentionResolutions: [] }
  return new DDPM({ unetConfig: small, timesteps: 10, device: 'cpu' })
}

describe('another copy of the package', () => {
  it('is named where one of its tensors comes', async () => {
    const foreign = Object.assign(Object.create(null), { shape: x.shape, constructor: Tensor })
    foreign[Symbol.for('ddpm-native: copy')] = '/app/node_modules/b'
    using ddpm = new DDPM({ ...shape, model: (input) => input })
    const message = /got Tensor of shape \[1, 1, 2, 2\] of another copy of ddpm-native \(\/app\/node_modules\/b\)$/
    await assert.rejects(ddpm.sample({ image: foreign, strength: 0.5 }), { code: 'invalid-argument', message })
    await assert.rejects(ddpm.qSample(foreign, 1, x), { code: 'invalid-argument', message })
    using given = network()
    await assert.rejects(given.loadStateDict({ 'out.2.bias': foreign }), /out\.2\.bias is Tensor .* another copy/)
    await assert.rejects(ddpm.sample({ image: Tensor.from([1]), strength: 0.5 }), (e: Error) => !/copy/.test(e.message))
  })
})

describe('wrong arguments', () => {
  const model = (input: Tensor) => input
  const cases: [what: string, options: object, argument: string][] = [
    ['no model', {}, 'model'],
    ['two models', { model, unetConfig: {} }, 'model'],
    ['a model that is none', { model: 5 }, 'model'],
    ['timesteps that are none', { model, timesteps: -3 }, 'timesteps'],
    ['half a timestep', { model, timesteps: 1.5 }, 'timesteps'],
    ['an unknown schedule', { model, betaSchedule: 'lineer' }, 'betaSchedule'],
    ['betas beyond 1', { model, givenBetas: [0.1, 2] }, 'givenBetas'],
    ['a schedule that reaches 1', { model, betaSchedule: 'sqrt', linearEnd: 1 }, 'linearStart, linearEnd'],
    ['an unknown parameterization', { model, parameterization: 'w' }, 'parameterization'],
    ['an unknown loss', { model, lossType: 'hubert' }, 'lossType'],
    ['an unknown device', { model, device: 'tpu' }, 'device'],
    ['a seed below 0', { model, seed: -1 }, 'seed'],
    ['a string for a boolean', { model, clipDenoised: 'yes' }, 'clipDenoised'],
  ]
  for (const [what, options, argument] of cases) {
    it(`new DDPM: ${what}`, () => {
      assert.throws(
        () => new DDPM(untyped(options)),
        (e) => e instanceof DiffusionError && e.code === 'invalid-argument' && e.argument === argument,
      )
    })
  }

  it('a misspelled option is named together with the likely one', async () => {
    const message = /no option 'betaSchedul'; did you mean 'betaSchedule'\?/
    assert.throws(() => new DDPM(untyped({ model, betaSchedul: 'linear' })), { code: 'unknown-option', message })
    assert.throws(() => new DDPM(untyped({ model, timestep: 5 })), { message: /did you mean 'timesteps'/ })
    assert.throws(() => new DDPM(untyped({ model, beta_schedule: 'linear' })), { message: /'betaSchedule'/ })
    using ddpm = new DDPM({ ...shape, model })
    await assert.rejects(ddpm.sample(untyped({ batchsize: 2 })), { message: /did you mean 'batchSize'/ })
    await assert.rejects(ddpm.pSample(x, 0, untyped({ repeatnoise: true })), { message: /'repeatNoise'/ })
    assert.throws(() => ddpm.registerSchedule(untyped({ linearstart: 1 })), { message: /'linearStart'/ })
  })

  it('wrong shapes and dtypes', async () => {
    using ddpm = new DDPM({ ...shape, model })
    const two = Tensor.from([1, 2], [1, 2])
    const rejected = (promise: Promise<unknown>, argument: string) =>
      assert.rejects(promise, { name: 'DiffusionError', code: 'invalid-argument', argument })
    await rejected(ddpm.qSample(x, 0, two), 'noise')
    await rejected(ddpm.qSample(untyped([1, 2]), 0), 'xStart')
    await rejected(ddpm.qSample(Tensor.from(Int32Array.of(1, 2), [1, 2]), 0), 'xStart')
    await rejected(ddpm.predictStartFromNoise(x, 0, untyped(undefined)), 'noise')
    await rejected(ddpm.qPosterior(x, two, 0), 'xT')
    await rejected(ddpm.pSample(x, 0, { noise: two }), 'noise')
    await rejected(ddpm.pLosses(x, 0, two), 'noise')
    await rejected(ddpm.getLoss(x, two), 'target')
    await rejected(ddpm.pSampleLoop([2, -1]), 'shape')
    await rejected(ddpm.pSampleLoop([1, 1, 2, 2], { xT: two }), 'xT')
    await rejected(ddpm.pSampleLoop([1, 1, 2, 2], { noise: () => two }), 'noise')
    await rejected(ddpm.getInput({ image: x }, 'picture'), 'batch.picture')
    assert.throws(() => Tensor.from([1, 2, 3], [2, 2]), { code: 'invalid-argument', argument: 'shape' })
    assert.throws(() => Tensor.from(untyped('abc'), [3]), { code: 'invalid-argument', argument: 'data' })
  })

  it('timesteps out of range', async () => {
    using ddpm = new DDPM({ ...shape, model })
    const pair = Tensor.from([1, 2, 3, 4], [2, 1, 1, 2])
    for (const t of [
      -1,
      10,
      0.5,
      Number.NaN,
      [0, 10],
      [0, 1, 2],
      Int32Array.of(11),
      Tensor.from([0.5]),
      untyped('1'),
    ]) {
      await assert.rejects(ddpm.qSample(pair, t), { code: 'invalid-argument', argument: 't' })
    }
    for (const t of [0, 9, [0, 9], Int32Array.of(3), Tensor.from([1, 2])]) await ddpm.qSample(pair, t)
  })

  it('images that the network cannot take', async () => {
    using ddpm = network()
    for (const wrong of [
      [1, 3, 8, 8],
      [1, 1, 7, 8],
      [1, 64],
      [0, 1, 8, 8],
    ]) {
      const size = wrong.reduce((a, b) => a * b, 1)
      const tensor = Tensor.from(new Float32Array(size), wrong)
      await assert.rejects(ddpm.pSample(tensor, 0), { code: 'invalid-argument', argument: 'x' })
      await assert.rejects(ddpm.pSampleLoop(wrong), { code: 'invalid-argument', argument: 'shape' })
    }
  })

  it('samplers with options that they do not have', async () => {
    using ddpm = new DDPM({ ...shape, model })
    await assert.rejects(ddpm.sample({ eta: 1 }), { argument: 'eta' })
    await assert.rejects(ddpm.sample({ sampler: 'ddim' }), { argument: 'steps' })
    await assert.rejects(ddpm.sample({ sampler: 'ddim', steps: 11 }), { argument: 'steps' })
    const strides = ddpm.sample({ sampler: 'ddim', steps: 10, ddimDiscretize: 'uniform' })
    await assert.rejects(strides, { argument: 'steps', message: /with it 5$/ })
    await assert.rejects(ddpm.sample({ steps: 11 }), { argument: 'steps' })
  })
})

describe('a denoiser', () => {
  const failing = (model: NonNullable<DDPMOptions['model']>) => new DDPM({ ...shape, model })

  it('that returns the wrong shape', async () => {
    using ddpm = failing(() => Tensor.from([1, 2]))
    const message = /returned Tensor of shape \[2\], expected a float32 Tensor of shape \[1, 1, 2, 2\]/
    await assert.rejects(ddpm.pSample(x, 0), { code: 'denoiser-output', message })
    await assert.rejects(ddpm.sample({ batchSize: 1 }), { code: 'denoiser-output' })
    await assert.rejects(ddpm.pLosses(x, 0), { code: 'denoiser-output' })
  })

  it('that returns no tensor', async () => {
    for (const output of [undefined, 5, new Float32Array(4), Tensor.from(new Int32Array(4), [1, 1, 2, 2])]) {
      using ddpm = failing(untyped(() => output))
      await assert.rejects(ddpm.pSample(x, 0), { code: 'denoiser-output', argument: 'model' })
    }
  })

  it('that throws, at once or later', async () => {
    const cause = new RangeError('no')
    using now = failing(() => {
      throw cause
    })
    using later = failing(() => Promise.reject(cause))
    for (const ddpm of [now, later]) {
      await assert.rejects(
        ddpm.sample({ batchSize: 1 }),
        (e) => e instanceof DiffusionError && e.code === 'denoiser-failed' && e.cause === cause,
      )
    }
  })

  it('that gives NaN or infinity', async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      using ddpm = failing((input) => Tensor.from(new Float32Array(input.size).fill(bad), input.shape))
      await assert.rejects(ddpm.pSample(x, 0), { code: 'not-finite' })
      await assert.rejects(ddpm.sample({ batchSize: 1 }), { code: 'not-finite' })
    }
  })

  it('that is a function has nothing to train', async () => {
    using ddpm = failing((input) => input)
    await assert.rejects(ddpm.lossAndGradients(x, 0), { code: 'unsupported' })
    assert.throws(() => ddpm.configureOptimizers({ lr: 1 }), { code: 'unsupported' })
    await assert.rejects(ddpm.trainBatch(x), { code: 'unsupported' })
  })

  it('fails once and works the next time', async () => {
    let fail = true
    using ddpm = failing((input) => {
      if (fail) throw new Error('once')
      return input
    })
    await assert.rejects(ddpm.sample({ batchSize: 1 }))
    fail = false
    assert.deepEqual((await ddpm.sample({ batchSize: 1 })).shape, [1, 1, 2, 2])
  })
})

describe('a model', () => {
  it('has to have an optimizer before it is trained', async () => {
    using ddpm = network()
    await assert.rejects(ddpm.trainBatch(Tensor.randn([1, 1, 8, 8])), { code: 'not-configured' })
    assert.throws(() => ddpm.configureOptimizers(untyped({})), { code: 'invalid-argument', argument: 'lr' })
    assert.throws(() => ddpm.configureOptimizers({ lr: 1, betas: [0.9] }), { argument: 'betas' })
  })

  it('that is disposed of says so', async () => {
    const ddpm = network()
    ddpm.dispose()
    ddpm.dispose()
    await assert.rejects(ddpm.sample({ batchSize: 1 }), { code: 'disposed' })
    await assert.rejects(ddpm.qSample(x, 0), { code: 'disposed' })
    await assert.rejects(ddpm.stateDict(), { code: 'disposed' })
    assert.throws(() => ddpm.configureOptimizers({ lr: 1 }), { code: 'disposed' })
  })

  it('whose weights are NaN does not draw pictures of nothing', async () => {
    using ddpm = network()
    const dict = await ddpm.stateDict()
    const name = 'model.diffusion_model.out.2.bias'
    await ddpm.loadStateDict({ ...dict, [name]: Tensor.from([Number.NaN]) })
    await assert.rejects(ddpm.pSampleLoop([1, 1, 8, 8], { clipDenoised: false }), { code: 'not-finite' })
  })
})
