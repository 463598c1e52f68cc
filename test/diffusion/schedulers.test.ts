import assert from 'node:assert/strict'
import { settingsOfScheduler } from '../../lib/diffusion/formats/diffusers-scheduler'
import { schedulerPlan } from '../../lib/diffusion/sampling/diffusers/plans'
import { DDPM, Tensor } from '../../lib/index'
import { assertCloseToScale } from '../support/compare'
import { testDevice } from '../support/devices'
import { Fixture } from './fixture'

/** Steps that do not divide the timesteps, and a network that knows the image: nothing of the noise may be left. */
describe("diffusers' spacings by the version that wrote them", () => {
  const T = 1000
  const image = 0.3
  const left = async (scheduler: Record<string, unknown>, steps: number) => {
    let product = 1
    const bars = Array.from({ length: T }, (_, t) => (product *= 1 - (1e-4 + ((2e-2 - 1e-4) * t) / (T - 1))))
    const model = async (x: Tensor, t: Tensor) => {
      const bar = bars[(await t.data())[0]]
      return Tensor.from(
        (await x.data()).map((v) => (v - Math.sqrt(bar) * image) / Math.sqrt(1 - bar)),
        x.shape,
      )
    }
    using ddpm = new DDPM({ model, imageSize: 4, channels: 3, timesteps: T, device: testDevice })
    const samples = await ddpm.sample({ batchSize: 1, seed: 3, steps, scheduler: { clip_sample: false, ...scheduler } })
    return (await samples.data()).reduce((worst, v) => Math.max(worst, Math.abs(v - image)), 0)
  }
  for (const _class_name of ['DDPMScheduler', 'DDIMScheduler']) {
    it(`${_class_name}: since 0.31 the last step of 'trailing' ends without noise`, async () => {
      for (const steps of [7, 10, 13]) {
        const config = { _class_name, timestep_spacing: 'trailing' }
        for (const _diffusers_version of ['0.31.0', '0.35.1', '1.0.0.dev0']) {
          const worst = await left({ ...config, _diffusers_version }, steps)
          assert.ok(worst < 1e-3, `${steps} steps of ${_diffusers_version}: ${worst}`)
        }
        for (const _diffusers_version of [undefined, '0.27.2', '0.0.4']) {
          const worst = await left({ ...config, _diffusers_version }, steps)
          assert.equal(worst > 1e-3, T % steps !== 0, `${steps} steps of ${_diffusers_version}: ${worst}`)
        }
      }
    })
  }
})

