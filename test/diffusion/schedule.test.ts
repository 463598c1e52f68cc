import assert from 'node:assert/strict'
import {
  type BetaSchedule,
  betaSchedules,
  checkBetas,
  makeBetaSchedule,
  makeDdimParameters,
  makeDdimTimesteps,
  makeSchedule,
  respacedTimesteps,
  type Schedule,
} from '../../lib/diffusion/process/schedule'
import { ancestralPlan, respacedPlan } from '../../lib/diffusion/sampling/ancestral'
import { schedulerPlan } from '../../lib/diffusion/sampling/diffusers/plans'
import { DiffusionError } from '../../lib/errors'
import { assertClose } from '../support/compare'
import { camelCase, Fixture } from './fixture'

/** Float64 results rounded once; where float32 goes subnormal, relative errors mean nothing. */
const exact = { rel: 1e-6, abs: 1e-40 }
const float32 = { rel: 1e-4, abs: 0 }

function compare(schedule: Schedule, fixture: Fixture, prefix: string, except: readonly string[] = []): void {
  for (const name of fixture.names(prefix)) {
    if (except.includes(name)) continue
    const key = Object.keys(camelCase({ [name]: 0 }))[0] as keyof Schedule
    assertClose(schedule[key], fixture.numbers(prefix + name), name === 'lvlb_weights' ? float32 : exact, prefix + name)
  }
}

describe('schedule', () => {
  for (const name of betaSchedules.filter((name) => name !== 'edm' && name !== 'flow')) {
    it(`${name}: every buffer equals register_schedule's`, async () => {
      const fixture = await Fixture.load(`schedules_${name}`)
      for (const settings of fixture.config.cases) {
        const o = camelCase(settings)
        const betas = makeBetaSchedule(o.betaSchedule as BetaSchedule, o.timesteps, o)
        compare(makeSchedule(betas, o), fixture, `out/${o.id}/`)
      }
    })
  }

  it('given betas', async () => {
    const fixture = await Fixture.load('schedules_given')
    const o = camelCase(fixture.config)
    compare(makeSchedule(checkBetas(fixture.numbers('in/given_betas')), o), fixture, 'out/')
  })

  it('rejects betas that are none', () => {
    for (const betas of [[], [0.1], [0.1, 1], [0, 0.1], [0.1, Number.NaN], ['0.1', 0.2], 5]) {
      assert.throws(() => checkBetas(betas), { code: 'invalid-argument', argument: 'givenBetas' })
    }
    // Nothing of the image may be left at the end, where the network does not predict the noise.
    assert.deepEqual(checkBetas([0.1, 1], 'givenBetas', true), Float64Array.of(0.1, 1))
    assert.throws(() => checkBetas([1, 1], 'givenBetas', true), { code: 'invalid-argument' })
  })
})

describe('DDIM tables', () => {
  it('equal those of make_ddim_timesteps and make_ddim_sampling_parameters, or throw where they do', async () => {
    const fixture = await Fixture.load('ddim_tables')
    const o = camelCase(fixture.config)
    for (const c of fixture.config.cases) {
      const betas = makeBetaSchedule(o.betaSchedule, c.T, { ...o, cosineS: 0 })
      const { alphasCumprod } = makeSchedule(betas, { vPosterior: 0, parameterization: 'eps' })
      if (c.raises) {
        assert.throws(
          () => makeDdimTimesteps(c.method, c.S, c.T),
          { code: 'invalid-argument', argument: 'steps' },
          c.id,
        )
        continue
      }
      const timesteps = makeDdimTimesteps(c.method, c.S, c.T)
      assert.deepEqual(timesteps, fixture.integers(`out/${c.id}/timesteps`), c.id)
      const { alphas, alphasPrev, sigmas } = makeDdimParameters(alphasCumprod, timesteps, c.eta)
      const { rtol: rel, atol: abs } = fixture.tolerance.suggest
      assertClose(alphas, fixture.numbers(`out/${c.id}/alphas`), { rel, abs }, `${c.id} alphas`)
      assertClose(alphasPrev, fixture.numbers(`out/${c.id}/alphas_prev`), { rel, abs }, `${c.id} alphas_prev`)
      assertClose(sigmas, fixture.numbers(`out/${c.id}/sigmas`), { rel, abs }, `${c.id} sigmas`)
    }
  })
})

const defaults = {
  lossType: 'l2',
  lSimpleWeight: 1,
  originalElboWeight: 0,
  logEveryT: 100,
  deterministic: false,
  distributed: 'off',
  shardOptimizer: false,
  precision: 'fp32',
  classDropout: 0,
  contextDropout: 0,
  vectorDropout: 0,
  offsetNoise: 0,
  varianceType: 'fixed',
} as const

describe('respacing', () => {
  const schedule = makeSchedule(makeBetaSchedule('linear', 100, { linearStart: 1e-4, linearEnd: 0.02, cosineS: 0 }), {
    vPosterior: 0.3,
    parameterization: 'eps',
  })

  it('spreads the timesteps from the first to the last', () => {
    assert.deepEqual([...respacedTimesteps(4, 100)], [0, 33, 66, 99])
    assert.deepEqual([...respacedTimesteps(1, 100)], [99])
    for (const steps of [0, 101, 1.5]) {
      assert.throws(
        () => respacedTimesteps(steps, 100),
        (e) => e instanceof DiffusionError && e.argument === 'steps',
      )
    }
  })

  it('halves fall where numpy has them, by the roundings of its steps', () => {
    // numpy.linspace(0, 999, 27).round()[13], numpy.arange(1000, 0, -1000 / 48).round() - 1.
    assert.equal(respacedTimesteps(27, 1000)[13], 499)
    const trailing = respacedTimesteps(48, 1000, 'trailing').reverse()
    assert.deepEqual(
      [3, 15, 27, 39].map((i) => trailing[i]),
      [936, 686, 436, 186],
    )
    const scheduler = { _class_name: 'PNDMScheduler', timestep_spacing: 'linspace', skip_prk_steps: true }
    const plms = schedulerPlan(scheduler, 1000, { steps: 7 }).evaluations.map(({ t }) => t)
    assert.deepEqual(plms.slice(2), [832, 666, 500, 333, 166, 0])
  })

  it('through all timesteps is ancestral sampling', () => {
    const settings = {
      parameterization: 'eps',
      vPosterior: 0.3,
      clipDenoised: true,
      timestepSpacing: 'linspace',
    } as const
    const context = { schedule, settings: { ...defaults, ...settings } }
    const [all, every] = [respacedPlan(context, { steps: 100 }), ancestralPlan(context, {})]
    assert.deepEqual(
      all.evaluations.map(({ t }) => t),
      every.evaluations.map(({ t }) => t),
    )
    assertClose(all.table, every.table, { rel: 2e-3, abs: 1e-6 }, 'table')
  })
})
