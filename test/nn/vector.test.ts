// Networks that are told a vector: against PyTorch's, and the options.
import assert from 'node:assert/strict'
import { unet2DConfig } from '../../lib/checkpoint/diffusers/unet'
import { adaptable } from '../../lib/nn/lora/lora'
import { UNet, type UNetOptions } from '../../lib/nn/unet/unet'
import { assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { runGraph, testedBackends } from '../support/run-graph'
import { smallUNet } from '../support/small-unet'
import { checkGolden, checkGoldenOutput } from './check-golden'
import { Golden } from './golden'
import { hashedWeights } from './hashed-weights'
import { stepFeeds, stepOutput } from './network-step'

const files = ['unet_sequential', 'unet_augment']

for (const backend of testedBackends) {
  describe(`networks with vectors on ${backend}`, () => {
    for (const name of files) {
      it(`${name}: output, loss and gradients are PyTorch's`, async () => {
        const golden = await Golden.open(`${name}.safetensors`)
        const unet = new UNet(golden.unetOptions())
        const weights = hashedWeights(unet.parameters)
        await checkGolden(backend, golden, unet, weights)
        await checkGoldenOutput(backend, golden, unet, weights)
      })
    }

    it('augmentation: no vector is one of zeros', async () => {
      const unet = new UNet({ ...smallUNet, numClasses: 3, vectorEmbedding: 'augment' })
      const given = stepFeeds(new Random(1), unet)
      const zeros = { ...given.vector, data: new Float32Array(2 * 9) }
      const { vector: _, ...without } = given
      const outOf = async (weights: Float32Array, feeds: typeof given) => {
        const build = runGraph(backend, feeds, (graph, inputs) => ({ out: stepOutput(unet, graph, inputs, false) }), {
          banks: { weights },
        })
        return (await build).out
      }
      const weights = unet.parameters.initialize(3).map((w, i) => w + 0.05 * Math.sin(i))
      const none = await outOf(weights, without)
      assertSameBits(await outOf(weights, { ...given, vector: zeros }), none, 'zeros')
      assert.notDeepEqual(await outOf(weights, given), none)
    })
  })
}

describe('options of vectors', () => {
  const of = (change: Partial<UNetOptions>) => new UNet({ ...smallUNet, ...change })
  const rejects = (change: Partial<UNetOptions>, argument: string) =>
    assert.throws(() => of(change), { name: 'DiffusionError', code: 'invalid-argument', argument })

  it('what the kinds imply, by either names', () => {
    const vectors = (change: Partial<UNetOptions>) => {
      const { vectorDim, vectorIsOptional, options, parameters } = of(change)
      assert.deepEqual(new UNet(options).options, options)
      const plain = new Set(of({ layout: change.layout }).parameters.slots.map(({ name }) => name))
      const added = parameters.slots.filter(({ name }) => !plain.has(name)).map(({ name }) => name)
      return [vectorDim, vectorIsOptional, options.vectorEmbedding, added]
    }
    const width = 4 * smallUNet.modelChannels
    assert.deepEqual(vectors({}), [undefined, false, undefined, []])
    assert.deepEqual(vectors({ vectorEmbedding: 'identity' }), [width, false, 'identity', []])
    assert.deepEqual(vectors({ vectorEmbedding: 'augment' }), [9, true, 'augment', ['map_augment.weight']])
    const names = (...layers: string[]) => layers.flatMap((layer) => [`${layer}.weight`, `${layer}.bias`])
    const [ours, theirs] = [
      names('label_emb.0.0', 'label_emb.0.2'),
      names('class_embedding.linear_1', 'class_embedding.linear_2'),
    ]
    assert.deepEqual(vectors({ vectorDim: 6 }), [6, false, 'mlp', ours])
    assert.deepEqual(vectors({ vectorDim: 6, layout: 'diffusers' }), [6, false, 'mlp', theirs])
  })

  it('what does not go together is refused', () => {
    rejects({ vectorEmbedding: 'mlp' }, 'vectorDim')
    rejects({ vectorEmbedding: 'identity', vectorDim: 7 }, 'vectorDim')
    rejects({ vectorDim: 6, numClasses: 4 }, 'numClasses')
    rejects({ vectorDim: 0 }, 'vectorDim')
    rejects({ vectorEmbedding: 'table' as 'mlp' }, 'vectorEmbedding')
  })

  it('a network without the vector that it needs, or with one too many, is no graph', async () => {
    const build = (unet: UNet, vectorDim?: number) => {
      const feeds = stepFeeds(new Random(1), { numClasses: unet.numClasses, vectorDim })
      return runGraph('cpu', feeds, (graph, inputs) => ({ out: stepOutput(unet, graph, inputs, false) }), {
        banks: { weights: unet.parameters.initialize(1) },
      })
    }
    const refused = { name: 'DiffusionError', code: 'invalid-argument', argument: 'vector' }
    await assert.rejects(build(of({ vectorDim: 6 })), refused)
    await assert.rejects(build(of({ vectorDim: 6 }), 5), refused)
    await assert.rejects(build(of({ vectorEmbedding: 'augment' }), 6), refused)
    await assert.rejects(build(of({}), 6), refused)
  })

  it('low-rank updates are not of the layer of augmentation, which other libraries have not got', () => {
    const modules = [...adaptable(of({ vectorEmbedding: 'augment' }).parameters).keys()]
    assert.ok(modules.includes('time_embed.0') && !modules.includes('map_augment'))
  })

  it("UNet2DModel has 'identity' alone", () => {
    const config = unet2DConfig(of({ layout: 'diffusers', vectorEmbedding: 'identity' }).options)
    assert.deepEqual([config.class_embed_type, config.num_class_embeds], ['identity', null])
    assert.throws(() => unet2DConfig(of({ layout: 'diffusers', vectorDim: 6 }).options), {
      code: 'unsupported',
      argument: 'vectorEmbedding',
    })
  })
})
