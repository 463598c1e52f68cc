// Low-rank updates of latent models: of the UNet by diffusers' names and by its own, and of the text encoder.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { type StoredTensor, writeSafetensors } from '../../../lib/checkpoint/safetensors'
import { AutoencoderKL, LatentDiffusion, Tensor } from '../../../lib/index'
import type { WeightFormat } from '../../../lib/native'
import { FrozenOpenCLIPEmbedder } from '../../../lib/stages/text/open-clip'

const device = 'cpu'

describe('low-rank updates of latent models', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'latent-lora-'))
  after(() => rmSync(folder, { recursive: true }))
  const file = path.join(folder, 'style.safetensors')

  function model(weightFormat?: WeightFormat): LatentDiffusion {
    const ddconfig = {
      ...{ ch: 32, outCh: 3, chMult: [1, 2], numResBlocks: 1, attnResolutions: [], inChannels: 3, resolution: 16 },
      zChannels: 4,
    }
    const textConfig = { embedDim: 8, width: 16, heads: 2, layers: 2, vocabSize: 20, contextLength: 6 }
    return new LatentDiffusion({
      ...{
        firstStage: new AutoencoderKL({ ddconfig, embedDim: 4, device, weightFormat }),
        device,
        useEma: false,
        timesteps: 20,
      },
      ...{ condStage: new FrozenOpenCLIPEmbedder({ textConfig, device, weightFormat }), weightFormat },
      conditioningKey: 'crossattn',
      unetConfig: {
        ...{ imageSize: 8, inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1], numResBlocks: 1 },
        ...{ attentionResolutions: [1], numHeads: 2, useSpatialTransformer: true, contextDim: 16, legacy: false },
      },
    })
  }

  const write = async (names: readonly string[], width = 32) => {
    const [down, up, alpha] = names
    const of = async (shape: readonly number[], seed: number): Promise<StoredTensor> => {
      return { dtype: 'F32', shape, data: await Tensor.randn(shape, { seed }).data() }
    }
    await writeSafetensors(file, {
      [down]: await of([2, width], 1),
      [up]: await of([width, 2], 2),
      ...(alpha && { [alpha]: { dtype: 'F32', shape: [], data: Float32Array.of(1) } }),
    })
  }

  const own = 'model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight'

  it("of a UNet in CompVis' layout by diffusers' names, PEFT's and kohya's", async () => {
    using plain = model()
    const before = await (await plain.stateDict())[own].data()
    const module = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q'
    const kohya = `lora_unet_${module.replaceAll('.', '_')}`
    for (const [names, scale] of [
      [[`unet.${module}.lora_A.weight`, `unet.${module}.lora_B.weight`], 1],
      [[`${kohya}.lora_down.weight`, `${kohya}.lora_up.weight`, `${kohya}.alpha`], 0.5],
    ] as const) {
      await write(names)
      const [down, up] = [
        await Tensor.randn([2, 32], { seed: 1 }).data(),
        await Tensor.randn([32, 2], { seed: 2 }).data(),
      ]
      using changed = await plain.withLoras([{ path: file, scale: 0.5 }])
      const after = await (await changed.stateDict())[own].data()
      for (let row = 0; row < 32; row++) {
        for (let column = 0; column < 32; column++) {
          const sum = up[2 * row] * down[column] + up[2 * row + 1] * down[32 + column]
          const expected = before[32 * row + column] + 0.5 * scale * sum
          assert.ok(Math.abs(after[32 * row + column] - expected) < 1e-5)
        }
      }
      using beside = await plain.withLoras([{ path: file, scale: 0.5 }], { merge: false })
      using merged = await beside.merged()
      assert.deepEqual(await (await merged.stateDict())[own].data(), after)
      // The stages are its own, with the same weights.
      const ids = Tensor.from(Int32Array.of(3, 1, 2, 0, 0, 0), [1, 6])
      const told = await (await plain.getLearnedConditioning(ids)).data()
      assert.deepEqual(await (await changed.getLearnedConditioning(ids)).data(), told)
      await beside.savePretrained(path.join(folder, 'saved'))
      using saved = await LatentDiffusion.fromPretrained(path.join(folder, 'saved'), { device })
      const [x, o] = [Tensor.randn([1, 4, 8, 8], { seed: 3 }), { cond: await plain.getLearnedConditioning(ids) }]
      const [a, b] = [await saved.applyModel(x, [5], o.cond), await changed.applyModel(x, [5], o.cond)]
      const [p, q] = [await a.data(), await b.data()]
      assert.ok(p.every((v, i) => Math.abs(v - q[i]) < 1e-4))
    }
  })

  it('of narrow weights, whose sums are rounded as weights of a file are', async () => {
    using plain = model('fp16')
    using wide = model()
    await wide.loadStateDict(await plain.stateDict())
    const module = 'text_model.encoder.layers.0.self_attn.k_proj'
    await write([`text_encoder.${module}.lora_A.weight`, `text_encoder.${module}.lora_B.weight`], 16)
    using changed = await plain.withLoras([{ path: file, scale: 0.5 }])
    using expected = await wide.withLoras([{ path: file, scale: 0.5 }])
    const stages = [changed.firstStageModel, changed.condStageModel] as unknown as { weightFormat: WeightFormat }[]
    for (const { weightFormat } of stages) assert.equal(weightFormat, 'fp16')
    using rounded = model('fp16')
    await rounded.loadStateDict(await expected.stateDict())
    const [a, b] = [await changed.stateDict(), await rounded.stateDict()]
    for (const [name, tensor] of Object.entries(a)) assert.deepEqual(await tensor.data(), await b[name].data(), name)
  })

  it("of OpenCLIP by transformers' names, PEFT's, kohya's and those of diffusers' processors", async () => {
    using plain = model()
    const joined = 'cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight'
    const before = await (await plain.stateDict())[joined].data()
    const [down, up] = [
      await Tensor.randn([2, 16], { seed: 1 }).data(),
      await Tensor.randn([16, 2], { seed: 2 }).data(),
    ]
    const module = 'text_model.encoder.layers.0.self_attn.k_proj'
    for (const names of [
      [`text_encoder.${module}.lora_A.weight`, `text_encoder.${module}.lora_B.weight`],
      [
        `lora_te_${module.replaceAll('.', '_')}.lora_down.weight`,
        `lora_te_${module.replaceAll('.', '_')}.lora_up.weight`,
      ],
      ['down', 'up'].map((part) => `text_encoder.${module.replace('k_proj', 'to_k')}_lora.${part}.weight`),
    ]) {
      await write(names, 16)
      using changed = await plain.withLoras([{ path: file, scale: 0.5 }], { merge: false })
      assert.deepEqual(changed.warnings(), plain.warnings())
      const after = await (await changed.stateDict())[joined].data()
      // [q; k; v]
      for (let i = 0; i < after.length; i++) {
        const [row, column] = [Math.floor(i / 16) - 16, i % 16]
        const sum = row < 0 || row >= 16 ? 0 : up[2 * row] * down[column] + up[2 * row + 1] * down[16 + column]
        assert.ok(Math.abs(after[i] - (before[i] + 0.5 * sum)) < 1e-6)
      }
      const ids = Tensor.from(Int32Array.of(3, 1, 2, 0, 0, 0), [1, 6])
      const told = await (await plain.getLearnedConditioning(ids)).data()
      assert.notDeepEqual(await (await changed.getLearnedConditioning(ids)).data(), told)
      using again = await changed.merged()
      assert.deepEqual(await (await again.stateDict())[joined].data(), after)
    }
    await write([`text_encoder.${module}.lora_A.weight`, `text_encoder.${module}.lora_B.weight`], 8)
    await assert.rejects(plain.withLoras([{ path: file }]), {
      code: 'state-mismatch',
      message: /no update of a weight/,
    })
    const other = 'lora_te2_text_model_encoder_layers_0_self_attn_q_proj'
    await write([`${other}.lora_down.weight`, `${other}.lora_up.weight`], 16)
    await assert.rejects(plain.withLoras([{ path: file }]), { code: 'state-mismatch', message: /no layer/ })
  })

  it('of CLIP', async () => {
    const folder = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
    using plain = await LatentDiffusion.fromPretrained(folder, { device })
    const name = 'cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.out_proj.weight'
    const module = 'text_encoder.text_model.encoder.layers.1.self_attn.out_proj'
    await write([`${module}.lora_A.weight`, `${module}.lora_B.weight`])
    using changed = await plain.withLoras([{ path: file }])
    const [before, after] = [
      await (await plain.stateDict())[name].data(),
      await (await changed.stateDict())[name].data(),
    ]
    const [down, up] = [
      await Tensor.randn([2, 32], { seed: 1 }).data(),
      await Tensor.randn([32, 2], { seed: 2 }).data(),
    ]
    for (let i = 0; i < after.length; i++) {
      const [row, column] = [Math.floor(i / 32), i % 32]
      const sum = up[2 * row] * down[column] + up[2 * row + 1] * down[32 + column]
      assert.ok(Math.abs(after[i] - (before[i] + sum)) < 1e-5)
    }
  })
})
