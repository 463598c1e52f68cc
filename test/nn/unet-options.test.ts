import assert from 'node:assert/strict'
import { Graph } from '../../lib/graph'
import { UNet, type UNetOptions } from '../../lib/nn/unet/unet'

const base: UNetOptions = {
  imageSize: 16,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 32,
  numResBlocks: 1,
  attentionResolutions: [2],
  channelMult: [1, 2],
}

const rejects = (change: object, argument: string, code = 'invalid-argument', message = /./) =>
  assert.throws(() => new UNet({ ...base, ...change }), { name: 'DiffusionError', code, argument, message })

describe('UNet options', () => {
  it('wrong values are named', () => {
    rejects({ imageSize: 15 }, 'imageSize')
    rejects({ imageSize: undefined }, 'imageSize')
    rejects({ modelChannels: 48 }, 'modelChannels * channelMult[0]')
    rejects({ channelMult: [1, 1.5] }, 'modelChannels * channelMult[1]')
    rejects({ channelMult: [] }, 'channelMult')
    rejects({ channelMult: [2, 2] }, 'channelMult[0]')
    rejects({ attentionResolutions: [16] }, 'attentionResolutions[0]')
    rejects({ attentionResolutions: 2 }, 'attentionResolutions')
    rejects({ numHeads: 3 }, 'numHeads')
    rejects({ numHeads: 0 }, 'numHeads')
    rejects({ numHeadChannels: 24 }, 'numHeadChannels')
    rejects({ dropout: 1 }, 'dropout')
    rejects({ dropout: '0.1' }, 'dropout')
    rejects({ layout: 'diffuser' }, 'layout', 'invalid-argument', /did you mean 'diffusers'/)
    rejects({ resblockUpResolutions: [3] }, 'resblockUpResolutions[0]')
    rejects({ middleNormGroups: 24 }, 'modelChannels * channelMult[last]')
    rejects({ downsamplePadding: 0, convResample: false }, 'downsamplePadding')
  })

  it('a transformer needs a contextDim, and a contextDim a transformer', () => {
    rejects({ useSpatialTransformer: true }, 'contextDim')
    rejects({ contextDim: 16 }, 'contextDim')
    rejects({ transformerDepth: 2 }, 'transformerDepth')
    rejects({ useSpatialTransformer: true, contextDim: 16, numHeadChannels: 65 }, 'numHeadChannels')
  })

  it("a transformer's heads are as wide as fits, or without legacy as wide as asked for", () => {
    const inner = (change: object) => {
      const unet = new UNet({ ...base, useSpatialTransformer: true, contextDim: 16, ...change })
      return unet.parameters.get('middle_block.1.transformer_blocks.0.attn2.to_k.weight')?.shape
    }
    assert.deepEqual(inner({ numHeads: 3 }), [63, 16]) // 64 channels
    assert.deepEqual(inner({ numHeadChannels: 24 }), [64, 16])
    assert.deepEqual(inner({ numHeadChannels: 24, legacy: false }), [48, 16])
  })

  it('misspelled options get the likely one, and options that do not exist are refused', () => {
    rejects({ chanelMult: [1] }, 'chanelMult', 'unknown-option', /did you mean 'channelMult'/)
    rejects({ num_heads: 2 }, 'num_heads', 'unknown-option', /did you mean 'numHeads'/)
    rejects({ useFp16: true }, 'useFp16', 'unknown-option')
  })

  it('options with their defaults make the same network again', () => {
    const unet = new UNet({ ...base, numHeads: -1, numHeadChannels: -1 })
    assert.equal(unet.options.numHeads, 1)
    assert.equal(unet.divisor, 2)
    const again = new UNet(unet.options)
    assert.deepEqual(again.options, unet.options)
    assert.deepEqual(again.parameters.slots, unet.parameters.slots)
  })

  it('the CIFAR-10 network has 35.7 million parameters', () => {
    const unet = new UNet({
      ...base,
      imageSize: 32,
      modelChannels: 128,
      channelMult: [1, 2, 2, 2],
      numResBlocks: 2,
    })
    // As improved-diffusion's and diffusers' google/ddpm-cifar10-32.
    assert.equal(unet.parameters.size, 35_746_307)
  })

  it("inputs that don't fit are refused when the graph is built", () => {
    const build = (unet: UNet, dims: [number, number, number, number], labels = false) => {
      const graph = new Graph()
      const y = labels ? graph.input('y', [dims[0], 1, 1, 1], 'i32') : undefined
      return unet.build({ graph, train: true }, graph.input('x', dims), graph.input('t', [dims[0], 1, 1, 1], 'i32'), {
        y,
      })
    }
    const unet = new UNet(base)
    assert.deepEqual(build(unet, [2, 8, 12, 3]).dims, [2, 8, 12, 3])
    assert.throws(() => build(unet, [2, 7, 8, 3]), { code: 'invalid-argument', argument: 'x' })
    assert.throws(() => build(unet, [2, 8, 8, 1]), { code: 'invalid-argument', argument: 'x' })
    assert.throws(() => build(unet, [2, 8, 8, 3], true), { code: 'invalid-argument', argument: 'y' })
    assert.throws(() => build(new UNet({ ...base, numClasses: 5 }), [2, 8, 8, 3]), { argument: 'y' })
    assert.throws(() => build(new UNet({ ...base, dropout: 0.1 }), [2, 8, 8, 3]), { argument: 'rng' })
  })
})
