// What no recorded chain covers: orders of accuracy, spacings, parameterizations, images and masks, interpolation.
import assert from 'node:assert/strict'
import type { SampleOptions } from '../../lib/diffusion/options/ddpm-options'
import { evenTimesteps, makeDdimTimesteps } from '../../lib/diffusion/process/schedule'
import type { Settings } from '../../lib/diffusion/process/settings'
import { choosePlan } from '../../lib/diffusion/sampling/choose'
import { dpmEvaluations } from '../../lib/diffusion/sampling/dpm-solver'
import { slerp } from '../../lib/diffusion/sampling/interpolate'
import type { Evaluation } from '../../lib/diffusion/sampling/plan'
import { samplers } from '../../lib/diffusion/sampling/sampler-names'
import { unipcEvaluations } from '../../lib/diffusion/sampling/unipc'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { normal, Purpose } from '../../lib/rng'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { follow } from '../support/follow-plan'
import { pointAt } from '../support/point-at'

const size = { imageSize: 2, channels: 1, device: testDevice } as const
const mean = 0.3
const deviation = 0.4

/** The best denoiser of data that is N(mean, deviation^2) in each pixel, by what it is to predict. */
function gaussian(options: Partial<DDPMOptions> = {}): DDPM {
  const parameterization = options.parameterization ?? 'eps'
  const ddpm: DDPM = new DDPM({
    ...size,
    timesteps: 1000,
    ...options,
    model: async (x, t) => {
      const [state, [i]] = [await x.data(), await t.data()]
      const [a, b] = pointAt(ddpm, i)
      const bar = a * a
      const predict = (v: number) => {
        const x0 = mean + ((a * deviation ** 2) / (bar * deviation ** 2 + 1 - bar)) * (v - a * mean)
        const eps = bar === 1 ? 0 : (v - a * x0) / b
        return { x0, eps, v: a * eps - b * x0, edm: Number.NaN, flow: eps - x0 }[parameterization]
      }
      return Tensor.from(
        state.map((v) => predict(v)),
        x.shape,
      )
    },
  })
  return ddpm
}

const xT = Tensor.from([-1.5, -0.4, 0.2, 1.8], [1, 1, 2, 2])

async function draw(ddpm: DDPM, options: SampleOptions & { xT?: Tensor }): Promise<Float32Array> {
  const { batchSize = 1, ...rest } = options
  const { channels, imageSize } = ddpm
  return (
    await ddpm.pSampleLoop([batchSize, channels, imageSize, imageSize], { ...rest, returnIntermediates: false })
  ).data()
}

/** Distance to the exact solution after `steps` steps of equal length in lambda, for a denoiser that predicts x_0. */
function errorAfter(steps: number, solve: (levels: { t: number; sigma: number }[]) => Evaluation[]): number {
  const [first, last] = [20, 1e-4]
  const levels = Array.from({ length: steps }, (_, i) => ({ t: i, sigma: first * (last / first) ** (i / (steps - 1)) }))
  const x0 = (x: number, i: number) => {
    const { sigma } = levels[i]
    const a = 1 / Math.sqrt(1 + sigma ** 2)
    return mean + (deviation ** 2 / (deviation ** 2 + sigma ** 2)) * (x / a - mean)
  }
  const begin = 1.3
  const [a, spread] = [1 / Math.sqrt(1 + first ** 2), Math.sqrt(deviation ** 2 + first ** 2)]
  return Math.abs(follow(solve(levels), begin, x0) - (mean + (deviation * (begin / a - mean)) / spread))
}

