// Samplers between noise levels, against closed forms: Gaussian data, whose best denoiser and probability flow are known.
import assert from 'node:assert/strict'
import { deisEvaluations } from '../../lib/diffusion/sampling/deis'
import { dpm2sAncestralEvaluations, dpmSdeEvaluations } from '../../lib/diffusion/sampling/dpm-ancestral'
import { singlestepEvaluations } from '../../lib/diffusion/sampling/dpm-singlestep'
import { dpmEvaluations } from '../../lib/diffusion/sampling/dpm-solver'
import { eulerAncestralEvaluations, eulerEvaluations } from '../../lib/diffusion/sampling/euler'
import { heunEvaluations } from '../../lib/diffusion/sampling/heun'
import { kdpm2Evaluations } from '../../lib/diffusion/sampling/kdpm2'
import { lmsEvaluations } from '../../lib/diffusion/sampling/lms'
import type { NoiseLevel } from '../../lib/diffusion/sampling/noise-levels'
import type { Evaluation } from '../../lib/diffusion/sampling/plan'
import { samplerNamed, samplers } from '../../lib/diffusion/sampling/sampler-names'
import { betaQuantile, formulaLevels, levelOf, levelsAt } from '../../lib/diffusion/sampling/sigmas'
import { DDPM, type DDPMOptions, type SampleOptions } from '../../lib/index'
import { assertClose } from '../support/compare'
import { testDevice } from '../support/devices'
import { follow } from '../support/follow-plan'
import { Fixture } from './fixture'

const mean = 0.3
const deviation = 0.4
const [most, least] = [20, 1e-4]

/** By "timestep": so fine that a middle has one, and a level its own. */
const fine = 1 << 15
const sigmas = Float64Array.from({ length: fine + 1 }, (_, t) => least * (most / least) ** (t / fine))

type Solve = (levels: readonly NoiseLevel[]) => Evaluation[]

/** The best prediction of x_0, where x_0 is N(mean, deviation^2). */
function bestX0(x: number, sigma: number): number {
  const a = 1 / Math.sqrt(1 + sigma ** 2)
  return mean + (deviation ** 2 / (deviation ** 2 + sigma ** 2)) * (x / a - mean)
}

/** Samples by their x_T and noise, through `steps` steps of equal length in log(sigma), a power of two. */
function sampler(solve: Solve, steps: number) {
  const levels = Array.from({ length: steps + 1 }, (_, i) => {
    const t = fine - (i * fine) / steps
    return { t, sigma: sigmas[t] }
  })
  const evaluations = solve(levels)
  const x0 = (x: number, i: number) => bestX0(x, sigmas[evaluations[i].t])
  const run = (begin: number, noise?: (i: number) => number) => follow(evaluations, begin, x0, noise)
  return { run, count: evaluations.length }
}

const common = { parameterization: 'x0', sigmas } as const
const singlestep = (order: number) => (levels: readonly NoiseLevel[]) =>
  singlestepEvaluations(levels, 0, {
    ...common,
    algorithm: 'dpmsolver++',
    order,
    solverType: 'midpoint',
    lowerOrderFinal: true,
  })
const flows: Record<string, readonly [Solve, number]> = {
  // Twice the steps: how many times smaller an error of the order makes; a little less before the limit.
  Euler: [(levels) => eulerEvaluations(levels, common), 1.9],
  Heun: [(levels) => heunEvaluations(levels, common), 3.7],
  KDPM2: [(levels) => kdpm2Evaluations(levels, { ...common, eta: 0 }), 3.7],
  'DPM-Solver++ 2S': [(levels) => dpm2sAncestralEvaluations(levels, { ...common, eta: 0 }), 3.7],
  'DPM-Solver++ SDE without noise': [(levels) => dpmSdeEvaluations(levels, { ...common, eta: 0 }), 3.7],
  'LMS 1': [(levels) => lmsEvaluations(levels, { ...common, order: 1 }), 1.9],
  'LMS 2': [(levels) => lmsEvaluations(levels, { ...common, order: 2 }), 3.6],
  // The first steps, of lower orders, decide.
  'DEIS 1': [(levels) => deisEvaluations(levels, { ...common, order: 1, lowerOrderFinal: true }), 1.9],
  'DEIS 2': [(levels) => deisEvaluations(levels, { ...common, order: 2, lowerOrderFinal: true }), 3.6],
  'DEIS 3': [(levels) => deisEvaluations(levels, { ...common, order: 3, lowerOrderFinal: true }), 4],
  'DPM-Solver++ singlestep 1': [singlestep(1), 1.9],
  'DPM-Solver++ singlestep 2': [singlestep(2), 3.6],
  'DPM-Solver++ singlestep 3': [singlestep(3), 7],
  'LMS 4': [(levels) => lmsEvaluations(levels, { ...common, order: 4 }), 3.6],
}

