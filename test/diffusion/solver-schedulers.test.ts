// diffusers' DEIS, PNDM and UniPC, by chains that they computed; LCM by its definition.
import assert from 'node:assert/strict'
import { schedulerOfSettings } from '../../lib/diffusion/formats/diffusers-scheduler'
import { schedulerPlan } from '../../lib/diffusion/sampling/diffusers/plans'
import { schemas } from '../../lib/diffusion/sampling/diffusers/scheduler-config'
import { lcmTimesteps } from '../../lib/diffusion/sampling/lcm'
import { DDPM, Tensor } from '../../lib/index'
import { normal, Purpose } from '../../lib/rng'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { Fixture } from './fixture'

/** Cases that can't be expressed, and the field that says so. */
const refused: Record<string, string> = { sample_no_x0: 'predict_x0' }

for (const name of ['deis', 'dpmsolver_singlestep', 'pndm', 'unipc']) {
  describe(`scheduler_${name}`, () => {
    it('every case: timesteps, and states at each evaluation', async () => {
      const fixture = await Fixture.load(`scheduler_${name}`)
      const { rtol } = fixture.tolerance.suggest
      for (const c of fixture.config.cases) {
        const T = c.scheduler.num_train_timesteps ?? 1000
        const scheduler = { _class_name: fixture.config.class, ...c.scheduler }
        const steps = c.num_inference_steps
        if (c.id in refused) {
          assert.throws(() => schedulerPlan(scheduler, T, { steps }), { code: 'unsupported', argument: refused[c.id] })
          continue
        }
        const states: Float32Array[] = []
        const seen: number[] = []
        using ddpm = new DDPM({
          timesteps: T,
          device: testDevice,
          model: async (x, t) => {
            states.push(await x.data())
            seen.push((await t.data())[0])
            return fixture.row(`in/${c.id}/model_output`, states.length - 1)
          },
        })
        const xT = fixture.tensor(`in/${c.id}/sample`)
        const loop = ddpm.pSampleLoop(fixture.config.shape, { scheduler, steps, xT, returnIntermediates: false })
        states.push(await (await loop).data())
        assert.deepEqual(seen, [...fixture.integers(`out/${c.id}/timesteps`)], `${c.id} timesteps`)
        for (const [i, state] of states.slice(1).entries()) {
          const expected = await fixture.row(`out/${c.id}/prev_sample`, i).data()
          assertCloseToScale(await state, expected, rtol, `${c.id} state ${i}`)
        }
      }
    })
  })
}

describe('the configuration of a model', () => {
  it('is that of any class by its name alone, and image i of a seed is the same in any batch', async () => {
    for (const timesteps of [20, 1000]) {
      using ddpm = new DDPM({
        imageSize: 2,
        channels: 1,
        timesteps,
        device: testDevice,
        model: async (x) => Tensor.from((await x.data()).map(Math.tanh), x.shape),
      })
      const config = schedulerOfSettings({
        betas: ddpm.betas,
        vPosterior: 0,
        varianceType: 'fixed',
        clipDenoised: false,
        parameterization: 'eps',
        timestepSpacing: 'leading',
      })
      const drawn: Record<string, Float32Array> = {}
      for (const _class_name of Object.keys(schemas)) {
        const scheduler = { ...config, original_inference_steps: 10, _class_name }
        const draw = async (batchSize: number, sampleOffset: number) =>
          (await ddpm.sample({ batchSize, sampleOffset, steps: 6, seed: 3, scheduler })).data()
        const both = await draw(2, 0)
        assertSameBits(both.slice(4), await draw(1, 1), _class_name)
        drawn[_class_name] = both
      }
      // One process by two formulas, and the probability flow by two.
      const same = { abs: 1e-4, rel: 1e-4 }
      assertClose(drawn.EulerAncestralDiscreteScheduler, drawn.DDPMScheduler, same, 'with noise')
      assertClose(drawn.EulerDiscreteScheduler, drawn.DDIMScheduler, same, 'without')
      assert.deepEqual(ddpm.warnings(), [])
    }
  })
})

