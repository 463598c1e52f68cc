/** Small pictures of latents: a linear fit to whatever the first stage is. */
import assert from 'node:assert/strict'
import path from 'node:path'
import { IdentityFirstStage, LatentDiffusion, Tensor } from '../../../lib/index'
import { assertClose } from '../../support/compare'
import { Random } from '../../support/random'

const folder = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
const unetConfig = { modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [] }

function latentModel(firstStage: object, channels: number, scaleFactor = 1): LatentDiffusion {
  const network = { ...unetConfig, imageSize: 8, inChannels: channels, outChannels: channels }
  const options = { firstStage: firstStage as IdentityFirstStage, scaleFactor, timesteps: 20, device: 'cpu' } as const
  return new LatentDiffusion({ ...options, unetConfig: network, imageSize: 8, channels })
}

const tensor = (values: ArrayLike<number>, shape: number[]) => Tensor.from(Float32Array.from(values), shape)
const zeros = (shape: number[]) => tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)
const mapped = async (x: Tensor, o: number, f: (pixel: number[]) => number[]) => {
  const [n, c, h, w] = x.shape
  const [values, out] = [await x.data(), new Float32Array(n * o * h * w)]
  for (let i = 0; i < n * h * w; i++) {
    const [sample, place] = [Math.floor(i / (h * w)), i % (h * w)]
    const pixel = Array.from({ length: c }, (_, k) => values[(sample * c + k) * h * w + place])
    f(pixel).forEach((v, k) => {
      out[(sample * o + k) * h * w + place] = v
    })
  }
  return tensor(out, [n, o, h, w])
}

/** Two colours in three channels of latents, turned and shifted by what the weights say. */
class Mixing {
  readonly outChannels = 2
  shift = 0.25
  fitted = 0

  encode(x: Tensor): Promise<Tensor> {
    this.fitted++
    return mapped(x, 3, ([a, b]) => [2 * (a - this.shift), b, b - 3 * a])
  }

  decode(z: Tensor): Promise<Tensor> {
    return mapped(z, 2, ([a, b]) => [a / 2 + this.shift, b])
  }

  async loadStateDict(dict: Record<string, Tensor>): Promise<void> {
    this.shift = (await dict.shift.data())[0]
  }
}

describe('previewLatents', () => {
  it('are the latents themselves, between -1 and 1, where images are not encoded', async () => {
    using model = latentModel(new IdentityFirstStage(), 3)
    const z = new Random(1).normals(2 * 3 * 20)
    const images = await model.previewLatents(tensor(z, [2, 3, 4, 5]))
    assert.deepEqual(images.shape, [2, 3, 4, 5])
    const clipped = z.map((v) => Math.min(1, Math.max(-1, v)))
    assertClose(await images.data(), clipped, { abs: 1e-4, rel: 0 }, 'images')
  })

  it('find what is linear, whatever the scale; once, and again for other weights', async () => {
    const stage = new Mixing()
    using model = latentModel(stage, 3, 0.2)
    const images = tensor(new Random(2).normals(2 * 36), [1, 2, 6, 6])
    const clipped = (await images.data()).map((v) => Math.min(1, Math.max(-1, v)))
    const check = async () => {
      const z = await model.getFirstStageEncoding(await model.encodeFirstStage(images))
      assertClose(await (await model.previewLatents(z)).data(), clipped, { abs: 1e-3, rel: 0 }, 'images')
    }
    await check()
    await check()
    assert.equal(stage.fitted, 3)
    await model.loadStateDict({ 'first_stage_model.shift': tensor([-0.5], [1]) }, { strict: false })
    await check()
    assert.equal(stage.fitted, 5)
  })

  it('of a sampling are small images of each step, and change nothing of it', async () => {
    using model = await LatentDiffusion.fromPretrained(folder, { device: 'cpu' })
    const o = { prompt: 'red cat', steps: 3, seed: 5 }
    const shapes: (readonly number[])[] = []
    let last: Float32Array = new Float32Array()
    const onStep = async ({ predX0 }: { predX0: Tensor }) => {
      const images = await model.previewLatents(predX0)
      shapes.push(images.shape)
      last = await images.data()
    }
    const watched = await (await model.sample({ ...o, onStep })).data()
    assert.deepEqual(shapes, new Array(3).fill([1, 3, 8, 8]))
    assert.ok(last.every((v) => v >= -1 && v <= 1) && new Set(last).size > 2)
    assert.deepEqual(await (await model.sample(o)).data(), watched)
  })

  it('refuses what are no latents of the model, and fits again after a failure', async () => {
    const refused = { name: 'DiffusionError', code: 'invalid-argument', argument: 'z' }
    const stage = new Mixing()
    using model = latentModel(stage, 3)
    for (const shape of [
      [3, 4, 5],
      [1, 2, 4, 5],
    ]) {
      await assert.rejects(model.previewLatents(zeros(shape)), refused)
    }
    await assert.rejects(model.previewLatents([1, 2] as never), refused)
    const { encode } = stage
    stage.encode = () => Promise.reject(new Error('no memory'))
    using other = latentModel(stage, 3)
    await assert.rejects(other.previewLatents(zeros([1, 3, 4, 4])), /no memory/)
    stage.encode = encode
    assert.deepEqual((await other.previewLatents(zeros([1, 3, 4, 4]))).shape, [1, 2, 4, 4])
  })
})
