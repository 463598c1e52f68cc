// Options that UNet2DModel has beyond those of the golden networks, by what they must be equal to.
import assert from 'node:assert/strict'
import { unet2DConfig, unet2DWeights } from '../../lib/checkpoint/diffusers/unet'
import type { Graph } from '../../lib/graph'
import { UNet, type UNetOptions } from '../../lib/nn/unet/unet'
import type { StateDict } from '../../lib/nn/weights'
import { Tensor } from '../../lib/tensor'
import { assertClose } from '../support/compare'
import { testDevice } from '../support/devices'
import { Random } from '../support/random'
import { runGraph, type Values } from '../support/run-graph'
import { addUNet, assertScaled, feedsOf, openUNet, tolerance } from './check-golden'

const shape = [2, 3, 8, 8] as const
const size = 3 * 8 * 8
const x = new Random(1).normals(2 * size)
const base: UNetOptions = {
  ...{ layout: 'diffusers', imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 16, numResBlocks: 1 },
  ...{ channelMult: [1, 2], attentionResolutions: [2], normGroups: 8 },
}

interface Run {
  readonly x?: Float32Array
  readonly y?: readonly number[]
  readonly t?: readonly number[]
  readonly weights?: Float32Array
}

/** The output, and those of the modules that are named. */
async function run(unet: UNet, o: Run = {}, modules: readonly string[] = []): Promise<Record<string, Float32Array>> {
  const feeds = {
    x: { dims: [2, 1, 1, size], data: o.x ?? x },
    t: { dims: [2, 1, 1, 1], data: Int32Array.from(o.t ?? [3, 700]) },
    ...(o.y && { y: { dims: [2, 1, 1, 1] as const, data: Int32Array.from(o.y) } }),
  } as const
  const build = (graph: Graph, inputs: Values) => {
    const outputs: Values = {}
    const out = addUNet(graph, unet, inputs, shape, (name, value) => {
      if (modules.includes(name)) Object.assign(outputs, { [name]: graph.toNchw(value) })
    })
    return { ...outputs, out }
  }
  return runGraph(testDevice, feeds, build, { banks: { weights: o.weights ?? unet.parameters.initialize(7) } })
}