describe('solvers between noise levels', () => {
  for (const [name, [solve, least]] of Object.entries(flows)) {
    it(`${name}: with twice the steps the error is ${least} times smaller or more`, () => {
      const begin = 1.3
      const a = 1 / Math.sqrt(1 + most ** 2)
      const exact = mean + (deviation * (begin / a - mean)) / Math.sqrt(deviation ** 2 + most ** 2)
      const [coarse, finer] = [64, 512].map((steps) => Math.abs(sampler(solve, steps).run(begin) - exact))
      const ratio = Math.cbrt(coarse / finer)
      assert.ok(ratio >= least, `${coarse} becomes ${finer}: ${ratio} with each doubling`)
    })
  }
})

/** Half of the way back to the step before, at most sqrt(2) - 1, to a level that has a timestep. */
function churnOf({ length }: readonly NoiseLevel[]) {
  const places = Math.min(fine / (length - 1) / 2, 512)
  const amount = ((most / least) ** (places / fine) - 1) * length
  return { amount, least: 0.01, most: 15, noise: 1, sigmas }
}
const noisy: Record<string, Solve> = {
  'Euler with churn': (levels) => eulerEvaluations(levels, { ...common, churn: churnOf(levels) }),
  'Heun with churn': (levels) => heunEvaluations(levels, { ...common, churn: churnOf(levels) }),
  'Euler ancestral': (levels) => eulerAncestralEvaluations(levels, common),
  'Euler ancestral, eta 0.5': (levels) => eulerAncestralEvaluations(levels, { ...common, eta: 0.5 }),
  'KDPM2 ancestral': (levels) => kdpm2Evaluations(levels, { ...common, eta: 1 }),
  'DPM-Solver++ 2S ancestral': (levels) => dpm2sAncestralEvaluations(levels, common),
  'DPM-Solver++ SDE': (levels) => dpmSdeEvaluations(levels, common),
  'DPM-Solver++ 2M SDE': (levels) =>
    dpmEvaluations(levels, 0, {
      ...common,
      algorithm: 'sde-dpmsolver++',
      order: 2,
      solverType: 'midpoint',
      lowerOrderFinal: true,
    }),
}

/** Mean and variance of the samples: these are linear in x_T and in each noise, all of which are independent. */
function moments(solve: Solve, steps: number) {
  const { run, count } = sampler(solve, steps)
  const begin = mean / Math.sqrt(1 + most ** 2)
  const spread = Math.sqrt((deviation ** 2 + most ** 2) / (1 + most ** 2))
  const average = run(begin)
  const parts = [run(begin + spread) - average]
  for (let k = 0; k < count; k++) parts.push(run(begin, (i) => (i === k ? 1 : 0)) - average)
  return { average, variance: parts.reduce((sum, v) => sum + v ** 2, 0), fresh: parts.slice(1).some((v) => v !== 0) }
}

describe('samplers with noise', () => {
  for (const [name, solve] of Object.entries(noisy)) {
    it(`${name}: mean and variance of the samples become those of the data`, () => {
      const errors = [8, 32, 128].map((steps) => {
        const { average, variance, fresh } = moments(solve, steps)
        assert.ok(fresh, 'the noise has a part in the samples')
        assertClose([average], [mean], { abs: 1e-9, rel: 0 }, 'mean')
        return Math.abs(variance / deviation ** 2 - 1)
      })
      assert.ok(errors[2] < 0.1, String(errors))
      // 16 times the steps; one passes zero on the way.
      assert.ok(errors[0] > 6 * errors[2], String(errors))
    })
  }
})

