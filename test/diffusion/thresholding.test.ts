import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { type SampleOptions as AllOptions, DDPM, type DDPMOptions } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { randomize } from './fixture'

type SampleOptions = Omit<AllOptions, 'returnIntermediates'>

const unetConfig = {
  ...{ imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1], numResBlocks: 1 },
  ...{ attentionResolutions: [], numClasses: 3 },
}
const settings: DDPMOptions = {
  ...{ unetConfig, timesteps: 20, useEma: false, device: testDevice },
  ...{ nullClass: 2, deterministic: true },
}
const threshold = { ratio: 0.9, max: 9 }
/** Of 64 values: 0.9 * 63 = 56.7. */
function thresholdOf(x0: Float32Array): number {
  const sorted = x0.map(Math.abs).sort()
  return Math.min(Math.max(sorted[56] + 0.7 * (sorted[57] - sorted[56]), 1), threshold.max)
}

async function network(o: DDPMOptions = {}): Promise<DDPM> {
  const ddpm = new DDPM({ ...settings, ...o })
  await randomize(ddpm)
  return ddpm
}

describe('dynamic thresholding', () => {
  it('a single step to the end is the predicted image, each sample by its own quantile', async () => {
    using plain = await network()
    using ddpm = await network({ thresholding: threshold })
    const one: SampleOptions = {
      sampler: 'ddim',
      steps: 1,
      timestepSpacing: 'trailing',
      seed: 3,
      classLabels: [0, 1, 0],
    }
    for (const more of [{}, { guidanceScale: 2 }]) {
      const x0 = await (await plain.sample({ ...one, ...more, batchSize: 3 })).data()
      const found = await (await ddpm.sample({ ...one, ...more, batchSize: 3 })).data()
      const scales = new Set<number>()
      for (let k = 0; k < 3; k++) {
        const own = x0.subarray(64 * k, 64 * (k + 1))
        const s = thresholdOf(own)
        scales.add(s)
        const expected = own.map((v) => Math.min(Math.max(v / s, -1), 1))
        assertClose(found.subarray(64 * k, 64 * (k + 1)), expected, { abs: 1e-5, rel: 1e-5 }, `sample ${k}`)
      }
      assert.ok(scales.size > 1, 'different quantiles')
    }
  })

  for (const options of [
    {},
    { steps: 6 },
    { sampler: 'ddim', steps: 6, eta: 0.5 },
    { sampler: 'dpmsolver++', steps: 6 },
    { sampler: 'unipc', steps: 6, solverOrder: 3 },
  ] as SampleOptions[]) {
    it(`${JSON.stringify(options)}: an image is the same in any batch, and another than without`, async () => {
      using ddpm = await network({ thresholding: threshold })
      const draw = async (o: SampleOptions) => (await ddpm.sample({ seed: 3, classLabels: 1, ...options, ...o })).data()
      const batch = await draw({ batchSize: 3 })
      assertSameBits(await draw({ batchSize: 1, sampleOffset: 2 }), batch.subarray(128), 'the third')
      assert.notDeepEqual(await draw({ batchSize: 3, clipDenoised: false }), batch)
    })
  }

  it('is of each sample, however many there are', async () => {
    using ddpm = await network({ thresholding: threshold })
    const draw = async (o: SampleOptions) => (await ddpm.sample({ seed: 3, classLabels: 1, steps: 2, ...o })).data()
    const batch = await draw({ batchSize: 60 })
    assertSameBits(await draw({ batchSize: 1, sampleOffset: 59 }), batch.subarray(59 * 64), 'the last')
  })

  it('goes with a learned variance', async () => {
    const learned = { unetConfig: { ...unetConfig, outChannels: 2 }, varianceType: 'learned_range' } as const
    // A quantile that can't be above 1 is the ordinary clipping.
    using ddpm = await network({ ...learned, thresholding: { ratio: 0.9, max: 1 } })
    using clipped = await network(learned)
    const draw = async (model: DDPM) => (await model.sample({ batchSize: 2, seed: 3, classLabels: 1 })).data()
    assertClose(await draw(ddpm), await draw(clipped), { abs: 1e-5, rel: 1e-5 }, 'samples')
  })

  it('is kept in a folder of diffusers, and says what it takes', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-threshold-'))
    try {
      using ddpm = await network({ thresholding: threshold })
      await ddpm.savePretrained(folder)
      using again = await DDPM.fromPretrained(folder, { device: testDevice, deterministic: true, nullClass: 2 })
      assert.deepEqual([again.config.thresholding, again.warnings()], [threshold, []])
      const draw = async (model: DDPM, o: SampleOptions = {}) =>
        (await model.sample({ batchSize: 2, seed: 3, classLabels: 1, ...o })).data()
      assertClose(await draw(again), await draw(ddpm), { abs: 1e-5, rel: 1e-5 }, 'samples')
      const scheduled = await draw(again, { scheduler: again.schedulerConfig, steps: 20 })
      assertClose(scheduled, await draw(ddpm), { abs: 1e-4, rel: 1e-4 }, 'scheduler')
    } finally {
      await rm(folder, { recursive: true })
    }
    for (const thresholding of [{}, { ratio: 2, max: 1 }, { ratio: 0.5 }, { ratio: 0.5, max: 1, more: 1 }, 3]) {
      const make = () => new DDPM({ ...settings, thresholding: thresholding as typeof threshold })
      assert.throws(make, { code: 'invalid-argument', argument: 'thresholding' })
    }
  })
})
