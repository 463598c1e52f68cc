/** Models whose weights are held in 16 or 8 bits: what they sample, what of them is refused, what they keep. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { inspect } from 'node:util'
import { writeLora } from '../../lib/checkpoint/lora-file'
import {
  AutoencoderKL,
  AutoencoderTraining,
  BERTEmbedder,
  Classifier,
  DDPM,
  type DDPMOptions,
  Device,
  type DiffusionError,
  IdentityFirstStage,
  LatentDiffusion,
  loadModel,
  Tensor,
  type UNet,
} from '../../lib/index'
import type { WeightFormat } from '../../lib/native'
import { assertClose, assertSameBits } from '../support/compare'
import { devicesOfFormat, testedBackends } from '../support/devices'
import { devicesWith } from '../support/mixed'
import { Random } from '../support/random'
import { smallUNet } from '../support/small-unet'
import { Fixture, goldenModel, randomize, settled } from './fixture'

const ldm = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm')
const narrow = ['fp16', 'bf16', 'int8'] as const
const base: DDPMOptions = { unetConfig: smallUNet, timesteps: 50, seed: 4, useEma: false }
const drawn = { batchSize: 2, steps: 4, seed: 3, sampler: 'ddim' } as const
const image = async (ddpm: DDPM) => (await ddpm.sample(drawn)).data()

/** The farthest from fp32 that a pixel of fifty steps may be, of images in [-1, 1]; 1.8e-3, 3.1e-2 and 7.0e-2 are measured. */
const chain = { fp16: 3e-3, bf16: 4.5e-2, int8: 0.1 } as const

let folder: string
before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-weight-format-'))
})
after(() => rm(folder, { recursive: true }))
const at = (name: string) => path.join(folder, name)

