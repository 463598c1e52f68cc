// More kinds of programs than a model keeps, all at once.
import assert from 'node:assert/strict'
import { DDPM, Tensor } from '../../lib/index'
import { assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { smallUNet } from '../support/small-unet'

const kinds = 20 // of 16 that are kept
const options = {
  unetConfig: smallUNet,
  imageSize: 8,
  timesteps: 10,
  seed: 1,
  deterministic: true,
  device: testDevice,
} as const
const sizes = Array.from({ length: kinds }, (_, i) => i + 1)

const images = (n: number) => Tensor.randn([n, 3, 8, 8], { seed: 1 })

describe('calls of more kinds than a model keeps programs for', () => {
  const calls: Record<string, (ddpm: DDPM, n: number) => Promise<Tensor>> = {
    sample: (ddpm, n) => ddpm.sample({ batchSize: n, steps: 4, seed: 3 }),
    pSample: (ddpm, n) => ddpm.pSample(images(n), 3, { seed: 3 }),
    qSample: (ddpm, n) => ddpm.qSample(images(n), 3, images(n)),
    getLoss: (ddpm, n) => ddpm.getLoss(images(n), Tensor.randn([n, 3, 8, 8], { seed: 2 })),
  }

  for (const [name, call] of Object.entries(calls)) {
    it(`${name}: at once what they are one after the other, and no more memory`, async () => {
      using ddpm = new DDPM(options)
      const read = async (n: number) => (await call(ddpm, n)).data() as Promise<Float32Array>
      const oneByOne = async () => {
        const results: Float32Array[] = []
        for (const n of sizes) results.push(await read(n))
        return results
      }
      const atOnce = () => Promise.all(sizes.map(read))
      const expected = await oneByOne()
      for (const [i, result] of (await atOnce()).entries()) assertSameBits(result, expected[i], `batch of ${sizes[i]}`)
      assert.equal(Object.keys(ddpm.memoryInfo().programs).length, 16)
      const inUse = async () => {
        await oneByOne() // the same ones are kept again
        await ddpm.device.synchronize() // what is evicted is released in its turn
        return ddpm.memoryInfo().device.inUse
      }
      const before = await inUse()
      await atOnce()
      assert.equal(await inUse(), before)
    })
  }

  it('may fail or be aborted meanwhile', async () => {
    using ddpm = new DDPM(options)
    const stop = new AbortController()
    const all = sizes.map((batchSize) => {
      const onStep = ({ step }: { step: number }) => {
        if (step === 2 && batchSize === kinds) stop.abort()
      }
      return ddpm.sample({ batchSize, steps: 4, seed: 3, signal: stop.signal, onStep })
    })
    for (const result of await Promise.allSettled(all)) {
      if (result.status === 'rejected') assert.equal(result.reason.code, 'aborted')
    }
    await ddpm.pSample(images(1), 3)
    assert.ok(Object.keys(ddpm.memoryInfo().programs).length <= 16)
  })
})
