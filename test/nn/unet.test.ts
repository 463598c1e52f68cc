// UNets against PyTorch's: outputs, loss, all gradients, and the outputs of inner modules.
import assert from 'node:assert/strict'
import { unet2DConfig, unet2DWeights } from '../../lib/checkpoint/diffusers/unet'
import { Device } from '../../lib/device'
import type { Graph, Value } from '../../lib/graph'
import { renameLegacyDiffusers } from '../../lib/nn/unet/diffusers'
import { UNet } from '../../lib/nn/unet/unet'
import { Tensor } from '../../lib/tensor'
import { libraryAlgo } from '../support/fake-cudnn'
import { devicesWith } from '../support/mixed'
import { directBf16, type Feeds, runGraph, testedBackends, type Values, winogradUpsample } from '../support/run-graph'
import {
  addUNet,
  assertScaled,
  checkGolden,
  checkGoldenOutput,
  feedsOf,
  goldenFiles,
  openUNet,
  tolerance,
} from './check-golden'
import { Golden, readJson, stateDictOf } from './golden'

for (const backend of testedBackends) {
  describe(`UNet on ${backend}`, () => {
    for (const name of goldenFiles) {
      it(`${name}: output, loss and gradients are PyTorch's`, async () => {
        // improved-diffusion's has no image_size.
        const { golden, unet, weights } = await openUNet(name, { imageSize: 16 })
        await checkGolden(backend, golden, unet, weights)
      })

      if (backend === 'cuda-host' && name === 'unet_basic') {
        it(`${name} with every convolution by cuDNN, or what stands in for it`, async () => {
          const { golden, unet, weights } = await openUNet(name, { imageSize: 16 })
          await checkGolden(backend, golden, unet, weights, { forceAlgo: libraryAlgo })
        })
      }

      if (backend !== 'cpu') continue
      for (const [forceAlgo, algorithm] of ['direct', 'F(2x2, 3x3)', 'F(4x4, 3x3)'].entries()) {
        it(`${name} with every convolution that can be ${algorithm}`, async () => {
          const { golden, unet, weights } = await openUNet(name, { imageSize: 16 })
          await checkGolden(backend, golden, unet, weights, { forceAlgo })
        })
      }
      for (const [forceAlgo, algorithm] of [
        [undefined, 'algorithms that are chosen'],
        [0, 'direct convolution'],
        [1, 'F(2x2, 3x3)'],
        [2, 'F(4x4, 3x3)'],
        [winogradUpsample, 'Winograd for upsampled maps'],
      ] as const) {
        it(`${name} without gradients, by ${algorithm}`, async () => {
          const { golden, unet, weights } = await openUNet(name, { imageSize: 16 })
          await checkGoldenOutput(backend, golden, unet, weights, forceAlgo)
        })
      }
    }

    it("the inner modules' outputs are PyTorch's", async () => {
      const { golden, unet, weights } = await openUNet('unet_basic_act')
      const { flat } = await unet.parameters.fromStateDict(weights)
      const expected = golden.names('out/')
      const actual = await runGraph(
        backend,
        feedsOf(golden),
        (graph, inputs) => {
          const outputs: Record<string, Value> = {}
          addUNet(graph, unet, inputs, golden.tensors['in/x'].shape, (name, value) => {
            if (expected.includes(name)) outputs[name] = graph.toNchw(value)
          })
          return outputs
        },
        { banks: { weights: flat } },
      )
      // An upsampling is the last in its block, and so observed as that.
      actual['output_blocks.1.2'] = actual['output_blocks.1']
      for (const name of expected) assertScaled(actual[name], golden.floats(`out/${name}`), tolerance.out, 0, name)
    })

    it("diffusers' UNet2DModel: output, loss and gradients are PyTorch's", async () => {
      const golden = await Golden.open('diffusers_ddpm.safetensors')
      const unet = UNet.fromDiffusers(readJson('diffusers_ddpm/unet/config.json'))
      const weights = await stateDictOf('diffusers_ddpm/unet/diffusion_pytorch_model.safetensors')
      await checkGolden(backend, golden, unet, weights)
    })

    it("improved-diffusion's network by diffusers' names, scale_shift and a norm in the middle", async () => {
      const { golden, unet, weights } = await openUNet('unet_improved_diffusion', { imageSize: 16 })
      const theirs = UNet.fromDiffusers({ ...unet2DConfig(unet.options), _class_name: 'UNet2DModel' })
      assert.equal(theirs.options.layout, 'diffusers')
      const values: Record<string, Float32Array> = {}
      for (const [name, tensor] of Object.entries(weights)) values[name] = await tensor.data()
      const renamed = Object.entries(unet2DWeights(unet.options, values)).map(([name, { data, shape }]) => {
        return [name, Tensor.from(data as Float32Array, shape)] as const
      })
      const { flat } = await theirs.parameters.fromStateDict(Object.fromEntries(renamed))
      const build = (graph: Graph, inputs: Values) => ({
        out: addUNet(graph, theirs, inputs, golden.tensors['in/x'].shape),
      })
      const { out } = await runGraph(backend, feedsOf(golden), build, { banks: { weights: flat } })
      assertScaled(out, golden.floats('out/out'), tolerance.out, 0, 'out')
    })

    it('dropout follows the seed and the step, and is off outside of training', async () => {
      const { golden, weights } = await openUNet('unet_basic')
      const unet = new UNet(golden.unetOptions({ dropout: 0.5 }))
      const { flat } = await unet.parameters.fromStateDict(weights)
      const run = (train: boolean, seed: number, step: number) => {
        const feeds: Feeds = { ...feedsOf(golden), rng: { dims: [1, 1, 1, 4], data: Int32Array.of(seed, 0, step, 0) } }
        return runGraph(
          backend,
          feeds,
          (graph, { x, t, rng }) => {
            const [, channels, height, width] = golden.tensors['in/x'].shape
            const nhwc = graph.toNhwc(x, { channels, height, width })
            return { out: graph.toNchw(unet.build({ graph, train, rng }, nhwc, t)) }
          },
          { banks: { weights: flat } },
        )
      }
      const [first, again, otherStep, otherSeed] = await Promise.all([
        run(true, 1, 0),
        run(true, 1, 0),
        run(true, 1, 1),
        run(true, 2, 0),
      ])
      assert.deepEqual(first.out, again.out)
      for (const other of [otherStep, otherSeed]) assert.notDeepEqual(other.out, first.out)
      const { out } = await run(false, 1, 0)
      assertScaled(out, golden.floats('out/out'), tolerance.out, 0, 'out')
    })
  })
}