describe("fields of diffusers' schedulers", () => {
  const plan = (scheduler: Record<string, unknown>, steps: number) => schedulerPlan(scheduler, 1000, { steps })
  const timesteps = ({ evaluations }: ReturnType<typeof plan>) => evaluations.map(({ t }) => t)

  it('sigmoid betas are those of trained_betas with the same numbers', () => {
    const sigmoid = { _class_name: 'DDIMScheduler', beta_schedule: 'sigmoid', beta_start: 1e-4, beta_end: 0.02 }
    const { givenBetas } = settingsOfScheduler(sigmoid)
    const given = { ...sigmoid, beta_schedule: 'linear', trained_betas: [...givenBetas!] }
    assert.deepEqual(plan(sigmoid, 7).table, plan(given, 7).table)
    assert.notDeepEqual(plan(sigmoid, 7).table, plan({ ...sigmoid, beta_schedule: 'linear' }, 7).table)
  })

  it('lambda_min_clipped leaves out what is noisier, -Infinity nothing', () => {
    const dpm = { _class_name: 'DPMSolverMultistepScheduler', beta_schedule: 'squaredcos_cap_v2' }
    assert.deepEqual(timesteps(plan({ ...dpm, lambda_min_clipped: -Infinity }, 5)), timesteps(plan(dpm, 5)))
    const [first] = timesteps(plan({ ...dpm, lambda_min_clipped: -5.1 }, 5))
    assert.equal(timesteps(plan(dpm, 5))[0], 999)
    // alpha_bar is cos^2: log(alpha / sigma) is -5.1 where it is 1 / (1 + exp(10.2)).
    const angle = Math.acos(Math.sqrt((1 / (1 + Math.exp(10.2))) * Math.cos((0.008 / 1.008) * (Math.PI / 2)) ** 2))
    assert.ok(Math.abs(first - ((angle / (Math.PI / 2)) * 1.008 - 0.008) * 1000) < 2, String(first))
    const trailing = { ...dpm, lambda_min_clipped: -5.1, timestep_spacing: 'trailing' }
    assert.throws(() => plan(trailing, 5), { code: 'unsupported', argument: 'lambda_min_clipped' })
    for (const field of ['use_lu_lambdas', 'use_flow_sigmas']) {
      assert.throws(() => plan({ ...dpm, [field]: true }, 5), { code: 'unsupported', argument: field })
      assert.ok(plan({ ...dpm, [field]: false }, 5))
    }
    const [even, ...others] = ['', 'use_karras_sigmas', 'use_beta_sigmas', 'use_exponential_sigmas'].map((field) =>
      String(timesteps(plan({ ...dpm, [field]: true }, 5))),
    )
    assert.equal(new Set([even, ...others]).size, 4)
    const both = { ...dpm, use_beta_sigmas: true, use_karras_sigmas: true }
    assert.throws(() => plan(both, 5), { code: 'invalid-argument', argument: 'use_beta_sigmas' })
  })

  it("steps_offset is the model's, too: what its own spacing 'leading' takes", async () => {
    const config = { timestep_spacing: 'leading', steps_offset: 1 }
    using ddpm = new DDPM({
      model: (x) => x,
      imageSize: 2,
      channels: 1,
      ...settingsOfScheduler(config),
      device: testDevice,
    })
    const seen: number[] = []
    const onStep = ({ t }: { t: number }) => seen.push(t)
    await ddpm.sample({ batchSize: 1, steps: 4, onStep })
    assert.deepEqual(seen.splice(0), [751, 501, 251, 1])
    await ddpm.sample({ batchSize: 1, steps: 4, sampler: 'ddim', timestepSpacing: 'leading', onStep })
    assert.deepEqual(seen, timesteps(plan({ _class_name: 'DDIMScheduler', ...config }, 4)))
  })
})

for (const name of ['scheduler_ddpm', 'scheduler_ddim', 'scheduler_dpmsolver_multistep']) {
  describe(name, () => {
    it('every case: timesteps, states and predictions of x_0', async () => {
      const fixture = await Fixture.load(name)
      const { rtol } = fixture.tolerance.suggest
      for (const c of fixture.config.cases) {
        const { eta, use_clipped_model_output: clippedNoise } = c.step_args
        const T = c.scheduler.num_train_timesteps
        let calls = 0
        using ddpm = new DDPM({
          timesteps: T,
          device: testDevice,
          model: () => fixture.row(`in/${c.id}/model_output`, calls++),
        })
        let drawn = 0
        const zero = Tensor.from(new Float32Array(96), fixture.config.shape)
        const given = c.custom_timesteps ? { timesteps: c.custom_timesteps } : { steps: c.num_inference_steps }
        const seen: number[] = []
        const states: Tensor[] = []
        const sampling = ddpm.pSampleLoop(fixture.config.shape, {
          scheduler: { _class_name: fixture.config.class, ...c.scheduler },
          ...given,
          ...(fixture.config.class === 'DDIMScheduler' && { eta, clippedNoise }),
          xT: fixture.tensor(`in/${c.id}/sample`),
          noise: (i) => (c.noise_drawn_at_step[i] ? fixture.row(`in/${c.id}/noise`, drawn++) : zero),
          returnIntermediates: true,
          logEveryT: 1,
          onStep: async ({ t, x }) => {
            seen.push(t)
            states.push(Tensor.from(await x.data(), x.shape))
          },
        })
        const { predX0 } = await sampling
        assert.deepEqual(seen, [...fixture.integers(`out/${c.id}/timesteps`)], `${c.id} timesteps`)
        for (const [i, state] of states.entries()) {
          const expected = await fixture.row(`out/${c.id}/prev_sample`, i).data()
          assertCloseToScale(await state.data(), expected, rtol, `${c.id} state ${i}`)
          if (!fixture.has(`out/${c.id}/pred_original_sample`)) continue
          const x0 = await fixture.row(`out/${c.id}/pred_original_sample`, i).data()
          assertCloseToScale(await predX0[i + 1].data(), x0, rtol, `${c.id} x0 ${i}`)
        }
      }
    })
  })
}
