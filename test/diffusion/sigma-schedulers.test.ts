// diffusers' schedulers after k-diffusion, by chains that they computed.
import assert from 'node:assert/strict'
import { schedulerPlan } from '../../lib/diffusion/sampling/diffusers/plans'
import { DDPM, Tensor } from '../../lib/index'
import { assertClose, assertCloseToScale } from '../support/compare'
import { testDevice } from '../support/devices'
import { Fixture } from './fixture'

/** What is given to `step` and not in a configuration, and so has no counterpart. */
const without = ['churn', 'order1', 'order2_karras', 'v_order3']
const names = ['euler', 'euler_ancestral', 'heun', 'lms', 'kdpm2', 'kdpm2_ancestral']

for (const name of names) {
  describe(`scheduler_${name}`, () => {
    it('every case: timesteps, what the network sees, states and predictions of x_0', async () => {
      const fixture = await Fixture.load(`scheduler_${name}`)
      const { rtol } = fixture.tolerance.suggest
      const { shape } = fixture.config
      for (const c of fixture.config.cases.filter(({ id }: { id: string }) => !without.includes(id))) {
        const T = c.scheduler.num_train_timesteps ?? 1000
        const scheduler = { _class_name: fixture.config.class, ...c.scheduler }
        const { evaluations } = schedulerPlan(scheduler, T, { steps: c.num_inference_steps })
        const seen: Tensor[] = []
        const told: number[] = []
        using ddpm = new DDPM({
          timesteps: T,
          device: testDevice,
          model: async (x, t) => {
            told.push((await t.values())[0])
            seen.push(Tensor.from(await x.data(), x.shape))
            return fixture.row(`in/${c.id}/model_output`, seen.length - 1)
          },
        })
        let drawn = 0
        const zero = Tensor.from(new Float32Array(96), shape)
        // The state is the input that they scale for the network.
        const { samples, predX0 } = await ddpm.pSampleLoop(shape, {
          scheduler,
          steps: c.num_inference_steps,
          xT: fixture.row(`out/${c.id}/scaled_input`, 0),
          noise: (i) => (c.noise_drawn_at_step[i] ? fixture.row(`in/${c.id}/noise`, drawn++) : zero),
          returnIntermediates: true,
          logEveryT: 1,
        })
        assertClose(told, fixture.numbers(`out/${c.id}/timesteps`), { abs: 1e-5, rel: 1e-5 }, `${c.id}: timesteps`)
        for (const [i, state] of seen.entries()) {
          const expected = await fixture.row(`out/${c.id}/scaled_input`, i).data()
          assertCloseToScale(await state.data(), expected, rtol, `${c.id}: input ${i}`)
        }
        // The last has the sigma that it ends with.
        const last = await fixture.row(`out/${c.id}/prev_sample`, evaluations.length - 1).data()
        const sigmas = fixture.numbers(`out/${c.id}/sigmas`)
        const alpha = 1 / Math.sqrt(1 + sigmas[evaluations.length] ** 2)
        const scaled = last.map((v) => v * alpha)
        assertCloseToScale(await samples.data(), scaled, rtol, `${c.id}: the end`)
        if (!fixture.has(`out/${c.id}/pred_original_sample`)) continue
        for (const [i, state] of predX0.slice(1).entries()) {
          const x0 = await fixture.row(`out/${c.id}/pred_original_sample`, i).data()
          assertCloseToScale(await state.data(), x0, rtol, `${c.id} x0 ${i}`)
        }
      }
    })
  })
}

describe('timesteps', () => {
  it('are those of diffusers, early and recent: fractions, and whole ones where its solvers round or cut off', async () => {
    const fixture = await Fixture.load('scheduler_times')
    const kinds = new Set<boolean>()
    for (const { id, scheduler, num_inference_steps: steps } of fixture.config.cases) {
      const { evaluations, fractional } = schedulerPlan(scheduler, 1000, { steps })
      const told = evaluations.map(({ t }) => t)
      // Their noise levels are rounded to float32 on the way; on a cosine schedule that is some thousandth.
      const tolerance = { abs: scheduler.beta_schedule ? 3e-3 : 1e-5, rel: 1e-5 }
      assertClose(
        told,
        fixture.numbers(`out/${id}/timesteps`),
        fractional ? tolerance : { abs: 0, rel: 0 },
        JSON.stringify(scheduler),
      )
      kinds.add(fractional)
    }
    assert.equal(kinds.size, 2)
  })
})

describe('rescale_betas_zero_snr', () => {
  const plan = (name: string, rescaled: boolean) => {
    const config = { prediction_type: 'v_prediction', rescale_betas_zero_snr: rescaled, timestep_spacing: 'trailing' }
    return schedulerPlan({ ...config, _class_name: name }, 1000, { steps: 10 }).evaluations
  }
  it('has no effect on the classes that do not have it, and one on those that do', () => {
    const without = ['Heun', 'LMS', 'KDPM2', 'KDPM2Ancestral'].map((name) => `${name}DiscreteScheduler`)
    const more = ['DPMSolverSDEScheduler', 'DEISMultistepScheduler', 'DPMSolverSinglestepScheduler', 'PNDMScheduler']
    for (const name of [...without, ...more]) assert.deepEqual(plan(name, true), plan(name, false), name)
    for (const name of ['DDIM', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DPMSolverMultistep', 'UniPCMultistep']) {
      assert.notDeepEqual(plan(`${name}Scheduler`, true), plan(`${name}Scheduler`, false), name)
    }
  })
})
