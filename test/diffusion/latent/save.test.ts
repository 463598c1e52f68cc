// Latent models written as folders and read again: pipelines of diffusers, and the layout of our own.
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { readSafetensors } from '../../../lib/checkpoint/safetensors'
import {
  LatentDiffusion,
  type LatentDiffusionOptions,
  type LatentSampleOptions,
  type StateDict,
  Tensor,
} from '../../../lib/index'
import { AutoencoderKL } from '../../../lib/stages/autoencoder-kl'
import { ClassEmbedder } from '../../../lib/stages/class-embedder'
import { IdentityFirstStage } from '../../../lib/stages/identity'
import { SpatialRescaler } from '../../../lib/stages/spatial-rescaler'
import { FrozenOpenCLIPEmbedder } from '../../../lib/stages/text/open-clip'
import { TransformerEmbedder } from '../../../lib/stages/text/transformer'
import { VQModelInterface } from '../../../lib/stages/vq-model'

const fixtures = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures')
const device = 'cpu'

const ddconfig = {
  ...{ ch: 32, outCh: 3, chMult: [1, 2], numResBlocks: 1, attnResolutions: [8], inChannels: 3, resolution: 16 },
  ...{ zChannels: 4, attnType: 'vanilla' as const },
}
const kl = () => new AutoencoderKL({ ddconfig, embedDim: 4, device, seed: 1 })
const vq = (embedDim = 4) =>
  new VQModelInterface({
    ...{ ddconfig: { ...ddconfig, zChannels: embedDim, doubleZ: false }, embedDim, nEmbed: 12, device, seed: 2 },
    saneIndexShape: true,
  })
const unet = {
  ...{ imageSize: 8, inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1, 2], numResBlocks: 1 },
  ...{ attentionResolutions: [2], numHeads: 2, legacy: false },
}
const attending = { ...unet, useSpatialTransformer: true, contextDim: 16 }

function model(options: LatentDiffusionOptions): LatentDiffusion {
  return new LatentDiffusion({ device, seed: 3, timesteps: 20, useEma: false, scaleFactor: 0.25, ...options })
}

/** Weights that begin as zero are none. */
async function drawn(made: LatentDiffusion): Promise<LatentDiffusion> {
  const dict = await made.stateDict()
  let seed = 0
  for (const [name, tensor] of Object.entries(dict)) {
    const stays = !/^(model\.diffusion_model|first_stage_model|cond_stage_model|model_ema\.diffusion_model)/.test(name)
    if (!stays) dict[name] = await scaled(tensor, 0.1, seed++)
  }
  await made.loadStateDict(dict)
  return made
}

async function scaled({ shape }: Tensor, scale: number, seed: number): Promise<Tensor> {
  const values = await Tensor.randn(shape, { seed }).data()
  return Tensor.wrap(
    values.map((v) => scale * v),
    shape,
  )
}

async function same(actual: LatentDiffusion, expected: LatentDiffusion): Promise<void> {
  const [a, b] = [await actual.stateDict(), await expected.stateDict()]
  assert.deepEqual(await numbers(a), await numbers(b))
}

async function numbers(dict: StateDict): Promise<Record<string, ArrayLike<number>>> {
  const entries = Object.entries(dict).sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(await Promise.all(entries.map(async ([name, t]) => [name, await t.values()] as const)))
}

