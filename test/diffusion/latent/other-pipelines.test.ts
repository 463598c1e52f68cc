// LDMTextToImagePipeline and a folder of Stable Diffusion 2: written here by the golden files' weights under others' names.
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { unet2DWeights } from '../../../lib/checkpoint/diffusers/unet'
import { unet2DConditionConfig } from '../../../lib/checkpoint/diffusers/unet-condition'
import { readSafetensors, type StoredTensor, writeSafetensors } from '../../../lib/checkpoint/safetensors'
import { AutoencoderKL, type BERTEmbedder, LatentDiffusion, Tensor } from '../../../lib/index'
import { assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture } from '../fixture'

const fixtures = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures')

/** What diffusers' conversion script calls each module of ldm's encoder, the other way round. */
function bertName(name: string): string {
  const own = name.replace(/^transformer\./, '')
  const layer = /^attn_layers\.layers\.(\d+)\.(.+)$/.exec(own)
  if (!layer) {
    if (own.startsWith('to_logits')) return own
    const renamed = own.replace('token_emb', 'embed_tokens').replace('pos_emb.emb', 'embed_positions')
    return `model.${renamed.replace(/^norm\./, 'layer_norm.')}`
  }
  const [, number, rest] = layer
  const isLinear = Number(number) % 2 === 1
  const inner = isLinear
    ? rest.replace(/^0\./, 'final_layer_norm.').replace('1.net.0.0', 'fc1').replace('1.net.2', 'fc2')
    : rest.replace(/^0\./, 'self_attn_layer_norm.').replace(/1\.to_(q|k|v|out)/, 'self_attn.$1_proj')
  return `model.layers.${Math.floor(Number(number) / 2)}.${inner}`
}