// The golden numbers are fp32's: tolerances are those of rounding operands to 11 and 8 bits (check-golden.ts).
for (const precision of ['fp16', 'bf16'] as const) {
  for (const backend of devicesWith(precision)) {
    describe(`UNet in ${precision} on ${backend}`, () => {
      for (const name of goldenFiles) {
        it(`${name}: output, loss and gradients are near PyTorch's`, async () => {
          const { golden, unet, weights } = await openUNet(name, { imageSize: 16 })
          await checkGolden(backend, golden, unet, weights, { precision })
          if (!Device.open(backend).info().roundsOperands) return
          await checkGolden(backend, golden, unet, weights, { precision, forceAlgo: directBf16 })
        }).timeout(600_000) // kernels of GPUs on a CPU: seconds where nothing else runs
      }
    })
  }
}

describe("diffusers' names", () => {
  it('an early configuration and its names are the same network', async () => {
    const today = UNet.fromDiffusers(readJson('diffusers_ddpm/unet/config.json'))
    const early = UNet.fromDiffusers(readJson('diffusers_ddpm_legacy_keys/unet/config.json'))
    assert.deepEqual(early.options, today.options)
    const names: Record<string, string> = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' }
    const dict = await stateDictOf('diffusers_ddpm/unet/diffusion_pytorch_model.safetensors')
    const old = Object.fromEntries(
      Object.entries(dict).map(([name, tensor]) => [
        name.replace(/to_(q|k|v|out\.0)/, (match) => names[match]),
        tensor,
      ]),
    )
    assert.ok('mid_block.attentions.0.proj_attn.weight' in old)
    assert.deepEqual(renameLegacyDiffusers(old), dict)
  })

  it('what UNet can not express is refused', () => {
    const config = readJson('diffusers_ddpm/unet/config.json')
    const refused = (change: Record<string, unknown>, code: string, argument: string) =>
      assert.throws(() => UNet.fromDiffusers({ ...config, ...change }), { name: 'DiffusionError', code, argument })
    for (const [argument, value] of Object.entries({
      act_fn: 'gelu',
      attention_legacy_order: true,
    })) {
      refused({ [argument]: value }, 'unsupported', argument)
    }
    refused({ time_embedding_type: 'cosine' }, 'invalid-argument', 'time_embedding_type')
    refused({ time_embedding_type: 'learned' }, 'invalid-argument', 'numTimesteps')
    refused({ class_embed_type: 'projection' }, 'invalid-argument', 'class_embed_type')
    refused({ down_block_types: ['KDownBlock2D', 'DownBlock2D'] }, 'invalid-argument', 'down_block_types[0]')
    const skips = { up_block_types: ['SkipUpBlock2D', 'SkipUpBlock2D'] }
    refused({ ...skips, in_channels: 1 }, 'invalid-argument', 'inChannels')
    refused({ up_block_types: ['SkipUpBlock2D', 'UpBlock2D'] }, 'invalid-argument', 'skipUpResolutions')
    refused({ resnet_time_scale_shift: 'spatial' }, 'invalid-argument', 'resnet_time_scale_shift')
    refused({ mid_block_scale_factor: 0 }, 'invalid-argument', 'middleScale')
    refused({ downsample_padding: 2 }, 'invalid-argument', 'downsample_padding')
    refused({ _class_name: 'UNet3DConditionModel' }, 'unsupported', '_class_name')
    refused({ down_block_types: ['DownBlock2D'] }, 'invalid-argument', 'block_out_channels')
  })
})
