// diffusers' UNet2DConditionModel: outputs and gradients of the real class, and its names of the same network in ldm's layout.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { unet2DWeights } from '../../lib/checkpoint/diffusers/unet'
import { unet2DConditionConfig } from '../../lib/checkpoint/diffusers/unet-condition'
import { readSafetensors } from '../../lib/checkpoint/safetensors'
import { UNet } from '../../lib/nn/unet/unet'
import { Tensor } from '../../lib/tensor'
import { testedBackends } from '../support/run-graph'
import { checkGolden, checkGoldenOutput } from './check-golden'
import { Golden } from './golden'

const folder = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm')
const readJson = (name: string) => JSON.parse(readFileSync(path.join(folder, name), 'utf8'))
const config = readJson('diffusers_sd/unet/config.json')

async function weights() {
  const { tensors } = await readSafetensors(path.join(folder, 'diffusers_sd/unet/diffusion_pytorch_model.safetensors'))
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => [name, Tensor.wrap(data as Float32Array, shape)]),
  )
}

for (const backend of testedBackends) {
  describe(`UNet2DConditionModel on ${backend}`, () => {
    it("output, loss and gradients are diffusers'", async () => {
      const golden = await Golden.open('ldm/diffusers_sd.safetensors', (name) =>
        name.replace('out/unet/', 'out/').replace(/^(in|grad_in)\/sample$/, '$1/x'),
      )
      const unet = UNet.fromDiffusers(config)
      await checkGolden(backend, golden, unet, await weights())
      await checkGoldenOutput(backend, golden, unet, await weights())
    })
  })
}

