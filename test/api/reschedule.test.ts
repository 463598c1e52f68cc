// registerSchedule while calls are on their way: each keeps the schedule that it began with.
import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Device, Tensor } from '../../lib/index'
import { smallUNet } from '../support/small-unet'

const timesteps = 40
const shape = [2, 3, 8, 8]
const x = Tensor.randn(shape, { seed: 1 })
const noise = Tensor.randn(shape, { seed: 2 })
/** Pixels k/127.5 - 1, for bits per dimension. */
const image = Tensor.from(
  Float32Array.from({ length: 2 * 192 }, (_, i) => (i % 256) / 127.5 - 1),
  shape,
)
const nhwc = Tensor.randn([2, 8, 8, 3], { seed: 3 })
const last = timesteps - 1

type Call = (ddpm: DDPM) => Promise<unknown>

const calls: Record<string, Call> = {
  qSample: (ddpm) => ddpm.qSample(x, last, noise),
  'qSample with t on a tensor': (ddpm) => ddpm.qSample(x, Tensor.from(Int32Array.of(last, 3)), noise),
  qMeanVariance: (ddpm) => ddpm.qMeanVariance(x, last),
  qPosterior: (ddpm) => ddpm.qPosterior(x, noise, last),
  predictStartFromNoise: (ddpm) => ddpm.predictStartFromNoise(x, last, noise),
  pMeanVariance: (ddpm) => ddpm.pMeanVariance(x, last),
  pSample: (ddpm) => ddpm.pSample(x, last, { seed: 5 }),
  pLosses: (ddpm) => ddpm.pLosses(x, last, noise),
  forward: (ddpm) => ddpm.forward(x),
  lossAndGradients: (ddpm) => ddpm.lossAndGradients(x, last, noise),
  trainBatch: (ddpm) => ddpm.trainBatch(x),
  calcBpd: (ddpm) => ddpm.calcBpd(image, { seed: 7 }),
  validationStep: (ddpm) => ddpm.validationStep({ image: nhwc }),
  logImages: (ddpm) => ddpm.logImages({ image: nhwc }, { seed: 9, steps: 4 }),
  'sample, ancestral': (ddpm) => ddpm.sample({ batchSize: 2, seed: 4 }),
  'sample, unipc': (ddpm) => ddpm.sample({ batchSize: 2, seed: 4, sampler: 'unipc', steps: 5 }),
  'sample of an image': (ddpm) => ddpm.pSampleLoop(shape, { image, strength: 0.5, seed: 4 }),
  inpainting: (ddpm) =>
    ddpm.pSampleLoop(shape, {
      image,
      mask: Tensor.from(Float32Array.of(1, ...new Array(63).fill(0)), [1, 1, 8, 8]),
      seed: 4,
    }),
}

const kinds: Record<string, DDPMOptions> = {
  plain: {},
  'v, with a learned variance': {
    parameterization: 'v',
    varianceType: 'learned_range',
    unetConfig: { ...smallUNet, outChannels: 6 },
  },
  'timesteps drawn by their losses': { timestepSampler: 'loss-second-moment' },
}

function modelOf(options: DDPMOptions): DDPM {
  const ddpm = new DDPM({ unetConfig: smallUNet, timesteps, logEveryT: 8, seed: 3, device: 'cpu', ...options })
  ddpm.configureOptimizers({ lr: 1e-3 })
  return ddpm
}

/** Results with tensors as arrays. */
async function plain(value: unknown): Promise<unknown> {
  if (value instanceof Tensor) return [...(await value.data())]
  if (Array.isArray(value)) return Promise.all(value.map(plain))
  if (typeof value !== 'object' || value === null) return value
  const entries = await Promise.all(Object.entries(value).map(async ([key, v]) => [key, await plain(v)]))
  return Object.fromEntries(entries)
}

describe('registerSchedule', () => {
  for (const [kind, options] of Object.entries(kinds)) {
    for (const [name, call] of Object.entries(calls)) {
      it(`leaves ${name} its schedule (${kind})`, async () => {
        using quiet = modelOf(options)
        using ddpm = modelOf(options)
        const expected = await plain(await call(quiet))
        const given = call(ddpm)
        ddpm.registerSchedule({ timesteps: 2 })
        assert.deepEqual(await plain(await given), expected)
        assert.equal(ddpm.numTimesteps, 2)
        await ddpm.sample({ batchSize: 1, seed: 1 })
      })
    }
  }

  it('leaves a sampling its schedule in whichever step it comes', async () => {
    using ddpm = modelOf({})
    const options = { image, mask: Tensor.from(new Float32Array(64).fill(1), [1, 1, 8, 8]), seed: 4 }
    const expected = await (await ddpm.pSampleLoop(shape, options)).data()
    let steps = 0
    const onStep = () => {
      steps++
      ddpm.registerSchedule({ timesteps: 2 + (steps % 3) })
    }
    assert.deepEqual(await (await ddpm.pSampleLoop(shape, { ...options, onStep })).data(), expected)
    assert.equal(steps, timesteps)
  })

  it('leaves no table of a former schedule on the device', async () => {
    const device = Device.open('cpu', { threads: 3 }) // nobody else's
    const inUse = async () => {
      await device.synchronize()
      return device.memoryInfo().inUse
    }
    const ddpm = modelOf({ device })
    await ddpm.qSample(x, last, noise)
    const before = await inUse()
    for (let i = 0; i < 5; i++) {
      const given = ddpm.qSample(x, last, noise)
      ddpm.registerSchedule({ timesteps })
      await given
    }
    await ddpm.qSample(x, last, noise)
    assert.equal(await inUse(), before)
    ddpm.dispose()
    assert.equal(await inUse(), 0)
  })

  it('is not undone by weights that are being loaded', async () => {
    using ddpm = modelOf({})
    const { betas: _, ...all } = await ddpm.stateDict()
    const weights = Object.fromEntries(Object.entries(all).filter(([name]) => name.startsWith('model.')))
    const loading = ddpm.loadStateDict(weights, { strict: false })
    ddpm.registerSchedule({ timesteps: 7 })
    await loading
    assert.equal(ddpm.numTimesteps, 7)
  })
})