for (const weightFormat of narrow) {
  for (const device of devicesOfFormat(weightFormat)) {
    describe(`models with ${weightFormat} weights on ${device}`, () => {
      it('a chain of fifty steps ends near that of fp32', async () => {
        const fixture = await Fixture.load('sampling_T50')
        using ddpm = await goldenModel(fixture, { device, weightFormat })
        const [, ...shape] = fixture.config.shape
        const size = shape.reduce((a: number, b: number) => a * b, 1)
        const first = async (rows: Tensor) => Tensor.from((await rows.data()).slice(0, size), [1, ...shape])
        const samples = await ddpm.pSampleLoop([1, ...shape], {
          xT: await first(fixture.tensor('in/ddpm/x_T')),
          noise: (i) => first(fixture.row('in/ddpm/noise', i)),
        })
        const expected = fixture.numbers('out/ddpm/final').slice(0, size)
        const actual = await samples.data()
        assertClose(actual, expected, { abs: chain[weightFormat], rel: 0 }, 'final state')
      })

      it('state dicts are what is computed with, and averages are held alike', async () => {
        using ddpm = await randomize(new DDPM({ ...base, device, weightFormat, useEma: true }))
        const dict = await ddpm.stateDict()
        using wide = new DDPM({ ...base, device, useEma: true })
        await wide.loadStateDict(dict)
        assertSameBits(await image(ddpm), await image(wide), 'image')
        assertSameBits(await ddpm.emaScope(() => image(ddpm)), await wide.emaScope(() => image(wide)), 'of averages')
        using again = new DDPM({ ...base, device, weightFormat, useEma: true })
        await again.loadStateDict(dict)
        if (weightFormat !== 'int8') assertSameBits(await image(again), await image(ddpm), 'again')
        assert.equal(wide.config.weightFormat, undefined)
        assert.deepEqual(ddpm.config, wide.config)
        const part = ddpm.memoryInfo().weightBytes / wide.memoryInfo().weightBytes
        assert.ok(part < (weightFormat === 'int8' ? 0.3 : 0.53), `${part} of the memory`)
        assert.match(inspect(ddpm), new RegExp(`weights in ${weightFormat}`))
      })

      if (devicesWith('bf16').includes(device)) {
        it("in precision 'bf16' are those of float32 weights of the same values", async () => {
          using ddpm = await randomize(new DDPM({ ...base, device, weightFormat, precision: 'bf16' }))
          using wide = new DDPM({ ...base, device, precision: 'bf16' })
          await wide.loadStateDict(await ddpm.stateDict())
          assertSameBits(await image(ddpm), await image(wide), 'image')
        })
      }

      it('low-rank updates are added to what is held, or are beside it', async () => {
        using wide = await randomize(new DDPM({ ...base, device }))
        const random = new Random(5)
        const modules = ['middle_block.1.qkv', 'input_blocks.1.0.in_layers.2']
        const updates = new Map(
          modules.map((module) => {
            const { shape } = wide.network!.parameters.get(`${module}.weight`)!
            const [outs, ...ins] = shape
            const rest = ins.length === 3 ? [1, 1] : []
            const fan = ins.reduce((a, b) => a * b, 1)
            const down = Tensor.from(random.normals(2 * fan, 0.05), [2, ...(ins.length === 3 ? ins : [fan])])
            const up = Tensor.from(random.normals(2 * outs, 0.05), [outs, 2, ...rest])
            return [module, { down, up, scale: 1 }] as const
          }),
        )
        const file = at(`${weightFormat}.safetensors`)
        await writeLora(file, updates, 'peft')
        using ddpm = new DDPM({ ...base, device, weightFormat })
        await ddpm.loadStateDict(await wide.stateDict())
        using held = new DDPM({ ...base, device })
        await held.loadStateDict(await ddpm.stateDict())
        for (const merge of [true, false]) {
          using expected = await held.withLoras([{ path: file }], { merge })
          using model = await ddpm.withLoras([{ path: file }], { merge })
          assert.equal(model.network!.parameters.format, weightFormat)
          const [a, b] = [await image(model), await image(expected)]
          if (!merge) assertSameBits(a, b, 'beside')
          else {
            using rounded = new DDPM({ ...base, device, weightFormat })
            await rounded.loadStateDict(await expected.stateDict())
            assertSameBits(a, await image(rounded), 'merged')
          }
          await assert.rejects(async () => model.configureOptimizers({ lr: 1 }), { argument: 'weightFormat' })
        }
      })

      it('a conditioning stage that was trained with the network is computed with it, whatever either is held in', async () => {
        for (const ofStage of [weightFormat, 'fp32'] as const) {
          const make = (o: { weightFormat?: WeightFormat }, stage = o) => {
            const text = { nEmbed: 16, nLayer: 1, vocabSize: 9, maxSeqLen: 4 }
            return new LatentDiffusion({
              unetConfig: { ...smallUNet, useSpatialTransformer: true, contextDim: 16 },
              ...{ firstStage: new IdentityFirstStage(), condStage: new BERTEmbedder({ ...text, device, ...stage }) },
              ...{
                conditioningKey: 'crossattn',
                condStageTrainable: true,
                learnLogvar: true,
                timesteps: 20,
                device,
                ...o,
              },
            })
          }
          using model = make({ weightFormat }, { weightFormat: ofStage })
          using wide = make({})
          await randomize(model)
          await wide.loadStateDict(await model.stateDict())
          const x = Tensor.from(new Random(2).normals(2 * 3 * 64), [2, 3, 8, 8])
          const xc = Tensor.from(Int32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
          const [a, b] = [model, wide].map((each) => each.pLosses(x, [3, 17], x, { xc }))
          assert.equal((await a).loss, (await b).loss)
        }
      })

      it('a pipeline is held narrow with its stages, which are given back and read again', async () => {
        const prompt = { prompt: 'a cat', steps: 4, seed: 1 }
        const pipeline = path.join(ldm, 'diffusers_sd')
        using model = await LatentDiffusion.fromPretrained(pipeline, { device, weightFormat })
        const { firstStageModel, condStageModel } = model as unknown as Record<string, AutoencoderKL>
        for (const stage of [firstStageModel, condStageModel]) {
          assert.equal(stage.weightFormat, weightFormat)
          assert.equal(stage.parameters.format, weightFormat)
        }
        const first = await (await model.sample(prompt)).data()
        await firstStageModel.offload()
        await condStageModel.offload()
        assert.ok(!firstStageModel.loaded && !condStageModel.loaded)
        assertSameBits(await (await model.sample(prompt)).data(), first, 'again')
        using wide = await LatentDiffusion.fromPretrained(pipeline, { device })
        await wide.loadStateDict(await model.stateDict())
        assertSameBits(await (await wide.sample(prompt)).data(), first, 'the same values in fp32')
        await assert.rejects(model.savePretrained(at('pipeline')), { code: 'unsupported', argument: 'weightFormat' })
        assert.ok(!existsSync(at('pipeline')))
      })
    })
  }
}

describe('a file of fp16', () => {
  it('has the same bits held in fp16 as in fp32', async () => {
    using ddpm = await randomize(new DDPM(base))
    await ddpm.savePretrained(at('half'), { variant: 'fp16' })
    using wide = await DDPM.fromPretrained(at('half'), { variant: 'fp16', device: 'cpu' })
    using half = await loadModel(at('half'), { variant: 'fp16', device: 'cpu', weightFormat: 'fp16' })
    assert.equal(half.network!.parameters.format, 'fp16')
    assertSameBits(await image(half), await image(wide), 'image')
    assert.ok(half.memoryInfo().weightBytes < 0.53 * wide.memoryInfo().weightBytes)
  })
})

describe('what narrow weights are not for', () => {
  const refusal = (received: WeightFormat) => ({
    code: 'unsupported',
    argument: 'weightFormat',
    expected: "'fp32'",
    received: `'${received}'`,
  })

  it('training of a model, before anything is taken', async () => {
    using ddpm = new DDPM({ ...base, device: 'cpu', weightFormat: 'fp16' })
    const x = await Tensor.randn([1, 3, 8, 8], { seed: 1 })
    await settled(ddpm.device)
    const { inUse } = ddpm.device.memoryInfo()
    const calls: Record<string, () => unknown> = {
      configureOptimizers: () => ddpm.configureOptimizers({ lr: 1 }),
      trainBatch: () => ddpm.trainBatch(x),
      trainingStep: () => ddpm.trainingStep({ image: x }),
      lossAndGradients: () => ddpm.lossAndGradients(x, [1]),
      trainingState: () => ddpm.trainingState(),
      loadTrainingState: () => ddpm.loadTrainingState({} as never),
      onTrainBatchEnd: () => ddpm.onTrainBatchEnd(),
    }
    for (const [name, call] of Object.entries(calls)) {
      await assert.rejects(async () => call(), refusal('fp16'), name)
    }
    assert.equal(ddpm.device.memoryInfo().inUse, inUse)
    assert.ok((await ddpm.pLosses(x, [1])).loss > 0)
    using lora = new DDPM({ ...base, device: 'cpu', weightFormat: 'int8', lora: { rank: 2 } })
    assert.throws(() => lora.configureOptimizers({ lr: 1 }), refusal('int8'))
  })

  it('training of a classifier and of a first stage', async () => {
    const encoderConfig = { ...smallUNet, outChannels: 2, pool: 'adaptive' } as const
    using classifier = new Classifier({ encoderConfig, device: 'cpu', weightFormat: 'bf16', timesteps: 50 })
    assert.throws(() => classifier.configureOptimizers({ lr: 1 }), refusal('bf16'))
    await assert.rejects(classifier.save(at('classifier.safetensors')), refusal('bf16'))
    const fixture = path.join(ldm, 'diffusers_sd', 'vae')
    using stage = await AutoencoderKL.fromPretrained(fixture, { device: 'cpu', weightFormat: 'int8' })
    assert.throws(() => new AutoencoderTraining(stage), refusal('int8'))
    await assert.rejects(stage.savePretrained(at('vae')), refusal('int8'))
    assert.ok(!existsSync(at('vae')))
  })

  it('files', async () => {
    using ddpm = new DDPM({ ...base, device: 'cpu', weightFormat: 'int8' })
    await assert.rejects(ddpm.savePretrained(at('folder')), refusal('int8'))
    await assert.rejects(ddpm.exportOnnx(at('model.onnx')), refusal('int8'))
    await assert.rejects(ddpm.pushToHub('a/b'), refusal('int8'))
    assert.ok(!existsSync(at('folder')) && !existsSync(at('model.onnx')))
  })

  it('functions, devices that do not take them, and networks of another model', async () => {
    const options = { model: async (x: Tensor) => x, weightFormat: 'fp16' } as const
    assert.throws(() => new DDPM(options), { code: 'invalid-argument', argument: 'weightFormat' })
    assert.throws(() => new DDPM({ ...base, weightFormat: 'fp8' as 'fp16' }), { argument: 'weightFormat' })
    for (const device of testedBackends.filter((name) => !Device.open(name).info().weightFormats.includes('fp16'))) {
      const { inUse } = Device.open(device).memoryInfo()
      const expected = { code: 'unsupported', argument: 'weightFormat', expected: "'fp32'", received: 'fp16' }
      assert.throws(() => new DDPM({ ...base, device, weightFormat: 'fp16' }), expected)
      const vae = path.join(ldm, 'diffusers_sd', 'vae')
      await assert.rejects(AutoencoderKL.fromPretrained(vae, { device, weightFormat: 'fp16' }), expected)
      assert.equal(Device.open(device).memoryInfo().inUse, inUse)
    }
    using ddpm = await randomize(new DDPM({ ...base, device: 'cpu', weightFormat: 'fp16' }))
    const model = ddpm.network as UNet
    assert.throws(() => new DDPM({ model, device: 'cpu' }), { code: 'invalid-argument', argument: 'model' })
    new DDPM({ model, device: 'cpu', weightFormat: 'fp16' }).dispose()
    // `weights` is which of a file's are taken.
    assert.throws(() => new DDPM({ ...base, weights: 'fp16' } as never), /did you mean 'weightFormat'/)
    const mistaken = { weights: 'fp16' } as never
    for (const open of [
      () => loadModel(undefined, mistaken),
      () => DDPM.fromPretrained(path.join(ldm, '..', 'diffusers_ddpm'), mistaken),
      () => LatentDiffusion.fromPretrained(path.join(ldm, 'diffusers_sd'), mistaken),
      () => LatentDiffusion.fromSingleFile(at('none.ckpt'), mistaken),
    ]) {
      await assert.rejects(open, { code: 'invalid-argument', argument: 'weights', message: /weightFormat/ })
    }
  })

  it('memory that is enough: what does not fit says which formats would, and they do', async () => {
    const device = Device.open('cpu', { threads: 3 })
    const sample = async (memoryLimit: number | 'auto', weightFormat?: WeightFormat) => {
      using ddpm = new DDPM({ ...base, device, memoryLimit, weightFormat })
      await ddpm.sample({ ...drawn, batchSize: 1 })
      return ddpm.memoryInfo().weightBytes
    }
    const refused = async (memoryLimit: number): Promise<DiffusionError> => {
      await device.synchronize()
      return sample(memoryLimit)
        .then(() => assert.fail(`it fits ${memoryLimit} bytes`))
        .catch((error) => error)
    }
    const weightBytes = await sample('auto')
    const needed = Number(/\d+/.exec((await refused(1e6)).expected!)![0])
    for (const [less, expected] of [
      [0.3, ['fp16', 'int8']],
      [0.6, ['int8']],
      [1.2, []],
    ] as const) {
      const memoryLimit = Math.floor(needed - less * weightBytes)
      const { message, code } = await refused(memoryLimit)
      assert.equal(code, 'out-of-memory')
      const advised = narrow.filter((format) => message.includes(`weightFormat: '${format}'`))
      assert.deepEqual(advised, expected, message)
      for (const format of advised) {
        await device.synchronize()
        await sample(memoryLimit, format)
      }
    }
    Device.open(device, { memoryLimit: 'auto' })
  })
})