describe('solvers of the probability flow', () => {
  const dpm = (order: number) => (levels: { t: number; sigma: number }[]) =>
    dpmEvaluations(levels, 0, {
      algorithm: 'dpmsolver++',
      order,
      solverType: 'midpoint',
      lowerOrderFinal: true,
      parameterization: 'x0',
    })
  const unipc = (order: number) => (levels: { t: number; sigma: number }[]) =>
    unipcEvaluations(levels, { order, parameterization: 'x0' })
  const solvers = {
    // Twice the steps: how many times smaller an error of the order makes; a little less before the limit.
    'DPM-Solver++ 1': [dpm(1), 1.9],
    'DPM-Solver++ 2': [dpm(2), 3.7],
    // The first two steps, of lower orders, decide.
    'DPM-Solver++ 3': [dpm(3), 4],
    'UniPC 1': [unipc(1), 3.7],
    'UniPC 2': [unipc(2), 7.2],
    'UniPC 3': [unipc(3), 7.2],
  } as const
  for (const [name, [solve, least]] of Object.entries(solvers)) {
    it(`${name}: with twice the steps the error is ${least} times smaller or more`, () => {
      const [coarse, fine] = [errorAfter(20, solve), errorAfter(160, solve)]
      const ratio = Math.cbrt(coarse / fine)
      assert.ok(ratio >= least, `${coarse} becomes ${fine}: ${ratio} with each doubling`)
    })
  }

  it('a higher order is nearer', () => {
    for (const method of [dpm, unipc]) {
      const errors = [1, 2, 3].map((order) => errorAfter(40, method(order)))
      assert.ok(errors[0] > 2 * errors[1] && errors[1] > 2 * errors[2], String(errors))
    }
  })
})

const levelSamplers = samplers.filter((name) => !['ddpm', 'ddim', 'plms', 'dpmsolver++', 'unipc'].includes(name))

const chosen: SampleOptions[] = [
  { sampler: 'ddpm', steps: 8 },
  { sampler: 'ddim', steps: 8 },
  { sampler: 'ddim', steps: 8, timestepSpacing: 'leading', clipDenoised: true },
  { sampler: 'ddim', steps: 8, timestepSpacing: 'trailing', clippedNoise: true, clipDenoised: true, eta: 0.5 },
  { sampler: 'plms', steps: 8 },
  { sampler: 'dpmsolver++', steps: 8 },
  { sampler: 'dpmsolver++', steps: 20, solverOrder: 3 },
  { sampler: 'dpmsolver++', steps: 8, timestepSpacing: 'trailing', solverOrder: 1 },
  { sampler: 'unipc', steps: 8 },
  { sampler: 'unipc', steps: 8, solverOrder: 3 },
  { sampler: 'unipc', steps: 8, sigmas: 'karras' },
  ...levelSamplers.map((sampler) => ({ sampler, steps: 8 })),
  { sampler: 'euler-ancestral', steps: 8, eta: 0.5, sigmas: 'beta' },
  { sampler: 'heun', steps: 8, timestepSpacing: 'trailing', clipDenoised: true },
  { sampler: 'DPM++ 2M Karras', steps: 8 },
]

const solvers = ['unipc', 'euler', 'heun', 'lms', 'deis', 'dpmsolver++']