describe('churn', () => {
  const levels = [10, 5, 2, 1].map((sigma) => levelOf(sigma, sigmas))
  const churn = { amount: 1, least: 0, most: Infinity, noise: 1, sigmas }
  const noises = (o: Partial<typeof churn>) =>
    eulerEvaluations(levels, { ...common, churn: { ...churn, ...o } }).map(({ next }) => next.noise)

  it('begins a step with more noise, whose coefficient follows from both sigmas', () => {
    const expected = [5, 2, 1].map((sigma) => {
      const more = 1.25 * sigma
      return Math.sqrt(more ** 2 - sigma ** 2) / Math.sqrt(1 + more ** 2)
    })
    assertClose(noises({}) as number[], [...expected, 0], { abs: 1e-12, rel: 0 }, 'a quarter each')
    assertClose(noises({ noise: 2 }) as number[], [...expected.map((v) => 2 * v), 0], { abs: 1e-12, rel: 0 }, 's_noise')
    const limited = noises({ amount: 100 })[0]!
    const more = Math.SQRT2 * 5
    assertClose([limited], [5 / Math.sqrt(1 + more ** 2)], { abs: 1e-12, rel: 0 }, 'at most sqrt(2) - 1')
    assert.deepEqual(
      noises({ least: 1.5, most: 3 }).map((v) => v !== 0),
      [false, true, false, false],
    )
  })

  it('belongs to Euler and Heun, and its other options to it', async () => {
    using ddpm = new DDPM({ model: (x) => x, imageSize: 2, channels: 1, device: testDevice })
    const draw = (o: SampleOptions) => ddpm.sample({ batchSize: 1, steps: 4, seed: 1, ...o }).then((x) => x.data())
    for (const sampler of ['euler', 'heun'] as const) {
      const [plain, none, some] = [
        await draw({ sampler }),
        await draw({ sampler, sChurn: 0 }),
        await draw({ sampler, sChurn: 2 }),
      ]
      assert.deepEqual(none, plain)
      assert.notDeepEqual(some, plain)
    }
    const wrong = (o: SampleOptions, argument: string) =>
      assert.rejects(draw(o), { code: 'invalid-argument', argument })
    await wrong({ sampler: 'lms', sChurn: 1 }, 'sChurn')
    await wrong({ sampler: 'euler', sNoise: 1 }, 'sNoise')
    await wrong({ scheduler: { _class_name: 'EulerDiscreteScheduler' }, sChurn: 1 }, 'sChurn')
  })
})

describe('the start', () => {
  it('is warned of where it is far from noise', async () => {
    const warned = async (o: DDPMOptions, options: SampleOptions) => {
      using ddpm = new DDPM({ model: (x) => x, imageSize: 2, channels: 1, device: testDevice, ...o })
      await ddpm.sample({ batchSize: 1, ...options })
      return ddpm.warnings().filter((line) => /the first step is at timestep \d+ of \d+/.test(line)).length
    }
    const quad = { sampler: 'ddim', steps: 20, ddimDiscretize: 'quad' } as const
    assert.equal(await warned({ betaSchedule: 'cosine' }, quad), 1)
    assert.equal(await warned({ betaSchedule: 'linear' }, quad), 0)
    assert.equal(
      await warned({ betaSchedule: 'cosine' }, { sampler: 'euler', steps: 3, timestepSpacing: 'leading' }),
      1,
    )
    assert.equal(await warned({ betaSchedule: 'cosine' }, { sampler: 'euler', steps: 3 }), 0)
    assert.equal(await warned({ timesteps: 50 }, { steps: 50 }), 0)
  })
})