describe('UNet2DConditionModel', () => {
  it('the configuration is written as it was read', () => {
    const unet = UNet.fromDiffusers(config)
    const written = unet2DConditionConfig(unet.options)
    for (const [field, value] of Object.entries(written)) assert.deepEqual(value, config[field], field)
    assert.deepEqual(UNet.fromDiffusers({ ...written, _class_name: 'UNet2DConditionModel' }).options, unet.options)
  })

  it('a vector, as of the unCLIP models', () => {
    for (const fields of [
      { class_embed_type: 'projection', projection_class_embeddings_input_dim: 10 },
      { class_embed_type: 'identity' },
    ]) {
      const unet = UNet.fromDiffusers({ ...config, ...fields })
      const written = unet2DConditionConfig(unet.options)
      for (const [field, value] of Object.entries(fields)) assert.deepEqual(written[field], value, field)
      assert.deepEqual(UNet.fromDiffusers({ ...written, _class_name: 'UNet2DConditionModel' }).options, unet.options)
      const { class_embed_type: kind } = fields
      assert.equal(unet.vectorDim, kind === 'projection' ? 10 : unet.options.timeEmbeddingDim)
      const layer = unet.parameters.get('class_embedding.linear_1.weight')?.shape
      assert.deepEqual(layer, kind === 'projection' ? [unet.options.timeEmbeddingDim, 10] : undefined)
    }
    const missing = { ...config, class_embed_type: 'projection' }
    assert.throws(() => UNet.fromDiffusers(missing), { argument: 'projection_class_embeddings_input_dim' })
  })

  for (const version of ['sd_v1', 'sd_v2']) {
    it(`${version}: the names and shapes that diffusers' converter gives to ldm's`, () => {
      const { unet, unet_config: given } = readJson(`${version}.diffusers.json`)
      const theirs = UNet.fromDiffusers({ ...given, _class_name: 'UNet2DConditionModel' })
      const own = new UNet({ ...theirs.options, layout: 'openai' })
      const zeros = Object.fromEntries(
        own.parameters.slots.map(({ name, shape }) => [name, new Float32Array(shape.reduce((a, b) => a * b, 1))]),
      )
      // Each weight is told by its number.
      for (const [i, { name }] of own.parameters.slots.entries()) zeros[name].fill(i)
      const converted = unet2DWeights(own.options, zeros)
      assert.equal(Object.keys(converted).length, Object.keys(unet).length)
      for (const [i, { name, shape }] of own.parameters.slots.entries()) {
        const tensor = converted[unet[`model.diffusion_model.${name}`]]
        assert.deepEqual(tensor?.shape, shape, name)
        assert.equal((tensor.data as Float32Array)[0], i, name)
      }
    })
  }

  it("Stable Diffusion 2's and XL's heads and depths, level by level", () => {
    const two = UNet.fromDiffusers({
      _class_name: 'UNet2DConditionModel',
      attention_head_dim: [5, 10, 20, 20],
      use_linear_projection: true,
      cross_attention_dim: 1024,
      sample_size: 96,
    })
    assert.equal(two.options.numHeadChannels, 64)
    assert.deepEqual(two.parameters.get('mid_block.attentions.0.proj_in.weight')?.shape, [1280, 1280])
    assert.deepEqual(unet2DConditionConfig(two.options).attention_head_dim, [5, 10, 20, 20])
    const deep = UNet.fromDiffusers({
      _class_name: 'UNet2DConditionModel',
      block_out_channels: [32, 64, 128],
      down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
      up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
      transformer_layers_per_block: [1, 2, 10],
      attention_head_dim: [4, 8, 16],
      cross_attention_dim: 16,
      sample_size: 16,
    })
    const has = (name: string) => deep.parameters.get(`${name}.norm1.weight`) !== undefined
    assert.ok(has('down_blocks.1.attentions.1.transformer_blocks.1'))
    assert.ok(!has('down_blocks.1.attentions.1.transformer_blocks.2'))
    assert.ok(has('mid_block.attentions.0.transformer_blocks.9'))
    assert.ok(has('up_blocks.0.attentions.2.transformer_blocks.9'))
    assert.ok(has('up_blocks.1.attentions.0.transformer_blocks.1'))
  })

  it("Stable Diffusion 1.5's has its 859,520,964 parameters", () => {
    const unet = UNet.fromDiffusers({ _class_name: 'UNet2DConditionModel', cross_attention_dim: 768 })
    assert.equal(unet.parameters.size, 859_520_964)
  })

  for (const [change, argument] of [
    [{ encoder_hid_dim: 768 }, 'encoder_hid_dim'],
    [{ addition_embed_type: 'text_time' }, 'addition_embed_type'],
    [{ only_cross_attention: true }, 'only_cross_attention'],
    [{ layers_per_block: [1, 2] }, 'layers_per_block'],
    [{ cross_attention_dim: [32, 16] }, 'cross_attention_dim'],
    [{ attention_head_dim: [3, 4], down_block_types: Array(2).fill('CrossAttnDownBlock2D') }, 'attention_head_dim'],
    [{ norm_num_groups: null }, 'norm_num_groups'],
    [{ conv_in_kernel: 1 }, 'conv_in_kernel'],
    [{ _class_name: 'UNet3DConditionModel' }, '_class_name'],
  ] as const) {
    it(`refuses ${JSON.stringify(change)} by name`, () => {
      assert.throws(() => UNet.fromDiffusers({ ...config, ...change }), { code: 'unsupported', argument })
    })
  }

  it('reports a field that the class does not have, and refuses transformers with what they exclude', () => {
    const unet = UNet.fromDiffusers({ ...config, some_new_field: 1 })
    assert.equal(unet.options.contextDim, 32)
    const base = { ...unet.options }
    const rejects = (change: object, argument: string) =>
      assert.throws(() => new UNet({ ...base, ...change }), { code: 'invalid-argument', argument })
    rejects({ transformerDepth: [1] }, 'transformerDepth')
    rejects({ transformerDepth: [1, 0] }, 'transformerDepth[1]')
    rejects({ skipDownResolutions: [1], inChannels: 3, outChannels: 3 }, 'skipDownResolutions')
    rejects(
      { useSpatialTransformer: false, contextDim: undefined, useLinearInTransformer: true },
      'useLinearInTransformer',
    )
  })
})
