// Configurations that nobody trained: refused before layers are made of them.
import assert from 'node:assert/strict'
import { DDPM, UNet, type UNetOptions } from '../../lib/index'
import { checkUNetFits } from '../../lib/nn/unet-fit'

const small: UNetOptions = {
  ...{ imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 32, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [] },
}
const transformer = { useSpatialTransformer: true, contextDim: 8, attentionResolutions: [1] }

describe('limits of configurations', () => {
  const cases: [string, Record<string, unknown>][] = [
    ['imageSize', { imageSize: 2 ** 30 }],
    ['inChannels', { inChannels: 1e9 }],
    ['modelChannels', { modelChannels: 2 ** 40 }],
    ['numResBlocks', { numResBlocks: 1e9 }],
    ['channelMult', { channelMult: new Array(1e6).fill(1) }],
    ['channelMult[1]', { channelMult: [1, 1e9] }],
    ['attentionResolutions', { attentionResolutions: new Array(1e6).fill(1) }],
    ['numClasses', { numClasses: 1e12 }],
    ['numHeads', { numHeads: 1e9 }],
    ['numHeadChannels', { numHeadChannels: 1e9 }],
    ['normGroups', { normGroups: 1e9 }],
    ['middleNormGroups', { middleNormGroups: 1e9 }],
    ['transformerDepth', { ...transformer, transformerDepth: 1e9 }],
    ['contextDim', { ...transformer, contextDim: 1e9 }],
    // Each within its own limit, together beyond.
    ['numResBlocks', { ...transformer, numResBlocks: 100, transformerDepth: 100 }],
    ['modelChannels', { modelChannels: 2 ** 14, channelMult: [1, 64], numResBlocks: 100 }],
  ]
  for (const [argument, options] of cases) {
    it(`${argument}: ${JSON.stringify(options).slice(0, 60)}`, () => {
      assert.throws(() => new UNet({ ...small, ...options } as UNetOptions), {
        ...{ name: 'DiffusionError', code: 'invalid-argument', argument },
      })
    })
  }

  it('timesteps, and betas in their place', () => {
    const make = (options: object) => () => new DDPM({ unetConfig: small, device: 'cpu', ...options }).dispose()
    const refused = (argument: string) => ({ name: 'DiffusionError', code: 'invalid-argument', argument })
    assert.throws(make({ timesteps: 2e9 }), refused('timesteps'))
    assert.throws(make({ givenBetas: new Float32Array(1e6).fill(0.5) }), refused('givenBetas'))
  })

  it('options with endless names, and values that are no values', () => {
    const name = 'modelChannel'.repeat(1e5)
    assert.throws(() => new UNet({ ...small, [name]: 1 } as UNetOptions), { code: 'unknown-option' })
    let deep: unknown = 1
    for (let i = 0; i < 20_000; i++) deep = [deep]
    for (const value of [deep, { constructor: { name: { toString: 1 } } }, { shape: [{ toString: 1 }] }]) {
      const options = { ...small, numResBlocks: value } as unknown as UNetOptions
      assert.throws(() => new UNet(options), { name: 'DiffusionError', code: 'invalid-argument' })
    }
  })

  it('a network is compared with the tensors that there are', () => {
    const { slots } = new UNet(small).parameters
    const shapes = Object.fromEntries(slots.map(({ name, shape }) => [name, { shape }]))
    checkUNetFits(small, shapes, 'x')
    const mismatch = { name: 'DiffusionError', code: 'state-mismatch' }
    assert.throws(() => checkUNetFits({ ...small, numResBlocks: 128 }, shapes, 'x'), mismatch)
    assert.throws(() => checkUNetFits({ ...small, modelChannels: 64 }, shapes, 'x'), mismatch)
    const { [slots[3].name]: _, ...missing } = shapes
    assert.throws(() => checkUNetFits(small, missing, 'x'), { ...mismatch, argument: slots[3].name })
    assert.throws(() => checkUNetFits(small, {}, 'x'), mismatch)
  })
})
