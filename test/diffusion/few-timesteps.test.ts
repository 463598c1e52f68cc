// Every sampler and every scheduler of diffusers draws with the command line's default steps, whatever number of timesteps there is.
import assert from 'node:assert/strict'
import { defaultStepsOf } from '../../lib/cli/draw'
import { samplers } from '../../lib/diffusion/sampling/sampler-names'
import { sigmaSchedules } from '../../lib/diffusion/sampling/sigmas'
import { DDPM, type SampleOptions, type SchedulerConfig, Tensor } from '../../lib/index'

const classes = [
  'DDPM',
  'DDIM',
  'PNDM',
  'DPMSolverMultistep',
  'DPMSolverSinglestep',
  'EulerDiscrete',
  'EulerAncestralDiscrete',
  'HeunDiscrete',
  'LMSDiscrete',
  'KDPM2Discrete',
  'KDPM2AncestralDiscrete',
  'DPMSolverSDE',
  'DEISMultistep',
  'UniPCMultistep',
  'LCM',
]
const spacings = ['linspace', 'leading', 'trailing'] as const
const firstOfOthers: readonly string[] = ['ddpm', 'ddim', 'plms', 'lcm']
type Options = Omit<SampleOptions, 'returnIntermediates'>

/** The ways to draw with a model of T timesteps, by the steps that the command line takes. */
function* waysOf(T: number): Generator<Options> {
  for (const sampler of samplers) {
    const steps = defaultStepsOf({ sampler }, T)
    yield { sampler, steps }
    if (sampler !== 'plms' && sampler !== 'lcm')
      for (const timestepSpacing of spacings) yield { sampler, steps, timestepSpacing }
    if (!firstOfOthers.includes(sampler)) for (const sigmas of sigmaSchedules) yield { sampler, steps, sigmas }
  }
  for (const name of classes) {
    if (name === 'PNDM' && T < 4) continue // its first steps are four
    for (const timestep_spacing of spacings) {
      const scheduler: SchedulerConfig = { _class_name: `${name}Scheduler`, num_train_timesteps: T, timestep_spacing }
      yield { scheduler, steps: defaultStepsOf({ scheduler }, T) }
    }
  }
}

describe('default steps', () => {
  for (const T of [2, 3, 10, 50, 999, 4000]) {
    it(`of ${T} timesteps`, async () => {
      using ddpm = new DDPM({ model: (x) => x, timesteps: T, imageSize: 2, channels: 1, device: 'cpu' })
      for (const way of waysOf(T)) {
        assert.ok(way.steps! >= 1 && way.steps! <= T)
        using samples = await ddpm.sample({ batchSize: 1, seed: 1, ...way })
        assert.ok((await samples.data()).every(Number.isFinite), JSON.stringify(way))
      }
    }).timeout(60_000)
  }

  it('of a scheduler that can not take so few say so', async () => {
    using ddpm = new DDPM({ model: (x) => x, timesteps: 3, imageSize: 2, channels: 1, device: 'cpu' })
    const draw = (config: SchedulerConfig) =>
      ddpm.sample({ scheduler: { num_train_timesteps: 3, ...config }, steps: 3 })
    await assert.rejects(draw({ _class_name: 'PNDMScheduler' }), { code: 'unsupported', argument: 'skip_prk_steps' })
    await draw({ _class_name: 'PNDMScheduler', skip_prk_steps: true })
    await draw({ _class_name: 'LCMScheduler' })
    const distilled = { _class_name: 'LCMScheduler', original_inference_steps: 50 }
    await assert.rejects(draw(distilled), { code: 'invalid-argument', argument: 'original_inference_steps' })
  })

  it('are as many as a consistency model has', () => {
    const stepsOf = (fields: object) => defaultStepsOf({ scheduler: { _class_name: 'LCMScheduler', ...fields } }, 1000)
    assert.deepEqual([stepsOf({}), stepsOf({ original_inference_steps: 8 })], [25, 8])
  })
})

describe('strength, at its ends', () => {
  const image = Tensor.from([0.1, -0.2, 0.3, 0.9], [1, 1, 2, 2])
  for (const T of [2, 3, 1000]) {
    it(`of ${T} timesteps: nothing, the least step, and all of it`, async () => {
      using ddpm = new DDPM({ model: (x) => x, timesteps: T, imageSize: 2, channels: 1, device: 'cpu' })
      const steps = Math.min(10, T)
      for (const sampler of samplers) {
        const draw = async (strength: number) => {
          using samples = await ddpm.sample({ batchSize: 1, seed: 1, sampler, steps, image, strength })
          return samples.data()
        }
        assert.deepEqual(await draw(0), await image.data(), sampler)
        assert.notDeepEqual(await draw(1 / steps), await image.data(), sampler)
        assert.ok((await draw(1)).every(Number.isFinite), sampler)
        const message = /^strength: expected at least 1\/\d+, a step, or 0, the image itself, got/
        await assert.rejects(draw(0.5 / steps), { code: 'invalid-argument', message })
      }
      const signal = AbortSignal.abort()
      await assert.rejects(ddpm.sample({ batchSize: 1, image, strength: 0, signal }), { code: 'aborted' })
    })
  }
})