describe('predictions of x_0 on the way', () => {
  it('are the image where the network knows it, also of solvers for the noise', async () => {
    const image = 0.3
    const latent = { beta_schedule: 'scaled_linear', beta_start: 0.00085, beta_end: 0.012 }
    let product = 1
    const bars = Array.from({ length: 1000 }, (_, t) => {
      const root = Math.sqrt(0.00085) + ((Math.sqrt(0.012) - Math.sqrt(0.00085)) * t) / 999
      product *= 1 - root ** 2
      return product
    })
    using ddpm = new DDPM({
      imageSize: 2,
      channels: 1,
      device: testDevice,
      model: async (x, t) => {
        const bar = bars[(await t.data())[0]]
        const noise = (await x.data()).map((v) => (v - Math.sqrt(bar) * image) / Math.sqrt(1 - bar))
        return Tensor.from(noise, x.shape)
      },
    })
    const schedulers = [
      { _class_name: 'DPMSolverSinglestepScheduler', algorithm_type: 'dpmsolver', final_sigmas_type: 'sigma_min' },
      { _class_name: 'DEISMultistepScheduler' },
      { _class_name: 'LMSDiscreteScheduler', timestep_spacing: 'leading' },
      { _class_name: 'PNDMScheduler' },
    ]
    for (const scheduler of schedulers) {
      const { predX0 } = await ddpm.sample({
        batchSize: 1,
        steps: 9,
        seed: 2,
        scheduler: { solver_order: 3, ...latent, ...scheduler },
        returnIntermediates: true,
        logEveryT: 1,
      })
      assert.equal(predX0.length, 10)
      for (const x0 of predX0.slice(1)) {
        assertClose(await x0.data(), [image, image, image, image], { abs: 2e-3, rel: 0 }, scheduler._class_name)
      }
    }
  })
})

describe('LCMScheduler', () => {
  it('takes timesteps of the 50 that a model was distilled with', () => {
    assert.deepEqual(lcmTimesteps(4, 50, 1000), [999, 759, 499, 259])
    assert.deepEqual(lcmTimesteps(1, 50, 1000), [999])
    assert.deepEqual(
      lcmTimesteps(50, 50, 100),
      Array.from({ length: 50 }, (_, i) => 99 - 2 * i),
    )
    assert.equal(lcmTimesteps(51, 50, 1000), undefined)
  })

  it('goes from predictions of x_0 to the next timestep by fresh noise', async () => {
    const image = Tensor.from([0.5, -0.25, 0.1, 0.9], [1, 1, 2, 2])
    const states: Float32Array[] = []
    using ddpm = new DDPM({
      parameterization: 'x0',
      imageSize: 2,
      channels: 1,
      device: testDevice,
      model: async (x) => {
        states.push(await x.data())
        return image
      },
    })
    const scheduler = { _class_name: 'LCMScheduler', prediction_type: 'sample' }
    const samples = await (await ddpm.sample({ batchSize: 1, steps: 2, seed: 4, scheduler })).data()
    let product = 1
    for (let t = 0; t <= 499; t++) {
      const root = Math.sqrt(0.00085) + ((Math.sqrt(0.012) - Math.sqrt(0.00085)) * t) / 999
      product *= 1 - root ** 2
    }
    const pixels = await image.data()
    const noise = normal(4, Purpose.posterior, 0, 0, 4)
    // At these timesteps the boundary condition leaves a millionth of the state.
    const expected = pixels.map((v, i) => Math.sqrt(product) * v + Math.sqrt(1 - product) * noise[i])
    assertClose(states[1], expected, { abs: 2e-5, rel: 0 }, 'the second state')
    assertClose(samples, pixels, { abs: 2e-5, rel: 0 }, 'samples')
  })

  it('refuses more steps than the model was distilled with', async () => {
    using ddpm = new DDPM({ model: (x) => x, imageSize: 2, channels: 1, device: testDevice })
    const scheduler = { _class_name: 'LCMScheduler', original_inference_steps: 10 }
    await assert.rejects(ddpm.sample({ steps: 11, scheduler }), { code: 'invalid-argument', argument: 'steps' })
  })
})
