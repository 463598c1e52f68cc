import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { writeSafetensors } from '../../lib/checkpoint/safetensors'
import { writeTorchCheckpoint } from '../../lib/checkpoint/torch/write'
import { InceptionV3 } from '../../lib/evaluate/inception-v3'
import { inceptionTensors } from '../../lib/nn/inception/fold'
import { InceptionNetwork } from '../../lib/nn/inception/network'
import { sizeOf, Tensor } from '../../lib/tensor'
import { Golden } from '../nn/golden'
import { hashedImages, hashedWeights } from '../nn/hashed-weights'
import { assertClose } from '../support/compare'

type Stored = { dtype: 'F32' | 'I64'; shape: readonly number[]; data: Float32Array | BigInt64Array }

const floats = (shape: readonly number[], data?: Float32Array): Stored => {
  return { dtype: 'F32', shape, data: data ?? new Float32Array(sizeOf(shape)) }
}

describe('InceptionV3', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'inception-'))
  })
  after(() => rm(folder, { recursive: true }))

  const write = async (name: string, stateDict: Record<string, Stored>) => {
    const file = path.join(folder, name)
    if (name.endsWith('.pth')) await writeTorchCheckpoint(file, { stateDict, counters: {} })
    else await writeSafetensors(file, stateDict)
    return file
  }

  it("computes, of a file, what the definition in torch does, and an image's features in any batch", async () => {
    const golden = await Golden.open('inception_v3.safetensors')
    const slots = inceptionTensors(new InceptionNetwork().parameters)
    const tensors: Record<string, Stored> = {}
    for (const [name, tensor] of Object.entries(hashedWeights({ slots }))) {
      tensors[`module.${name}`] = floats(tensor.shape, await tensor.data())
    }
    tensors['module.Conv2d_1a_3x3.bn.num_batches_tracked'] = { dtype: 'I64', shape: [], data: BigInt64Array.of(7n) }
    const file = await write('inception.pth', tensors)
    const inception = await InceptionV3.fromFile(file, { device: 'cpu' })
    const memory = inception.device.memoryInfo().inUse
    try {
      assert.equal(inception.features, 2048)
      assert.match(inception.identity, /^inception-v3 [0-9a-f]{64}$/)
      const { shape } = golden.config.whole
      const images = hashedImages(shape)
      const { features, logits } = await inception.extract(images)
      assert.deepEqual(
        [features.shape, logits.shape],
        [
          [1, 2048],
          [1, 1008],
        ],
      )
      const tolerance = { abs: 1e-4, rel: 0 }
      assertClose(await features.data(), golden.floats('whole/features'), tolerance, 'features')
      assertClose(await logits.data(), golden.floats('whole/logits'), tolerance, 'logits')

      const other = await images.data()
      const two = Tensor.from([...other.map((v) => -v), ...other], [2, ...shape.slice(1)])
      const both = await (await inception.extract(two)).features.data()
      assert.deepEqual(both.subarray(2048), await features.data())

      await assert.rejects(inception.extract(Tensor.from([0], [1, 1, 1, 1])), { argument: 'images' })
      await assert.rejects(inception.extract(Tensor.from([], [0, 3, 9, 9])), { argument: 'images' })
    } finally {
      inception.release()
    }
    inception.release()
    await inception.device.synchronize()
    assert.ok(inception.device.memoryInfo().inUse < memory)
    await assert.rejects(inception.extract(hashedImages([1, 3, 2, 2])), { code: 'disposed' })
  })

  it("refuses torchvision's own weights, with the reason", async () => {
    const first = { 'Conv2d_1a_3x3.conv.weight': floats([1, 1, 1, 1]) }
    for (const [name, rows] of [
      ['fc.weight', 1000],
      ['AuxLogits.fc.weight', 1008],
    ] as const) {
      const file = await write('torchvision.safetensors', { ...first, [name]: floats([rows, 1]) })
      await assert.rejects(InceptionV3.fromFile(file), {
        code: 'unsupported',
        message: /torchvision.safetensors has torchvision's own weights.*pt_inception-2015-12-05-6726825d\.pth/,
      })
    }
  })

  it('refuses a file of another network by what it lacks, and what is no file', async () => {
    const file = await write('unet.safetensors', { 'conv_in.weight': floats([1, 1, 1, 1]) })
    await assert.rejects(InceptionV3.fromFile(file), {
      code: 'state-mismatch',
      message: /unet\.safetensors.*missing: Conv2d_1a_3x3\.conv\.weight, .* and 467 more; unexpected: conv_in\.weight/,
    })
    await assert.rejects(InceptionV3.fromFile(path.join(folder, 'nothing.pth')), { code: 'not-found' })
    // @ts-expect-error: no such option
    await assert.rejects(InceptionV3.fromFile(file, { devise: 'cpu' }), { code: 'unknown-option' })
  })
})