describe('folders of latent models', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'latent-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  const index = async () => JSON.parse(await readFile(path.join(folder, 'model_index.json'), 'utf8'))

  async function roundTrip(made: LatentDiffusion, sample: LatentSampleOptions) {
    await made.savePretrained(folder)
    using read = await LatentDiffusion.fromPretrained(folder, { device })
    const o = { seed: 5, steps: 3, batchSize: 2, ...sample }
    const [a, b] = [await read.sample(o), await made.sample(o)]
    assert.deepEqual(await a.data(), await b.data())
    await same(read, made)
    const { useEma: _, ...config } = made.config
    const { useEma: __, ...found } = read.config
    assert.deepEqual(found, config)
  }

  it('our own, with a ClassEmbedder', async () => {
    const condStage = new ClassEmbedder({ embedDim: 16, nClasses: 5, device, seed: 4 })
    const o = { condStage, condStageKey: 'class', conditioningKey: 'crossattn', unetConfig: attending } as const
    using made = await drawn(model({ ...o, firstStage: kl() }))
    const cond = await made.getLearnedConditioning([1, 4])
    await roundTrip(made, { cond })
    assert.equal((await index())._class_name, 'LatentDiffusion')
  })

  it('our own, with a TransformerEmbedder and its tokenizer', async () => {
    const tokenizer = path.join(fixtures, 'clip_tokenizer')
    const sizes = { nEmbed: 16, nLayer: 1, vocabSize: 530, maxSeqLen: 9 }
    const condStage = new TransformerEmbedder({ ...sizes, tokenizer, device, seed: 4 })
    const o = { condStage, condStageKey: 'caption', conditioningKey: 'crossattn', unetConfig: attending } as const
    using made = await drawn(model({ ...o, firstStage: vq() }))
    await roundTrip(made, { prompt: 'red cat', guidanceScale: 3 })
  })

  it('our own: concat, in a first stage and in a rescaler, and a first stage that is none', async () => {
    const unetConfig = { ...unet, inChannels: 8 }
    {
      const o = { condStage: '__is_first_stage__', conditioningKey: 'concat', unetConfig } as const
      using made = await drawn(model({ ...o, firstStage: vq() }))
      await roundTrip(made, { cond: await scaled(Tensor.randn([2, 4, 8, 8]), 1, 6) })
      assert.equal((await index()).cond_stage, undefined)
    }
    const condStage = new SpatialRescaler({ nStages: 1, inChannels: 3, outChannels: 4, device })
    const o = { condStage, conditioningKey: 'concat', unetConfig, firstStage: new IdentityFirstStage() } as const
    using made = await drawn(model(o))
    await roundTrip(made, { cond: await made.getLearnedConditioning(Tensor.randn([2, 3, 16, 16])) })
  })

  it('averages, half precision and shards; a scale that the first batch said', async () => {
    using made = await drawn(
      model({ firstStage: kl(), unetConfig: unet, useEma: true, scaleFactor: 1, scaleByStd: true }),
    )
    await made.loadStateDict({ ...(await made.stateDict()), scale_factor: Tensor.wrap(Float32Array.of(0.5), []) })
    await made.savePretrained(folder, { variant: 'fp16', maxShardSize: 100000 })
    using read = await LatentDiffusion.fromPretrained(folder, { device, variant: 'fp16' })
    assert.equal(read.scaleFactor, 0.5)
    const [a, b] = [await read.stateDict(), await made.stateDict()]
    const average = await b['model_ema.diffusion_modelout2weight'].data()
    assert.notDeepEqual(average, await b['model.diffusion_model.out.2.weight'].data())
    assert.ok((await a['model.diffusion_model.out.2.weight'].data()).every((v, i) => Math.abs(v - average[i]) < 1e-3))
    await made.savePretrained(folder, { weights: 'model' })
    using trained = await LatentDiffusion.fromPretrained(folder, { device })
    const weight = (await trained.stateDict())['model.diffusion_model.out.2.weight']
    assert.deepEqual(await weight.data(), await b['model.diffusion_model.out.2.weight'].data())
  })

  it('StableDiffusionPipeline, with the files that it was read from', async () => {
    const original = path.join(fixtures, 'ldm', 'diffusers_sd')
    using made = await LatentDiffusion.fromPretrained(original, { device })
    // Of another model, which was there before.
    await mkdir(path.join(folder, 'tokenizer'))
    await writeFile(path.join(folder, 'tokenizer', 'tokenizer.json'), '{}')
    await made.savePretrained(folder)
    const json = async (of: string, name: string) => JSON.parse(await readFile(path.join(of, name), 'utf8'))
    assert.deepEqual(await json(folder, 'model_index.json'), await json(original, 'model_index.json'))
    for (const [part, file] of [
      ['unet', 'diffusion_pytorch_model'],
      ['vae', 'diffusion_pytorch_model'],
      ['text_encoder', 'model'],
    ]) {
      const weights = async (of: string) => (await readSafetensors(path.join(of, part, `${file}.safetensors`))).tensors
      const expected = await weights(original)
      delete expected['text_model.embeddings.position_ids']
      assert.deepEqual(await weights(folder), expected, part)
    }
    for (const name of ['unet/config.json', 'vae/config.json', 'text_encoder/config.json']) {
      const [written, expected] = [await json(folder, name), await json(original, name)]
      for (const [field, value] of Object.entries(written)) {
        if (Object.hasOwn(expected, field)) assert.deepEqual(value, expected[field], `${name} ${field}`)
      }
    }
    const scheduler = 'scheduler/scheduler_config.json'
    assert.deepEqual(await json(folder, scheduler), await json(original, scheduler))
    using read = await LatentDiffusion.fromPretrained(folder, { device })
    const o = { prompt: 'red cat', steps: 2, seed: 1 }
    assert.deepEqual(await (await read.sample(o)).data(), await (await made.sample(o)).data())
  })

  it('LDMPipeline', async () => {
    using made = await LatentDiffusion.fromPretrained(path.join(fixtures, 'ldm', 'diffusers_ldm'), { device })
    await roundTrip(made, {})
    assert.deepEqual((await index()).vqvae, ['diffusers', 'VQModel'])
  })

  it("StableDiffusionPipeline of CompVis' layouts and OpenCLIP: the same pictures", async () => {
    const tokenizer = path.join(fixtures, 'clip_tokenizer')
    const textConfig = { embedDim: 8, width: 16, heads: 2, layers: 3, vocabSize: 530, contextLength: 77 }
    const condStage = new FrozenOpenCLIPEmbedder({ textConfig, layer: 'penultimate', tokenizer, device, seed: 4 })
    const o = { condStage, condStageKey: 'caption', conditioningKey: 'crossattn', parameterization: 'v' } as const
    using made = await drawn(model({ ...o, firstStage: kl(), unetConfig: attending, timesteps: 1000 }))
    await made.savePretrained(folder)
    assert.equal((await index())._class_name, 'StableDiffusionPipeline')
    using read = await LatentDiffusion.fromPretrained(folder, { device })
    assert.equal(read.parameterization, 'v')
    assert.equal(read.scaleFactor, 0.25)
    const sample = { prompt: 'red cat', negativePrompt: 'the', guidanceScale: 2, steps: 3, seed: 1 }
    const sampler = { sampler: 'ddim' } as const
    const [a, b] = [await read.sample({ ...sample, ...sampler }), await made.sample({ ...sample, ...sampler })]
    const [x, y] = [await a.data(), await b.data()]
    const largest = y.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
    assert.ok(x.every((v, i) => Math.abs(v - y[i]) <= 1e-4 * largest))
    assert.equal(read.schedulerConfig?._class_name, 'DDIMScheduler')
  })

  it('a model without a tokenizer is written, and its folder takes ids', async () => {
    const textConfig = { embedDim: 8, width: 16, heads: 2, layers: 1, vocabSize: 20, contextLength: 6 }
    const condStage = new FrozenOpenCLIPEmbedder({ textConfig, device })
    const o = { condStage, conditioningKey: 'crossattn', unetConfig: attending } as const
    using made = model({ ...o, firstStage: kl() })
    await made.savePretrained(folder)
    assert.match(made.warnings().join(), /without a tokenizer/)
    using read = await LatentDiffusion.fromPretrained(folder, { device })
    const ids = Tensor.from(Int32Array.of(3, 1, 2, 0, 0, 0), [1, 6])
    assert.equal((await read.getLearnedConditioning(ids)).shape.join(), '1,6,16')
    await assert.rejects(read.sample({ prompt: 'cat', steps: 1 }), { code: 'not-configured', argument: 'tokenizer' })
  })

  it('what no pipeline says is kept in the layout of our own', async () => {
    const splitInputParams = { ks: [4, 4], stride: [2, 2] }
    const sd = path.join(fixtures, 'ldm', 'diffusers_sd')
    for (const [name, value] of Object.entries({ splitInputParams, numTimestepsCond: 4 })) {
      using made = await LatentDiffusion.fromPretrained(sd, { device, [name]: value })
      await assert.rejects(made.savePretrained(folder, { layout: 'diffusers' }), {
        code: 'unsupported',
        argument: name,
      })
      await made.savePretrained(folder)
      using read = await LatentDiffusion.fromPretrained(folder, { device })
      assert.deepEqual(read[name as 'numTimestepsCond'], made[name as 'numTimestepsCond'])
    }
    await assert.rejects(LatentDiffusion.fromPretrained(sd, { device, weights: 'ema' }), { argument: 'weights' })
  })

  it('refuses what it could not read again', async () => {
    const own = { encode: async (x: never) => x as Tensor, decode: async (z: Tensor) => z }
    using made = model({ firstStage: own, unetConfig: unet })
    await assert.rejects(made.savePretrained(folder), { code: 'unsupported', argument: 'firstStage' })
    using diffusers = model({ firstStage: kl(), unetConfig: { ...unet, convResample: false } })
    const layout = 'diffusers' as const
    await assert.rejects(diffusers.savePretrained(folder, { layout }), {
      code: 'unsupported',
      argument: 'convResample',
    })
    using conv = model({ firstStage: vq(), unetConfig: { ...unet, convResample: false } })
    await conv.savePretrained(folder)
    assert.match(conv.warnings().join(), /layout of this package.*convResample/)
    using found = await LatentDiffusion.fromPretrained(folder, { device })
    assert.equal(found.config.scaleFactor, conv.scaleFactor)
    await diffusers.savePretrained(folder)
    const file = path.join(folder, 'model_index.json')
    const { config, ...rest } = JSON.parse(await readFile(file, 'utf8'))
    for (const [wrong, code] of [
      [{ ...config, firstStage: { ...config.firstStage, kind: 'Autoencoder' } }, 'invalid-argument'],
      [{ ...config, firstStage: { ...config.firstStage, embedDim: -1 } }, 'invalid-argument'],
      [{ ...config, unetConfig: { ...config.unetConfig, modelChannels: 64 } }, 'state-mismatch'],
      [undefined, 'bad-file'],
    ]) {
      await writeFile(file, JSON.stringify({ ...rest, config: wrong }))
      await assert.rejects(LatentDiffusion.fromPretrained(folder, { device }), { code })
    }
  })
})