describe('samplers', () => {
  for (const options of chosen) {
    it(`${JSON.stringify(options)}: the same images whatever the network predicts`, async () => {
      const images: Float32Array[] = []
      for (const parameterization of ['eps', 'x0', 'v'] as const) {
        using ddpm = gaussian({ parameterization, clipDenoised: false })
        images.push(await draw(ddpm, { ...options, seed: 3, batchSize: 2 }))
      }
      assertClose(images[1], images[0], { abs: 2e-4, rel: 2e-4 }, 'x0')
      assertClose(images[2], images[0], { abs: 2e-4, rel: 2e-4 }, 'v')
    })
  }

  for (const options of chosen.filter((o) => !o.clipDenoised && solvers.includes(o.sampler ?? ''))) {
    it(`${JSON.stringify(options)}: the program computes the plan`, async () => {
      using ddpm = gaussian({ clipDenoised: false })
      const { evaluations } = choosePlan({ schedule: ddpm, settings: { parameterization: 'eps' } as Settings }, options)
      const noiseAt = (x: number, t: number) => {
        const [a, b] = pointAt(ddpm, t)
        return (b / (a * a * deviation ** 2 + b * b)) * (x - a * mean)
      }
      const begin = await xT.data()
      const expected = begin.map((x) => follow(evaluations, x, (point, i) => noiseAt(point, evaluations[i].t)))
      assertClose(await draw(ddpm, { ...options, xT }), expected, { abs: 1e-5, rel: 1e-5 }, 'samples')
    })
  }

  it('clips predictions of x_0 where it is asked to', async () => {
    using ddpm = new DDPM({ ...size, parameterization: 'x0', model: () => Tensor.from([5, -5, 2, 0.5], [1, 1, 2, 2]) })
    for (const sampler of ['dpmsolver++', 'unipc', 'euler', 'heun', 'kdpm2-ancestral', 'dpmsolver++sde'] as const) {
      const images = await draw(ddpm, { sampler, steps: 5, clipDenoised: true, seed: 1 })
      assertClose(images, [1, -1, 1, 0.5], { abs: 1e-6, rel: 0 }, sampler)
    }
  })

  it('refuse options of others', async () => {
    using ddpm = gaussian()
    const wrong: [SampleOptions, string][] = [
      [{ sampler: 'plms', steps: 5, clipDenoised: true }, 'clipDenoised'],
      [{ sampler: 'plms', steps: 5, timestepSpacing: 'leading' }, 'timestepSpacing'],
      [{ sampler: 'dpmsolver++', steps: 5, eta: 0 }, 'eta'],
      [{ sampler: 'dpmsolver++' }, 'steps'],
      [{ sampler: 'unipc', steps: 1001 }, 'steps'],
      [{ sampler: 'ddim', steps: 5, solverOrder: 2 }, 'solverOrder'],
      [{ sampler: 'ddim', steps: 5, timestepSpacing: 'leading', ddimDiscretize: 'quad' }, 'ddimDiscretize'],
      [{ timesteps: [3, 2] }, 'timesteps'],
      [{ sampler: 'lms', steps: 5, clipDenoised: true }, 'clipDenoised'],
      [{ sampler: 'lcm', steps: 5, timestepSpacing: 'leading' }, 'timestepSpacing'],
      [{ sampler: 'heun', steps: 5, eta: 1 }, 'eta'],
      [{ sampler: 'sde-dpmsolver++', steps: 5, solverOrder: 3 }, 'solverOrder'],
      [{ sampler: 'euler', steps: 1001 }, 'steps'],
      [{ sampler: 'ddim', steps: 5, sigmas: 'karras' }, 'sigmas'],
      [{ sampler: 'Euler Karras', steps: 5, sigmas: 'beta' }, 'sigmas'],
      [{ sampler: 'euler', steps: 5, sigmas: 'karras', timestepSpacing: 'leading' }, 'timestepSpacing'],
      [{ scheduler: { _class_name: 'DDIMScheduler' }, sampler: 'ddim', steps: 5 }, 'sampler'],
      [{ scheduler: { _class_name: 'DDIMScheduler', num_train_timesteps: 10 }, steps: 5 }, 'num_train_timesteps'],
      [{ scheduler: { _class_name: 'DDPMScheduler' }, timesteps: [2, 3] }, 'timesteps'],
    ]
    for (const [options, argument] of wrong) {
      await assert.rejects(ddpm.sample({ batchSize: 1, ...options }), { code: 'invalid-argument', argument })
    }
    const unknown = ddpm.sample({ scheduler: { _class_name: 'FlowMatchHeunDiscreteScheduler' }, steps: 5 })
    await assert.rejects(unknown, { code: 'unsupported', argument: '_class_name' })
    // As diffusers does it, but not in silence.
    await ddpm.sample({ batchSize: 1, scheduler: { _class_name: 'DDIMScheduler', clip_samples: true }, steps: 5 })
    assert.match(ddpm.warnings().join(), /'clip_samples' is no field of DDIMScheduler.*; did you mean 'clip_sample'\?$/)
  })
})

describe('steps', () => {
  it('n are n with every sampler, whatever the number of timesteps', async () => {
    for (const T of [2, 3, 20, 51, 99, 1000, 1001]) {
      using ddpm = new DDPM({ model: (x) => x, imageSize: 2, channels: 1, timesteps: T, device: testDevice })
      const context = { schedule: ddpm, settings: { parameterization: 'eps', vPosterior: 0 } as Settings }
      for (const steps of [1, 2, 3, 9, 36, 101, 300, 600, 999, T - 1, T].filter((n) => n <= T)) {
        for (const sampler of samplers) {
          const { evaluations } = choosePlan(context, { sampler, steps })
          const whole = evaluations.filter(({ partial }) => !partial)
          assert.equal(whole.length, steps, `${sampler}, ${steps} of ${T}`)
          const different = new Set(evaluations.filter((_, i) => !evaluations[i - 1]?.partial).map(({ t }) => t))
          assert.ok(different.size === steps && Math.max(...different) < T, `${sampler}, ${steps} of ${T}`)
        }
      }
      for (const n of [1, 5, 10, 50, 250].filter((n) => T % n === 0 && 2 * n <= T)) {
        assert.deepEqual(evenTimesteps(n, T), makeDdimTimesteps('uniform', n, T))
      }
      await ddpm.interpolate({ seeds: [1, 2], count: 2 })
    }
  })
})

