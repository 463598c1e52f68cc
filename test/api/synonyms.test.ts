import assert from 'node:assert/strict'
import { DDPM, loadModel, Trainer } from '../../lib/index'
import { closest } from '../../lib/options'

describe('options by the names of other libraries', () => {
  it('are told what they are called here', async () => {
    using ddpm = new DDPM({ model: (x) => x, imageSize: 2, channels: 1, timesteps: 10, device: 'cpu' })
    const sampling = {
      numInferenceSteps: 'steps',
      num_inference_steps: 'steps',
      generator: 'seed',
      cfg_scale: 'guidanceScale',
      n: 'batchSize',
      numSamples: 'batchSize',
    }
    for (const [name, expected] of Object.entries(sampling)) {
      const message = new RegExp(`'${name}'; did you mean '${expected}'\\?`)
      await assert.rejects(ddpm.sample({ [name]: 5 }), { code: 'unknown-option', expected, message })
    }
    const training = {
      epochs: 'steps',
      learningRate: 'lr',
      batch_size: 'batchSize',
      generator: 'seed',
      outputDir: 'out',
    }
    for (const [name, expected] of Object.entries(training)) {
      const options = { data: 'a', out: 'b', [name]: 1 }
      assert.throws(() => new Trainer(options), { code: 'unknown-option', expected })
    }
    assert.throws(() => new DDPM({ predictionType: 'v' } as object), { expected: 'parameterization' })
    await assert.rejects(loadModel(''), { code: 'invalid-argument', argument: 'source' })
    await assert.rejects(loadModel(undefined, { gpu: 0 } as object), { expected: 'device' })
  })

  it('a slip comes before another word, and what is neither is nothing', () => {
    assert.equal(closest('step', ['steps', 'seed']), 'steps')
    assert.equal(closest('setps', ['steps', 'scale']), 'steps')
    assert.equal(closest('classes', ['classes2', 'classLabels']), 'classes2')
    assert.equal(closest('xylophone', ['steps', 'seed']), undefined)
    assert.equal(closest('generator', ['steps']), undefined)
  })
})
