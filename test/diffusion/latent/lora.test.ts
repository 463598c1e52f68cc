// Low-rank updates of latent models: of the UNet by diffusers' names and by its own; of a text encoder they are refused.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { type StoredTensor, writeSafetensors } from '../../../lib/checkpoint/safetensors'
import { AutoencoderKL, LatentDiffusion, Tensor } from '../../../lib/index'
import { FrozenOpenCLIPEmbedder } from '../../../lib/stages/text/open-clip'

const device = 'cpu'

describe('low-rank updates of latent models', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'latent-lora-'))
  after(() => rmSync(folder, { recursive: true }))
  const file = path.join(folder, 'style.safetensors')

  function model(): LatentDiffusion {
    const ddconfig = {
      ...{ ch: 32, outCh: 3, chMult: [1, 2], numResBlocks: 1, attnResolutions: [], inChannels: 3, resolution: 16 },
      zChannels: 4,
    }
    const textConfig = { embedDim: 8, width: 16, heads: 2, layers: 2, vocabSize: 20, contextLength: 6 }
    return new LatentDiffusion({
      ...{ firstStage: new AutoencoderKL({ ddconfig, embedDim: 4, device }), device, useEma: false, timesteps: 20 },
      ...{ condStage: new FrozenOpenCLIPEmbedder({ textConfig, device }), conditioningKey: 'crossattn' },
      unetConfig: {
        ...{ imageSize: 8, inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1], numResBlocks: 1 },
        ...{ attentionResolutions: [1], numHeads: 2, useSpatialTransformer: true, contextDim: 16, legacy: false },
      },
    })
  }

  const write = async (names: readonly string[]) => {
    const [down, up, alpha] = names
    const of = async (shape: readonly number[], seed: number): Promise<StoredTensor> => {
      return { dtype: 'F32', shape, data: await Tensor.randn(shape, { seed }).data() }
    }
    await writeSafetensors(file, {
      [down]: await of([2, 32], 1),
      [up]: await of([32, 2], 2),
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

  it('of a text encoder they are refused, not left out', async () => {
    using plain = model()
    const module = 'text_encoder.text_model.encoder.layers.0.self_attn.q_proj'
    await write([`${module}.lora_A.weight`, `${module}.lora_B.weight`])
    await assert.rejects(plain.withLoras([{ path: file }]), { code: 'unsupported', message: /text encoder/ })
    const kohya = 'lora_te_text_model_encoder_layers_0_self_attn_q_proj'
    await write([`${kohya}.lora_down.weight`, `${kohya}.lora_up.weight`])
    await assert.rejects(plain.withLoras([{ path: file }]), { code: 'unsupported', message: /text encoder/ })
  })
})