describe('image to image', () => {
  const image = Tensor.from([0.9, -0.9, 0.1, 0.4], [1, 1, 2, 2])

  it('takes the last part of the steps, from the image with noise', async () => {
    using ddpm = gaussian({ clipDenoised: false })
    for (const sampler of ['ddim', 'plms', 'dpmsolver++', 'unipc', 'euler', 'heun', 'lms', 'kdpm2'] as const) {
      const seen: number[] = []
      const onStep = ({ t }: { t: number }) => seen.push(t)
      const found = await draw(ddpm, { sampler, steps: 10, strength: 0.35, image, seed: 5, onStep })
      assert.equal(seen.length, 3, sampler)
      // From where the image is with that noise, the flow goes on to where it went without an image.
      const noise = Tensor.from(normal(5, Purpose.initial, 0, 0, 4), [1, 1, 2, 2])
      const begin = await (await ddpm.qSample(image, seen[0], noise)).data()
      const bar = ddpm.alphasCumprod[seen[0]]
      const spread = Math.sqrt(bar * deviation ** 2 + 1 - bar)
      const flow = begin.map((v) => mean + (deviation * (v - Math.sqrt(bar) * mean)) / spread)
      assertClose(found, flow, { abs: 0.15, rel: 0 }, sampler)
    }
  })

  it('changes the more the stronger', async () => {
    using ddpm = gaussian({ clipDenoised: false })
    const pixels = await image.data()
    const change = async (strength: number) => {
      const found = await draw(ddpm, { sampler: 'ddim', steps: 50, image, strength, seed: 5 })
      return Math.hypot(...found.map((v, i) => v - pixels[i]))
    }
    const [weak, middle, strong] = [await change(0.02), await change(0.3), await change(1)]
    assert.ok(weak < 0.1 && weak < middle && middle < strong, `${weak} ${middle} ${strong}`)
  })

  it('of strength 0 is the image itself', async () => {
    using ddpm = gaussian({ clipDenoised: false })
    const mask = Tensor.from([1, 0, 1, 0], [1, 1, 2, 2])
    for (const options of [{}, { sampler: 'ddim' }, { sampler: 'dpmsolver++' }, { mask }] as const) {
      assert.deepEqual(await draw(ddpm, { steps: 10, strength: 0, image, ...options }), await image.data())
    }
    const options = { batchSize: 1, steps: 10, strength: 0, image, returnIntermediates: true } as const
    const { intermediates, predX0 } = await ddpm.sample(options)
    assert.deepEqual([intermediates.length, predX0.length], [1, 1])
  })

  it('needs an image, and to be told what to do with it', async () => {
    using ddpm = gaussian()
    const rejected = (options: SampleOptions, argument: string) =>
      assert.rejects(ddpm.sample({ batchSize: 1, steps: 10, ...options }), { code: 'invalid-argument', argument })
    await rejected({ strength: 0.5 }, 'image')
    await rejected({ strength: 0 }, 'image')
    await rejected({ strength: 0, image, eta: 1 }, 'eta')
    await rejected({ image }, 'image')
    await rejected({ image, strength: 0.01 }, 'strength')
    await rejected({ image: Tensor.from([1, 2]), strength: 0.5 }, 'image')
    await rejected({ mask: image }, 'image')
    await rejected({ image, mask: image }, 'mask') // negative
    await rejected({ image, mask: Tensor.from([1, 0]) }, 'mask')
    const mask = Tensor.from([1, 0, 1, 0], [1, 1, 2, 2])
    await rejected({ image, mask, sampler: 'unipc' }, 'mask')
    await rejected({ image, mask, scheduler: { _class_name: 'UniPCMultistepScheduler' } }, 'mask')
    await ddpm.sample({ batchSize: 1, steps: 4, image, mask, scheduler: { _class_name: 'PNDMScheduler' } })
  })
})

