// Image i of a seed is the same image however it is drawn.
import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { Fixture, goldenModel } from './fixture'

const size = 3 * 8 * 8
const image = 3

/** Image 3 alone, in a batch of 5, and as part of 16. */
async function draws(ddpm: DDPM, read: (batch: { samples: Tensor; intermediates: Tensor[] }) => Tensor) {
  const seed = 11
  const draw = async (batchSize: number, sampleOffset: number) => {
    const batch = await ddpm.sample({ batchSize, sampleOffset, seed, returnIntermediates: true })
    const data = await read(batch).data()
    return data.slice((image - sampleOffset) * size, (image - sampleOffset + 1) * size)
  }
  return { alone: await draw(1, image), of5: await draw(5, 0), of16: await draw(16, 0), shifted: await draw(2, 2) }
}

function assertAllSame(images: Record<string, Float32Array>, what: string): void {
  for (const [name, data] of Object.entries(images)) assertSameBits(data, images.alone, `${what}, ${name}`)
}

describe('image i of a seed', () => {
  const shape = { imageSize: 8, channels: 3, device: testDevice } as const

  it('has the same noise bit for bit alone and in batches of 5 and 16', async () => {
    using ddpm = new DDPM({
      ...shape,
      timesteps: 20,
      model: (x) => Tensor.from(new Float32Array(x.size), x.shape),
    })
    assertAllSame(await draws(ddpm, (batch) => batch.intermediates[0]), 'x_T')
    // With a denoiser that is 0, nothing but the noise tells images apart.
    assertAllSame(await draws(ddpm, (batch) => batch.samples), 'sum of the noises')
  })

  it('is the same bit for bit with deterministic: true', async () => {
    const fixture = await Fixture.load('sampling_T50')
    using ddpm = await goldenModel(fixture, { ...shape, timesteps: 10, linearEnd: 0.5, deterministic: true })
    assertAllSame(await draws(ddpm, (batch) => batch.samples), 'samples')
  })

  it('is the same within 1e-3 without', async () => {
    const fixture = await Fixture.load('sampling_T50')
    using ddpm = await goldenModel(fixture, { ...shape, timesteps: 10, linearEnd: 0.5 })
    const images = await draws(ddpm, (batch) => batch.samples)
    for (const [name, data] of Object.entries(images)) assertClose(data, images.alone, { abs: 1e-3, rel: 0 }, name)
  })

  for (const device of testedBackends.filter((name) => name !== testDevice)) {
    it(`is the same within 1e-3 on ${testDevice} and on ${device}, after 50 steps`, async () => {
      const fixture = await Fixture.load('sampling_T50')
      const draw = async (options: DDPMOptions) => {
        using ddpm = await goldenModel(fixture, { ...shape, ...options })
        return (await ddpm.sample({ batchSize: 1, sampleOffset: image, seed: 11 })).data()
      }
      assertClose(await draw({ device }), await draw({}), { abs: 1e-3, rel: 0 }, 'image')
    }).timeout(600_000) // kernels of GPUs on a CPU: seconds where nothing else runs
  }

  it('another seed draws another image', async () => {
    using ddpm = new DDPM({ ...shape, timesteps: 5, model: (x) => x })
    const [a, b] = [await ddpm.sample({ batchSize: 1, seed: 1 }), await ddpm.sample({ batchSize: 1, seed: 2 })]
    assert.notDeepEqual(await a.data(), await b.data())
  })
})