describe('noise levels', () => {
  const T = 1000
  const all = Float64Array.from({ length: T }, (_, t) => 0.03 + (14.6 - 0.03) * (t / (T - 1)) ** 2)

  it('go from the most noise to the least, whatever the formula', () => {
    for (const formula of ['karras', 'exponential', 'beta'] as const) {
      for (const steps of [1, 2, 9, 1000]) {
        const levels = formulaLevels(formula, steps, all)
        assert.equal(levels.length, steps)
        assertClose([levels[0].sigma, levels[0].t], [all[T - 1], T - 1], { abs: 1e-12, rel: 1e-12 }, formula)
        if (steps === 1) continue
        assertClose([levels[steps - 1].sigma], [all[0]], { abs: 1e-9, rel: 0 }, formula)
        assert.equal(levels[steps - 1].t, 0, formula)
        assert.ok(levels.every(({ sigma, t }, i) => i === 0 || (sigma < levels[i - 1].sigma && t <= levels[i - 1].t)))
      }
    }
  })

  it('lie on the line between those of two timesteps', () => {
    assert.deepEqual(
      levelsAt([999, 10, 0], all),
      [999, 10, 0].map((t) => ({ t, sigma: all[t] })),
    )
    const [{ t, sigma }] = levelsAt([10.25], all)
    assertClose([t, sigma], [10.25, 0.75 * all[10] + 0.25 * all[11]], { abs: 1e-12, rel: 0 }, 'a quarter')
  })

  it('of a beta distribution are its quantiles', () => {
    // Where x = sin^2(angle / 2), the density has no pole: sin(angle)^0.2.
    const n = 100_000
    const cumulated = new Float64Array(n + 1)
    for (let i = 0; i < n; i++) cumulated[i + 1] = cumulated[i] + Math.sin((Math.PI * (i + 0.5)) / n) ** 0.2
    const chosen = Array.from({ length: 20 }, (_, i) => 1000 + 4999 * i)
    const found = chosen.map((i) => betaQuantile(cumulated[i] / cumulated[n]))
    const places = chosen.map((i) => Math.sin((Math.PI * i) / (2 * n)) ** 2)
    assertClose(found, places, { abs: 1e-5, rel: 0 }, 'quantiles')
    assert.deepEqual(
      [0, 0.5, 1].map(betaQuantile).map((v) => Number(v.toFixed(12))),
      [0, 0.5, 1],
    )
  })
})

describe('orders of LMS', () => {
  it('are those of the chains of diffusers', async () => {
    const fixture = await Fixture.load('scheduler_lms')
    for (const c of fixture.config.cases) {
      const { order } = c.step_args
      if (order === undefined) continue
      const parameterization = c.scheduler.prediction_type === 'v_prediction' ? 'v' : 'eps'
      const [...given] = fixture.numbers(`out/${c.id}/sigmas`)
      const evaluations = lmsEvaluations(
        given.slice(0, -1).map((sigma, t) => ({ t, sigma })),
        { parameterization, order },
      )
      const outputs = await Promise.all(evaluations.map((_, i) => fixture.row(`in/${c.id}/model_output`, i).data()))
      const begin = await fixture.row(`out/${c.id}/scaled_input`, 0).data()
      const end = begin.map((v, e) => follow(evaluations, v, (_, i) => outputs[i][e]))
      const expected = await fixture.row(`out/${c.id}/prev_sample`, evaluations.length - 1).data()
      assertClose(end, expected, { abs: 1e-4, rel: 1e-4 }, c.id)
    }
  })
})

describe('names of samplers', () => {
  it('are those of k-diffusion, AUTOMATIC1111, ComfyUI and diffusers, too', () => {
    const names: Record<string, string> = {
      sample_euler_ancestral: 'euler-ancestral',
      'Euler a': 'euler-ancestral',
      k_euler: 'euler',
      dpmpp_2m: 'dpmsolver++',
      'DPM++ 2M': 'dpmsolver++',
      'DPM++ 2M SDE': 'sde-dpmsolver++',
      'DPM++ SDE': 'dpmsolver++sde',
      'DPM++ 2S a': 'dpmsolver++2s-ancestral',
      dpm_2_ancestral: 'kdpm2-ancestral',
      uni_pc: 'unipc',
      HeunDiscreteScheduler: 'heun',
      DDIM: 'ddim',
    }
    for (const [name, sampler] of Object.entries(names)) assert.deepEqual(samplerNamed(name), { sampler }, name)
    for (const sampler of samplers) assert.deepEqual(samplerNamed(sampler), { sampler })
    assert.deepEqual(samplerNamed('DPM++ 2M Karras'), { sampler: 'dpmsolver++', sigmas: 'karras' })
    assert.deepEqual(samplerNamed('Euler a Exponential'), { sampler: 'euler-ancestral', sigmas: 'exponential' })
  })

  it('that are none are told of', () => {
    for (const [name, message] of [
      ['eulr', /did you mean 'euler'\?/],
      ['DPM adaptive', /'DPM adaptive' is not available/],
      [7, /got|is no sampler/],
      ['Karras', /is no sampler/],
    ] as const) {
      assert.throws(() => samplerNamed(name), { code: 'invalid-argument', argument: 'sampler', message })
    }
  })
})
