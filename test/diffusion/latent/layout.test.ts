// Boxes as tokens, by the rules of taming-transformers' builder; Layout2ImgDiffusion's pictures of them.
import assert from 'node:assert/strict'
import {
  BoundingBoxes,
  type Box,
  IdentityFirstStage,
  Layout2ImgDiffusion,
  readCompVisConfig,
  Tensor,
} from '../../../lib/index'
import type { UNetOptions } from '../../../lib/nn/unet/options'
import { testDevice } from '../../support/devices'
import { randomize } from '../fixture'
import { configOf, published } from './published-configs'

// 4 x 4 places: the token of the third place in the second row is 6, of the last in the last 15, which is also that of nothing.
const small = { noObjectClasses: 3, noMaxObjects: 2, noTokens: 16 }
const tokensOf = async (tensor: Tensor) => [...(await tensor.values())]

describe('boxes as tokens', () => {
  it('two corners an object, and nothing for those that are missing', async () => {
    const boxes = new BoundingBoxes(small)
    assert.equal(boxes.embeddingDim, 6)
    const box: Box = [1 / 3, 0, 1 / 3, 1 / 3]
    const tokens = boxes.build([{ categoryNo: 2, bbox: box }])
    assert.deepEqual(await tokensOf(tokens), [2, 1, 6, 15, 15, 15])
    const { objects, crop } = await boxes.inverseBuild(tokens)
    assert.equal(crop, undefined)
    assert.equal(objects.length, 1)
    assert.equal(objects[0].categoryNo, 2)
    for (const [i, v] of objects[0].bbox.entries()) assert.ok(Math.abs(v - box[i]) < 1e-12)
    // What is beyond noMaxObjects, or outside of what is seen, is left out.
    const all = [0, 1, 2].map((categoryNo) => ({ categoryNo, bbox: [0, 0, 1, 1] as Box }))
    assert.deepEqual(await tokensOf(boxes.build(all)), [0, 0, 15, 1, 0, 15])
    const right = { cropCoordinates: [2 / 3, 0, 1 / 3, 1] as Box }
    assert.deepEqual(
      await tokensOf(boxes.build([{ categoryNo: 2, bbox: [0, 0, 1 / 3, 1 / 3] }], right)),
      [15, 15, 15, 15, 15, 15],
    )
    // A crop's own coordinates, mirrored where it is asked for: the left third of the image is the right of the mirrored one.
    const left = { cropCoordinates: [0, 0, 0.5, 1] as Box }
    const third = { categoryNo: 0, bbox: [0, 0, 1 / 6, 1 / 3] as Box }
    assert.deepEqual((await tokensOf(boxes.build([third], left))).slice(0, 3), [0, 0, 5])
    const mirrored = await tokensOf(boxes.build([third], { ...left, horizontalFlip: true }))
    assert.deepEqual(mirrored.slice(0, 3), [0, 2, 7])
  })

  it('what is said of an object, and which part is seen', async () => {
    const options = { ...small, noTokens: 64, encodeCrop: true, useGroupParameter: true, useAdditionalParameters: true }
    const boxes = new BoundingBoxes(options)
    const object = { categoryNo: 1, bbox: [0, 0, 1, 1] as Box, isGroupOf: true, isDepiction: true }
    const tokens = boxes.build([object], { cropCoordinates: [0, 0, 3 / 7, 1] })
    assert.deepEqual(await tokensOf(tokens), [1 + 3 * 5, 0, 63, 63, 63, 63, 0, 7 * 8 + 3])
    const { objects, crop } = await boxes.inverseBuild(tokens)
    const { isGroupOf, isOccluded, isDepiction, isInside } = objects[0]
    assert.deepEqual([isGroupOf, isOccluded, isDepiction, isInside], [true, false, true, false])
    assert.ok(Math.abs(crop![2] - 3 / 7) < 1e-12)
    const plain = new BoundingBoxes({ ...options, useGroupParameter: false, useAdditionalParameters: false })
    assert.equal((await tokensOf(plain.build([object])))[0], 1)
  })

  it('is drawn, each box 3 pixels wide inside of its edges', async () => {
    const boxes = new BoundingBoxes(small)
    const tokens = boxes.build([{ categoryNo: 0, bbox: [1 / 3, 1 / 3, 1 / 3, 1 / 3] }])
    const picture = await boxes.plot(tokens, [30, 24])
    assert.deepEqual(picture.shape, [3, 24, 30])
    const values = await picture.data()
    const at = (x: number, y: number) => [0, 1, 2].map((c) => Math.round((values[(c * 24 + y) * 30 + x] + 1) * 127.5))
    const [white, blue] = [
      [255, 255, 255],
      [30, 118, 179],
    ]
    for (const [x, y] of [
      [10, 8],
      [20, 16],
      [12, 10],
      [10, 16],
      [15, 9],
      [18, 12],
    ])
      assert.deepEqual(at(x, y), blue)
    for (const [x, y] of [
      [9, 8],
      [21, 16],
      [13, 11],
      [17, 13],
      [0, 0],
    ])
      assert.deepEqual(at(x, y), white)
  })

  it('refuses what is no token, category or box', async () => {
    const boxes = new BoundingBoxes(small)
    const invalid = (argument: string) => ({ code: 'invalid-argument', argument })
    assert.throws(() => boxes.build([{ categoryNo: 3, bbox: [0, 0, 1, 1] }]), invalid('categoryNo'))
    assert.throws(() => boxes.build([{ categoryNo: 0, bbox: [Number.NaN, 0, 1, 1] }]), invalid('bbox'))
    const many = new BoundingBoxes({ ...small, useAdditionalParameters: true })
    const inside = { categoryNo: 0, bbox: [0, 0, 1, 1] as Box, isInside: true }
    assert.throws(() => many.build([inside]), invalid('objects'))
    assert.throws(() => boxes.build([], { cropCoordinates: [0, 0, 0, 1] }), invalid('cropCoordinates'))
    await assert.rejects(boxes.inverseBuild(Tensor.from(Int32Array.of(1, 2))), invalid('tokens'))
    await assert.rejects(boxes.inverseBuild(Tensor.from(new Int32Array(6).fill(16))), invalid('tokens'))
    assert.throws(() => new BoundingBoxes({ ...small, noTokens: 0 }), invalid('noTokens'))
  })
})

