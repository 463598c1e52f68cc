// Trainings with non-leaking augmentation: the network is told, resumes are exact, samples know nothing of it.
import assert from 'node:assert/strict'
import path from 'node:path'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { loadModel } from '../../lib/convert/load-model'
import { Tensor } from '../../lib/tensor'
import { openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import type { TrainOptions } from '../../lib/train/options'
import type { TrainHooks } from '../../lib/trainer/hooks'
import { Trainer } from '../../lib/trainer/trainer'
import { testedBackends } from '../support/devices'
import {
  heldOutOf,
  numbers,
  runCli,
  stepsOf,
  stopAt,
  temporaryFolder,
  tinyFlags,
  tinyModel,
  tinyTraining,
  writeImages,
} from './support'

describe('a training with augmentation', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  const at = (name: string) => path.join(folder, name)
  const train = (options: TrainOptions, hooks?: TrainHooks) => new Trainer(options).run(hooks)
  const weightsOf = async (run: string) => (await readTrainingState(await openCheckpoint(run))).weights

  before(() => writeImages(data, 12))

  for (const device of testedBackends) {
    it(`resumes to the bit, with held-out losses (${device})`, async () => {
      const short = { steps: 3, batchSize: 1, validationCount: 1, model: { ...tinyModel } }
      const plan = {
        augment: 0.5,
        lr: 1e-2,
        validation: 0.3,
        validationEvery: 2,
        ...(device !== 'cpu' && short),
        device,
      }
      const [whole, broken] = [at(`whole-${device}`), at(`broken-${device}`)]
      await train(tinyTraining(data, whole, plan))
      await train(tinyTraining(data, broken, plan), stopAt(2))
      await train({ data, out: broken, resume: true, device })
      assert.deepEqual(numbers(stepsOf(broken)), numbers(stepsOf(whole)))
      assert.deepEqual(heldOutOf(broken), heldOutOf(whole))
      const layer = await (await weightsOf(whole))['map_augment.weight'].data()
      assert.ok(layer.some((v) => v !== 0))
      assert.deepEqual(await (await weightsOf(broken))['map_augment.weight'].data(), layer)
    })
  }

  it('is another training than without, and than one that is not told', async () => {
    const losses = async (name: string, augment?: number) => {
      await train(tinyTraining(data, at(name), { augment }))
      return numbers(stepsOf(at(name)))
    }
    const [none, flips, all] = [await losses('none'), await losses('flips', 0), await losses('all', 0.9)]
    assert.notDeepEqual(all, flips)
    // A new network gives zeros, whatever it is told.
    assert.equal(flips[0][1], none[0][1])
    assert.notDeepEqual(flips.at(-1), none.at(-1))
  })

  it('its model samples without being told', async () => {
    const { model } = await train(tinyTraining(data, at('model'), { augment: 0.12 }))
    using ddpm = await loadModel(model!, { device: 'cpu' })
    assert.deepEqual([ddpm.network?.vectorDim, ddpm.network?.vectorIsOptional], [9, true])
    assert.deepEqual((await ddpm.sample({ batchSize: 1, seed: 1 })).shape, [1, 3, 8, 8])
  })

  it('starts from a model that was told nothing', async () => {
    await train(tinyTraining(data, at('base'), { steps: 2 }))
    const from = { data, from: at('base'), steps: 2, batchSize: 4, sampleEvery: 0, device: 'cpu', augment: 0.5 }
    await train({ ...from, out: at('tuned'), lr: 1e-2 })
    const layer = await (await weightsOf(at('tuned')))['map_augment.weight'].data()
    assert.ok(layer.some((v) => v !== 0))
    // Without a step, what is not told is the same network as before.
    await train({ ...from, out: at('still'), lr: 0, weightDecay: 0 })
    const [before, after] = [await weightsOf(at('base')), await weightsOf(at('still'))]
    for (const [name, tensor] of Object.entries(before))
      assert.deepEqual(await after[name].data(), await tensor.data(), name)
    const { model } = await train({ ...from, out: at('lora'), model: { lora: { rank: 2 } } })
    using ddpm = await loadModel(model!, { device: 'cpu' })
    assert.equal(ddpm.network?.vectorDim, 9)
    const names = Object.keys((await readStateDictFile(path.join(at('lora'), 'lora.safetensors'))).tensors)
    assert.ok(names.length > 0 && names.every((name) => !name.includes('map_augment')))
  })

  it('samples show nothing of it', async () => {
    // The upper left quarter is dark, mirrored or not.
    const pixels = Uint8Array.from({ length: 64 }, (_, i) => (i % 8 < 4 && i < 32 ? 0 : 255))
    const options: TrainOptions = {
      ...{ data: { length: 8, get: () => ({ data: pixels, width: 8, height: 8, channels: 1 }) }, out: at('quarter') },
      ...{ steps: 250, batchSize: 16, lr: 3e-3, warmup: 10, sampleEvery: 0, device: 'cpu', flip: true, augment: 0.05 },
      model: {
        ...{ timesteps: 50, parameterization: 'v', betaSchedule: 'cosine', zeroTerminalSnr: true, emaDecay: 0.95 },
        unetConfig: {
          ...{ imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1, 2] },
          ...{ numResBlocks: 1, attentionResolutions: [], useScaleShiftNorm: true },
        },
      },
    }
    const { model } = await train(options)
    using ddpm = await loadModel(model!, { device: 'cpu' })
    /** How many of 16 samples are dark in the left and in the right upper corner. */
    const corners = async (told?: readonly number[]) => {
      const vector = told && Tensor.from(Array<readonly number[]>(16).fill(told).flat(), [16, 9])
      const path = { sampler: 'ddim', steps: 10, timestepSpacing: 'trailing' } as const
      const x = await (await ddpm.sample({ ...path, batchSize: 16, seed: 1, vector })).data()
      return [0, 7].map((corner) => Array.from({ length: 16 }, (_, i) => x[64 * i + corner] < 0).filter(Boolean).length)
    }
    // Of a network that is told nothing, half.
    const [left, right] = await corners()
    assert.ok(left >= 15 && right <= 1, `${left} left, ${right} right`)
    const mirrored = await corners([1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert.ok(mirrored[0] <= 1 && mirrored[1] >= 15, `mirrored: ${mirrored}`)
  })

  it('what does not go with it is refused', () => {
    const rejects = (options: Partial<TrainOptions>, argument: string) =>
      assert.throws(() => new Trainer(tinyTraining(data, at('no'), { augment: 0.1, ...options })), {
        name: 'DiffusionError',
        code: 'invalid-argument',
        argument,
      })
    const unet = (change: object) => ({ model: { ...tinyModel, unetConfig: { ...tinyModel.unetConfig, ...change } } })
    rejects({ augment: 1.5 }, 'augment')
    rejects(unet({ vectorEmbedding: 'identity' }), 'model.unetConfig.vectorEmbedding')
    rejects(unet({ vectorDim: 6 }), 'model.unetConfig.vectorDim')
    rejects({ model: { unetConfig: { architecture: 'lucidrains', dim: 8, imageSize: 8 } as never } }, 'augment')
    for (const change of [{ vectorEmbedding: 'identity' }, { vectorDim: 6 }]) {
      rejects({ ...unet(change), augment: undefined }, 'model.unetConfig.vectorEmbedding')
    }
    rejects({ data: { batch: () => new Float32Array(0) } as never, flip: false }, 'augment')
  })

  it('ddpm train --augment', async () => {
    const run = ['train', data, '--out', at('cli'), '--steps', '2', '--augment', '0.25', ...tinyFlags]
    const { code, stdout, stderr } = await runCli(run)
    assert.equal(code, 0, stderr)
    assert.match(stdout + stderr, /augmented \(each kind 25%\)/)
    assert.equal((await openCheckpoint(at('cli'))).state.options.augment, 0.25)
    const sampled = await runCli([
      'sample',
      '--checkpoint',
      at('cli'),
      '--count',
      '1',
      '--steps',
      '2',
      '--output',
      at('a.png'),
      '--device',
      'cpu',
    ])
    assert.equal(sampled.code, 0, sampled.stderr)
    const other = await runCli(['train', '--resume', '--out', at('cli'), '--augment', '0.5', '--steps', '4'])
    assert.notEqual(other.code, 0)
    assert.match(other.stderr, /--augment is 0.25 in the checkpoint/)
  })
})