describe("UNet2DModel's options", () => {
  it('the configuration of each is read as it was written', () => {
    const cases: Partial<UNetOptions>[] = [
      { centerInput: true, middleScale: Math.SQRT2 },
      { resblockUpdown: true },
      { resblockDownResolutions: [1], attentionResolutions: [1, 2] },
      { resblockUpResolutions: [2, 4], attentionResolutions: [4], channelMult: [1, 2, 2] },
      { attentionResolutions: [1], upAttentionResolutions: [2] },
      { numClasses: 5 },
      { numClasses: 5, classEmbedding: 'timestep' },
      { middleBlock: false, timeEmbeddingDim: 24 },
      { imageSize: 8, imageWidth: 16 },
    ]
    for (const o of cases) {
      const { options } = new UNet({ ...base, ...o })
      const { options: again } = UNet.fromDiffusers(unet2DConfig(options))
      const { numHeads: _, ...expected } = options
      assert.deepEqual({ ...again, numHeads: undefined }, { ...expected, numHeads: undefined }, JSON.stringify(o))
    }
    const mixed = { attentionResolutions: [1, 2], channelMult: [1, 2, 2], resblockDownResolutions: [1] }
    const argument = 'resblockDownResolutions'
    assert.throws(() => unet2DConfig(new UNet({ ...base, ...mixed }).options), { code: 'unsupported', argument })
  })

  it('block types say what leaves a level', () => {
    const read = (down: string[], up: string[], more = {}) => {
      const config = {
        sample_size: 8,
        block_out_channels: [32, 32],
        down_block_types: down,
        up_block_types: up,
        ...more,
      }
      const { options } = UNet.fromDiffusers(config)
      return [options.resblockDownResolutions, options.resblockUpResolutions, options.attentionResolutions]
    }
    const resnet = { downsample_type: 'resnet', upsample_type: 'resnet' }
    assert.deepEqual(read(['DownBlock2D', 'DownBlock2D'], ['UpBlock2D', 'UpBlock2D'], resnet), [[], [], []])
    const attention = [
      ['AttnDownBlock2D', 'DownBlock2D'],
      ['AttnUpBlock2D', 'AttnUpBlock2D'],
    ] as const
    assert.deepEqual(read([...attention[0]], [...attention[1]], resnet), [[1], [2], [1]])
    const own = [
      ['ResnetDownsampleBlock2D', 'DownBlock2D'],
      ['ResnetUpsampleBlock2D', 'UpBlock2D'],
    ] as const
    assert.deepEqual(read([...own[0]], [...own[1]]), [[1], [2], []])
    assert.deepEqual(
      read(['UNetResDownBlock2D', 'UNetResAttnDownBlock2D'], ['UNetResAttnUpBlock2D', 'UNetResUpBlock2D']),
      [[], [], [2]],
    )
  })

  it("residual blocks that resample: improved-diffusion's golden network by diffusers' names", async () => {
    const { golden, unet, weights } = await openUNet('unet_scaleshift_updown_class')
    const theirs = UNet.fromDiffusers(unet2DConfig(unet.options))
    assert.ok(theirs.parameters.get('down_blocks.0.downsamplers.0.conv1.weight'))
    const values: Record<string, Float32Array> = {}
    for (const [name, tensor] of Object.entries(weights)) values[name] = await tensor.data()
    const renamed: StateDict = {}
    for (const [name, { data, shape }] of Object.entries(unet2DWeights(unet.options, values)))
      renamed[name] = Tensor.from(data as Float32Array, shape)
    const { flat } = await theirs.parameters.fromStateDict(renamed)
    const build = (graph: Graph, inputs: Values) => ({
      out: addUNet(graph, theirs, inputs, golden.tensors['in/x'].shape),
    })
    const { out } = await runGraph(testDevice, feedsOf(golden), build, { banks: { weights: flat } })
    assertScaled(out, golden.floats('out/out'), tolerance.out, 0, 'out')
  })

  it('center_input_sample is 2x - 1 before the network', async () => {
    const centered = await run(new UNet({ ...base, centerInput: true }))
    const plain = await run(new UNet(base), { x: x.map((v) => 2 * v - 1) })
    assertClose(centered.out, plain.out, { abs: 1e-5, rel: 1e-5 }, 'out')
    assert.notDeepEqual(centered.out, (await run(new UNet(base))).out)
  })

  it('mid_block_scale_factor divides what each part of the middle puts out', async () => {
    for (const [name, middleAttention] of [
      ['mid_block.attentions.0', true] as const,
      ['mid_block.resnets.1', false] as const,
    ]) {
      const first = 'mid_block.resnets.0'
      const plain = await run(new UNet({ ...base, middleAttention }), {}, [first, name])
      const scaled = await run(new UNet({ ...base, middleAttention, middleScale: 2 }), {}, [first, name])
      const a = plain[first].map((v) => v / 2)
      assertClose(scaled[first], a, { abs: 1e-5, rel: 1e-5 }, first)
      // The second part adds to its input what does not depend on the input's scale, since a norm comes first.
      const b = plain[name].map((v, i) => (a[i] + (v - plain[first][i])) / 2)
      assertClose(scaled[name], b, { abs: 1e-3, rel: 1e-3 }, name)
    }
  })

  it('class_embed_type timestep embeds a label as a timestep is', async () => {
    const unet = new UNet({ ...base, numClasses: 1000, classEmbedding: 'timestep' })
    const flat = unet.parameters.initialize(7)
    const slot = (name: string) => unet.parameters.get(name)!
    const length = (name: string) => slot(name).shape.reduce((p, extent) => p * extent, 1)
    for (const part of ['linear_1.weight', 'linear_1.bias', 'linear_2.weight', 'linear_2.bias']) {
      const { offset } = slot(`time_embedding.${part}`)
      flat.copyWithin(slot(`class_embedding.${part}`).offset, offset, offset + length(`time_embedding.${part}`))
    }
    // Label and timestep change places, and the sum stays.
    const one = await run(unet, { weights: flat, t: [3, 700], y: [50, 60] })
    const other = await run(unet, { weights: flat, t: [50, 60], y: [3, 700] })
    assertClose(other.out, one.out, { abs: 1e-5, rel: 1e-5 }, 'out')
    assert.notDeepEqual((await run(unet, { weights: flat, t: [50, 60], y: [3, 701] })).out, one.out)
    assert.throws(() => new UNet({ ...base, classEmbedding: 'timestep' }), { argument: 'numClasses' })
  })

  it('attention on one side alone, no middle, a time embedding of its own width', async () => {
    const names = (o: Partial<UNetOptions>) => new UNet({ ...base, ...o }).parameters.slots.map(({ name }) => name)
    const has = (list: string[], part: string) => list.some((name) => name.startsWith(part))
    const oneSided = names({ attentionResolutions: [], upAttentionResolutions: [2] })
    assert.ok(has(oneSided, 'up_blocks.0.attentions') && !has(oneSided, 'down_blocks.1.attentions'))
    assert.ok(!has(names({ middleBlock: false }), 'mid_block'))
    const narrow = new UNet({ ...base, attentionResolutions: [], middleBlock: false, timeEmbeddingDim: 24 })
    assert.deepEqual(narrow.parameters.get('time_embedding.linear_1.weight')?.shape, [24, 16])
    assert.ok((await run(narrow)).out.every(Number.isFinite))
  })

  it('a constant scale and shift have the gradient of the scale', async () => {
    const map = new Random(2).normals(2 * 3 * 3 * 4)
    const feeds = {
      x: { dims: [2, 3, 3, 4], data: map },
      zero: { dims: [2, 3, 3, 4], data: new Float32Array(map.length) },
      mean: { dims: [2, 1, 1, 1], data: Float32Array.of(0.5, 0.5) },
    } as const
    const { y, gradient } = await runGraph(testDevice, feeds, (graph, inputs) => {
      const y = graph.affine(inputs.x, { scale: 1.5, shift: -0.25 })
      const loss = graph.loss(graph.toNchw(y), graph.toNchw(inputs.zero), { type: 'l2' })
      const [gradient] = graph.backward(graph.weightedSum(loss, inputs.mean), [inputs.x])
      return { y, gradient: gradient! }
    })
    assertClose(
      y,
      map.map((v) => 1.5 * v - 0.25),
      { abs: 1e-6, rel: 1e-6 },
      'y',
    )
    // Of the mean of y^2 over all elements.
    assertClose(
      gradient,
      map.map((v) => (2 * 1.5 * (1.5 * v - 0.25)) / map.length),
      { abs: 1e-7, rel: 1e-5 },
      'gradient',
    )
  })
})
