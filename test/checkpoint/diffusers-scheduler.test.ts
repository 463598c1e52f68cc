// diffusers' scheduler_config.json as our settings and back: betas, timesteps and chains against golden data.
import assert from 'node:assert/strict'
import { schedulerOfSettings, settingsOfScheduler } from '../../lib/diffusion/formats/diffusers-scheduler'
import { makeBetaSchedule, respacedTimesteps } from '../../lib/diffusion/process/schedule'
import { DDPM } from '../../lib/index'
import { Fixture } from '../diffusion/fixture'
import { assertClose } from '../support/compare'

const schedule = { linearStart: 1e-4, linearEnd: 2e-2, cosineS: 8e-3 }

describe("diffusers' DDPMScheduler", () => {
  const betasOf = (config: Record<string, unknown>) => {
    const {
      givenBetas,
      betaSchedule = 'linear',
      timesteps,
      linearStart = 0,
      linearEnd = 0,
    } = settingsOfScheduler(config)
    const betas = givenBetas ?? makeBetaSchedule(betaSchedule, timesteps, { linearStart, linearEnd, cosineS: 8e-3 })
    return Float32Array.from(betas)
  }

  for (const name of ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid']) {
    it(`${name}: betas`, async () => {
      const golden = await Fixture.load('scheduler_ddpm')
      const expected = golden.numbers(`out/ops/${name}/betas`)
      const { num_train_timesteps, beta_start, beta_end } = golden.config.ops
      const actual = betasOf({ beta_schedule: name, num_train_timesteps, beta_start, beta_end })
      assertClose(actual, expected, { abs: 1e-8, rel: 1e-5 }, 'betas')
    })
  }

  const cases = ['epsilon_fixed_small', 'epsilon_fixed_large', 'sample_fixed_small', 'sample_fixed_large']
  for (const name of [...cases, 'noclip_small_log', 'full_T20']) {
    it(`${name}: every step of a chain`, async () => {
      const golden = await Fixture.load('scheduler_ddpm')
      const { scheduler, num_inference_steps: steps } = golden.config.cases.find(
        ({ id }: { id: string }) => id === name,
      )
      let calls = 0
      const model = () => golden.row(`in/${name}/model_output`, calls++)
      using ddpm = new DDPM({ model, ...settingsOfScheduler(scheduler), device: 'cpu' })
      const xT = golden.tensor(`in/${name}/sample`)
      const timesteps: number[] = []
      const { intermediates, predX0 } = await ddpm.pSampleLoop(xT.shape, {
        steps,
        xT,
        noise: (i) => golden.row(`in/${name}/noise`, Math.min(i, steps - 2)),
        returnIntermediates: true,
        logEveryT: 1,
        onStep: ({ t }) => timesteps.push(t),
      })
      assert.deepEqual(timesteps, [...golden.integers(`out/${name}/timesteps`)])
      for (let i = 0; i < steps; i++) {
        for (const [what, actual] of Object.entries({ prev_sample: intermediates, pred_original_sample: predX0 })) {
          const expected = await golden.row(`out/${name}/${what}`, i).data()
          const scale = expected.reduce((max, v) => Math.max(max, Math.abs(v)), 0)
          assertClose(await actual[i + 1].data(), expected, { abs: 1e-5 + 1e-4 * scale, rel: 0 }, `${what} ${i}`)
        }
      }
    })
  }

  it('timesteps of every spacing', async () => {
    const golden = await Fixture.load('scheduler_ddpm')
    for (const name of ['epsilon_fixed_small', 'linspace', 'trailing', 'noclip_small_log']) {
      const { scheduler, num_inference_steps: steps } = golden.config.cases.find(
        ({ id }: { id: string }) => id === name,
      )
      const { timesteps, timestepSpacing } = settingsOfScheduler(scheduler)
      const actual = respacedTimesteps(steps, timesteps, timestepSpacing).reverse()
      assert.deepEqual(actual, golden.integers(`out/${name}/timesteps`), name)
    }
  })

  it('our schedules are written by name, and any other as its betas', () => {
    const written = (betas: Float64Array | Float32Array) => {
      const config = schedulerOfSettings({
        betas: Float32Array.from(betas),
        vPosterior: 0,
        varianceType: 'fixed',
        clipDenoised: true,
        parameterization: 'x0',
        timestepSpacing: 'trailing',
      })
      assert.equal(config.prediction_type, 'sample')
      assert.equal(config.variance_type, 'fixed_small')
      assert.deepEqual(betasOf(config), Float32Array.from(betas))
      const settings = settingsOfScheduler(config)
      assert.deepEqual([settings.parameterization, settings.timestepSpacing], ['x0', 'trailing'])
      return [config.beta_schedule, config.trained_betas === null]
    }
    assert.deepEqual(written(makeBetaSchedule('linear', 1000, schedule)), ['scaled_linear', true])
    assert.deepEqual(written(makeBetaSchedule('sqrt_linear', 1000, schedule)), ['linear', true])
    assert.deepEqual(written(makeBetaSchedule('cosine', 1000, schedule)), ['squaredcos_cap_v2', true])
    assert.deepEqual(written(makeBetaSchedule('sqrt', 50, schedule)), ['linear', false])
    assert.deepEqual(written(makeBetaSchedule('cosine', 50, { ...schedule, cosineS: 0.01 })), ['linear', false])
    assert.deepEqual(written(Float32Array.of(0.1, 0.3, 0.2)), ['linear', false])
  })
})