describe(`other pipelines on ${testDevice}`, () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'other-pipelines-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))
  const at = (...names: string[]) => path.join(folder, ...names)
  const json = (name: string, value: object) => writeFileSync(at(name), JSON.stringify(value))

  it('LDMTextToImagePipeline: its LDMBertModel, and a vocabulary of word pieces', async () => {
    const golden = await readSafetensors(path.join(fixtures, 'transformer_embedder.safetensors'))
    const second = await readSafetensors(path.join(fixtures, 'transformer_embedder_layer1.safetensors'))
    const { embedder } = JSON.parse(golden.metadata.config)
    const firstStage = new AutoencoderKL({
      ddconfig: {
        ...{ ch: 32, outCh: 3, chMult: [1, 2], numResBlocks: 1, attnResolutions: [], inChannels: 3, resolution: 16 },
        zChannels: 4,
      },
      ...{ embedDim: 4, device: testDevice, seed: 1 },
    })
    const unetConfig = {
      ...{ imageSize: 8, inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1], numResBlocks: 1 },
      ...{ attentionResolutions: [1], numHeads: 2, legacy: false, useSpatialTransformer: true, contextDim: 16 },
    }
    // The text encoder is written below.
    const placeholder = { encode: async (c: never) => c as Tensor }
    using made = new LatentDiffusion({
      ...{ firstStage, unetConfig, condStage: placeholder, conditioningKey: 'crossattn', device: testDevice, seed: 2 },
      ...{ linearStart: 0.00085, linearEnd: 0.012, scaleFactor: 0.18215, useEma: false },
    })
    await firstStage.savePretrained(at('vqvae'), { scalingFactor: 0.18215 })
    mkdirSync(at('unet'))
    const network = made.network as unknown as { options: Parameters<typeof unet2DConditionConfig>[0] }
    const weights: Record<string, Float32Array> = {}
    for (const [name, tensor] of Object.entries(await made.stateDict())) {
      if (name.startsWith('model.')) weights[name.slice('model.diffusion_model.'.length)] = await tensor.data()
    }
    await writeSafetensors(at('unet/diffusion_pytorch_model.safetensors'), unet2DWeights(network.options, weights))
    json('unet/config.json', { _class_name: 'UNet2DConditionModel', ...unet2DConditionConfig(network.options) })
    mkdirSync(at('scheduler'))
    const betas = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' }
    json('scheduler/scheduler_config.json', { _class_name: 'DDIMScheduler', ...betas, clip_sample: false })
    mkdirSync(at('bert'))
    const params = Object.entries({ ...golden.tensors, ...second.tensors }).filter(([name]) =>
      name.startsWith('param/'),
    )
    const renamed: Record<string, StoredTensor> = {}
    for (const [name, tensor] of params) renamed[bertName(name.slice('param/'.length))] = tensor
    await writeSafetensors(at('bert/model.safetensors'), renamed)
    const { n_embed: d_model, n_layer: encoder_layers, vocab_size, max_seq_len: max_position_embeddings } = embedder
    const sizes = { d_model, encoder_layers, vocab_size, max_position_embeddings, encoder_ffn_dim: 4 * d_model }
    json('bert/config.json', { model_type: 'ldmbert', activation_function: 'gelu', dropout: 0.1, ...sizes })
    mkdirSync(at('tokenizer'))
    const words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'red', 'cat', '##s']
    writeFileSync(at('tokenizer/vocab.txt'), words.map((word) => `${word}\n`).join(''))
    json('tokenizer/tokenizer_config.json', { do_lower_case: true, model_max_length: 77 })
    json('model_index.json', {
      _class_name: 'LDMTextToImagePipeline',
      bert: ['latent_diffusion', 'LDMBertModel'],
      scheduler: ['diffusers', 'DDIMScheduler'],
      tokenizer: ['transformers', 'BertTokenizer'],
      unet: ['diffusers', 'UNet2DConditionModel'],
      vqvae: ['diffusers', 'AutoencoderKL'],
    })
    using model = await LatentDiffusion.fromPretrained(folder, { device: testDevice })
    const ids = golden.tensors['in/ids']
    const given = Tensor.from(Int32Array.from(ids.data, Number), ids.shape)
    const states = await (await model.getLearnedConditioning(given)).data()
    assertCloseToScale(states, golden.tensors['out/out'].data as Float32Array, 1e-4, 'states')
    const stage = model.condStageModel as BERTEmbedder
    const tokenized = await stage.tokenize('A red cats')
    assert.deepEqual([...tokenized.ids.subarray(0, 7)], [2, 5, 6, 7, 8, 3, 0])
    // The same pictures as of the model that it was made of.
    const cond = await model.getLearnedConditioning(['a red cat'])
    const o = { cond, steps: 3, sampler: 'ddim', batchSize: 1, seed: 4 } as const
    const [ours, theirs] = [await made.sample(o), await model.sample(o)]
    assertCloseToScale(await theirs.data(), await ours.data(), 1e-4, 'pictures')
    assert.equal((await model.sample({ prompt: 'a red cat', steps: 2, seed: 4 })).shape.join(), '1,3,16,16')
    json('bert/config.json', { ...sizes, head_dim: 32 })
    const refused = { code: 'unsupported', argument: 'head_dim' }
    await assert.rejects(LatentDiffusion.fromPretrained(folder, { device: testDevice }), refused)
  })

  it('Stable Diffusion 2 in a folder: the golden results of its single file', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v2.expected')
    const checkpoints = path.join(fixtures, 'ldm', 'checkpoints')
    const parts = readdirSync(checkpoints).filter((name) => name.startsWith('sd_v2.safetensors.part'))
    const file = at('sd.safetensors')
    writeFileSync(file, Buffer.concat(parts.sort().map((part) => readFileSync(path.join(checkpoints, part)))))
    const { text_cfg: sizes, embed_dim: embedDim } = fixture.config.open_clip
    {
      using single = await LatentDiffusion.fromSingleFile(file, {
        ...{ device: testDevice, numHeadChannels: 8, imageSize: 8 },
        textConfig: { heads: sizes.heads, embedDim },
      })
      await single.savePretrained(at('folder'))
    }
    using model = await LatentDiffusion.fromPretrained(at('folder'), { device: testDevice })
    assert.equal(model.parameterization, 'v')
    const { textConfig } = (model.condStageModel as unknown as { config: { textConfig: Record<string, unknown> } })
      .config
    assert.deepEqual([textConfig.numHiddenLayers, textConfig.hiddenAct], [sizes.layers - 1, 'gelu'])
    const ids = (name: string) => Tensor.from(fixture.integers(name), fixture.shape(name))
    const [cond, uncond] = [
      await model.getLearnedConditioning(ids('in/ids')),
      await model.getLearnedConditioning(ids('in/uncond_ids')),
    ]
    const close = async (tensor: Tensor, name: string, tolerance: number) =>
      assertCloseToScale(await tensor.data(), fixture.numbers(`out/${name}`), tolerance, name)
    await close(cond, 'cond', 1e-4)
    const y = await model.applyModel(fixture.tensor('in/xt'), fixture.integers('in/t'), cond)
    await close(y, 'apply_model', 1e-4)
    const { S: steps, scale: guidanceScale } = fixture.config
    const drawn = await model.sample({
      ...{ cond, uncond, guidanceScale, steps, sampler: 'ddim', ddimDiscretize: 'uniform', batchSize: 2 },
      ...{ xT: fixture.tensor('in/x_T'), outputType: 'latent' },
    })
    await close(drawn, 'ddim/latent', 1e-3)
    await close(await model.decodeFirstStage(drawn), 'ddim/decoded', 1e-3)
  })
})