describe('inpainting', () => {
  const image = Tensor.from([0.9, -0.9, 0.1, 0.4], [1, 1, 2, 2])

  it('keeps what the mask says and draws the rest', async () => {
    using ddpm = gaussian({ clipDenoised: false })
    const pixels = await image.data()
    for (const sampler of samplers.filter((name) => name !== 'unipc' && name !== 'dpmsolver++singlestep')) {
      const options = { sampler, steps: 20, seed: 2 }
      const mask = Tensor.from([1, 0, 0.5, 0], [1, 1, 2, 2])
      const found = await draw(ddpm, { ...options, image, mask })
      const free = await draw(ddpm, options)
      assert.equal(found[0], pixels[0], sampler)
      assert.ok(Math.abs(found[2] - pixels[2]) < Math.abs(free[2] - pixels[2]), `${sampler}: half of a pixel`)
      // This denoiser knows each pixel alone, so that the others are what they would have been.
      assertClose([found[1], found[3]], [free[1], free[3]], { abs: 1e-5, rel: 1e-5 }, sampler)
    }
  })

  it('hands the denoiser the image with as much noise as the state has', async () => {
    const states: { x: Float32Array; t: number }[] = []
    using ddpm = new DDPM({
      ...size,
      model: async (x, t) => {
        states.push({ x: await x.data(), t: (await t.data())[0] })
        return Tensor.from(new Float32Array(x.size), x.shape)
      },
    })
    const batch = 512
    const flat = Tensor.from(new Float32Array(batch * 4).fill(0.5), [batch, 1, 2, 2])
    const mask = Tensor.from([1, 1, 1, 1], [1, 1, 2, 2])
    await draw(ddpm, { batchSize: batch, sampler: 'ddim', steps: 4, image: flat, mask, seed: 1 })
    for (const { x, t } of states) {
      const bar = ddpm.alphasCumprod[t]
      const average = x.reduce((a, b) => a + b) / x.length
      const variance = x.reduce((a, b) => a + (b - average) ** 2, 0) / (x.length - 1)
      assertClose([average], [0.5 * Math.sqrt(bar)], { abs: 4 * Math.sqrt((1 - bar) / x.length), rel: 0 }, `mean, ${t}`)
      assertClose([variance], [1 - bar], { abs: 0, rel: 4 * Math.sqrt(2 / x.length) }, `variance, ${t}`)
    }
  })
})

describe('interpolation', () => {
  it('begins and ends with the images of the seeds', async () => {
    using ddpm = gaussian({ clipDenoised: false })
    const options = { sampler: 'dpmsolver++', steps: 10 } as const
    const images = await (await ddpm.interpolate({ seeds: [3, 8], count: 5, sample: 1, ...options })).data()
    for (const [seed, place] of [[3, 0] as const, [8, 4] as const]) {
      const alone = await draw(ddpm, { ...options, seed, sampleOffset: 1 })
      assertSameBits(images.slice(4 * place, 4 * place + 4), alone, `seed ${seed}`)
    }
  })

  it('goes along an arc', () => {
    const [a, b] = [Float32Array.of(1, 0), Float32Array.of(0, 1)]
    assertClose(slerp(a, b, 1 / 3), [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)], { abs: 1e-6, rel: 0 }, 'a third')
    assertClose(slerp(a, a, 0.4), a, { abs: 1e-6, rel: 0 }, 'nowhere')
  })

  it('needs a sampler without noise, and two seeds', async () => {
    using ddpm = gaussian()
    await assert.rejects(ddpm.interpolate({ seeds: [1, 2], sampler: 'ddpm' }), { argument: 'sampler' })
    await assert.rejects(ddpm.interpolate({ seeds: [1, 2], sampler: 'ddim', steps: 5, eta: 1 }), {
      argument: 'sampler',
    })
    await assert.rejects(ddpm.interpolate({ seeds: [1] as unknown as [number, number] }), { argument: 'seeds' })
  })
})