it(`Layout2ImgDiffusion draws from boxes, and shows them, on ${testDevice}`, async () => {
  const unetConfig = {
    ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1] },
    ...{ numResBlocks: 1, attentionResolutions: [1], numHeads: 1, useSpatialTransformer: true, transformerDepth: 1 },
    contextDim: 6,
  }
  // The tokens' numbers as context.
  const encode = async (tokens: Tensor) => {
    const [n, length] = tokens.shape
    const values = await tokens.values()
    const data = Float32Array.from({ length: n * length * 6 }, (_, i) => Math.sin(values[Math.floor(i / 6)] + i))
    return Tensor.from(data, [n, length, 6])
  }
  const settings = { timesteps: 4, device: testDevice, useEma: false, imageSize: 4, channels: 2, unetConfig }
  const make = (o: object = {}) =>
    new Layout2ImgDiffusion({
      ...{ ...settings, firstStage: new IdentityFirstStage(), condStage: { encode: encode as never } },
      ...{ conditioningKey: 'crossattn', conditionalBuilder: small, categoryNames: ['cat', 'dog', 'hat'], ...o },
    })
  using model = (await randomize(make())) as Layout2ImgDiffusion
  const boxes = model.conditionalBuilder!
  const layout = await tokensOf(boxes.build([{ categoryNo: 1, bbox: [0, 0, 1 / 3, 1 / 3] }]))
  const empty = await tokensOf(boxes.build([]))
  const coordinates = Tensor.from(Int32Array.from([...layout, ...empty]), [2, 6])
  const batch = { image: Tensor.randn([2, 4, 4, 2]), coordinates_bbox: coordinates }
  const log = await model.logImages(batch, { seed: 1, returnKeys: ['samples'] })
  assert.deepEqual(Object.keys(log).sort(), ['bboxImage', 'bboxLabels', 'samples'])
  assert.deepEqual(log.bboxLabels, [['dog'], []])
  assert.deepEqual(log.bboxImage?.shape, [2, 3, 256, 256])
  const own = await boxes.plot(Tensor.from(Int32Array.from(layout)))
  assert.deepEqual((await log.bboxImage!.data()).slice(0, own.size), await own.data())
  model.configureOptimizers({ lr: 1e-3 })
  assert.ok((await model.trainingStep(batch)).loss > 0)
  using bare = make({ conditionalBuilder: undefined })
  const plain = await bare.logImages(batch, { sample: false, plotProgressiveRows: false })
  assert.equal(plain.bboxImage, undefined)
  assert.throws(() => make({ condStageKey: 'caption' }), { code: 'invalid-argument', argument: 'condStageKey' })
  assert.throws(() => make({ splitInputParams: { ks: [4, 4], stride: [2, 2] } }), { code: 'unsupported' })
})

it('Layout2ImgDiffusion opens by the YAML of the published layouts', async () => {
  const config = configOf(published['models/ldm/layout2img-openimages256/config.yaml'])
  const target = 'ldm.models.diffusion.ddpm.Layout2ImgDiffusion'
  const { options } = await readCompVisConfig({ model: { ...config.model, target } })
  const unetConfig = { ...(options.unetConfig as UNetOptions), modelChannels: 32, numHeadChannels: 32 }
  const boxes = { noObjectClasses: 600, noMaxObjects: 30, noTokens: 8192, encodeCrop: true }
  const own = { device: 'cpu', unetConfig, conditionalBuilder: boxes } as const
  using model = await Layout2ImgDiffusion.fromConfig({ model: { ...config.model, target } }, own)
  assert.ok(model instanceof Layout2ImgDiffusion)
  assert.equal(model.conditionalBuilder?.embeddingDim, 92)
  assert.equal(model.condStageKey, 'coordinates_bbox')
})
