/** Stages whose weights are held in 16 or 8 bits: the bits of stages with float32 weights of the same values. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { Classifier } from '../../lib/diffusion/classifier/classifier'
import { weightFormats } from '../../lib/native'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { SpatialRescaler } from '../../lib/stages/spatial-rescaler'
import type { Stage, StageOptions } from '../../lib/stages/stage'
import { FrozenCLIPEmbedder } from '../../lib/stages/text/clip'
import { FrozenOpenCLIPEmbedder } from '../../lib/stages/text/open-clip'
import { BERTEmbedder } from '../../lib/stages/text/transformer'
import { VQModelInterface } from '../../lib/stages/vq-model'
import { Tensor } from '../../lib/tensor'
import { hashedWeights } from '../nn/hashed-weights'
import { assertSameBits } from '../support/compare'
import { devicesOfFormat, testDevice } from '../support/devices'
import { Random } from '../support/random'

const random = new Random(6)
const x = Tensor.from(random.normals(2 * 3 * 16 * 16), [2, 3, 16, 16])
const z = Tensor.from(random.normals(2 * 4 * 8 * 8), [2, 4, 8, 8])
const ids = Tensor.from(Int32Array.of(5, 6, 7, 29, 8, 9, 29, 29), [2, 4])

const ddconfig = {
  ...{ ch: 32, chMult: [1, 2], numResBlocks: 1, attnResolutions: [8], resolution: 16 },
  ...{ zChannels: 4, inChannels: 3, outCh: 3 },
}
const clip = { vocabSize: 30, hiddenSize: 16, intermediateSize: 24, numHiddenLayers: 2, numAttentionHeads: 2 }
const openClip = { vocabSize: 30, width: 16, heads: 2, layers: 2, contextLength: 8, embedDim: 12 }
const encoder = {
  ...{ imageSize: 16, inChannels: 3, modelChannels: 16, outChannels: 5, numResBlocks: 1, channelMult: [1, 2] },
  ...{ attentionResolutions: [2], numHeadChannels: 8, normGroups: 8 },
}

interface Case<S extends Stage> {
  make(o: StageOptions): S
  outputs(stage: S): Promise<readonly Tensor[]>
}
const of = <S extends Stage>(make: Case<S>['make'], outputs: Case<S>['outputs']) => ({ make, outputs }) as Case<Stage>

const cases: Readonly<Record<string, Case<Stage>>> = {
  AutoencoderKL: of(
    (o) => new AutoencoderKL({ ddconfig, embedDim: 4, ...o }),
    async (stage) => {
      const images = await stage.decode(z)
      const upstream = Tensor.from(new Random(7).normals(images.size), images.shape)
      const gradient = await stage.decodeGradient(z, upstream)
      return [(await stage.encode(x)).parameters, images, gradient]
    },
  ),
  VQModelInterface: of(
    (o) => new VQModelInterface({ ddconfig: { ...ddconfig, doubleZ: false }, embedDim: 4, nEmbed: 12, ...o }),
    async (stage) => [await stage.encode(x), await stage.decode(z)],
  ),
  FrozenCLIPEmbedder: of(
    (o) => new FrozenCLIPEmbedder({ textConfig: { ...clip, maxPositionEmbeddings: 8 }, ...o }),
    async (stage) => [await stage.encode(ids)],
  ),
  FrozenOpenCLIPEmbedder: of(
    (o) => new FrozenOpenCLIPEmbedder({ textConfig: openClip, ...o }),
    async (stage) => [await stage.encode(ids)],
  ),
  BERTEmbedder: of(
    (o) => new BERTEmbedder({ nEmbed: 16, nLayer: 2, vocabSize: 30, maxSeqLen: 8, ...o }),
    async (stage) => [await stage.encode(ids)],
  ),
  SpatialRescaler: of(
    (o) => new SpatialRescaler({ inChannels: 3, outChannels: 5, ...o }),
    async (stage) => [await stage.encode(x)],
  ),
  ...Object.fromEntries(
    (['adaptive', 'attention', 'spatial'] as const).map((pool) => [
      `Classifier, pool '${pool}'`,
      of(
        (o) => new Classifier({ ...o, encoderConfig: { ...encoder, pool }, timesteps: 20, precision: undefined }),
        async (stage) => [await stage.logits(x, 3), await stage.logProbGradient(x, 3, [1, 4])],
      ),
    ]),
  ),
}

for (const weightFormat of ['fp16', 'bf16', 'int8'] as const) {
  for (const device of devicesOfFormat(weightFormat)) {
    describe(`stages with ${weightFormat} weights on ${device}`, () => {
      for (const [name, { make, outputs }] of Object.entries(cases)) {
        it(name, async () => {
          using narrow = make({ device, weightFormat })
          using wide = make({ device })
          assert.equal(narrow.parameters.format, weightFormat)
          await narrow.loadStateDict(hashedWeights(narrow.parameters))
          await wide.loadStateDict(await narrow.stateDict())
          const [actual, expected] = [await outputs(narrow), await outputs(wide)]
          for (const [i, tensor] of actual.entries()) {
            assert.ok((await tensor.data()).some((v) => v !== 0))
            assertSameBits(await tensor.data(), await expected[i].data(), `output ${i}`)
          }
          await narrow.offload()
          assertSameBits(await (await outputs(narrow))[0].data(), await expected[0].data(), 'kept')
        })
      }
    })
  }
}

describe('a stage on a device that does not take a format', () => {
  it('is refused', () => {
    const { weightFormats: has } = Device.open(testDevice).info()
    for (const weightFormat of weightFormats.filter((name) => !has.includes(name))) {
      const make = () => cases.AutoencoderKL.make({ device: testDevice, weightFormat })
      assert.throws(make, { code: 'unsupported', argument: 'weightFormat' })
    }
  })
})
