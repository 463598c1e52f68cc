// RePaint's resampling, on Gaussian data whose pixels go together: what is drawn beside a pixel that is kept has a closed form.
import assert from 'node:assert/strict'
import { makeSchedule } from '../../lib/diffusion/process/schedule'
import type { Settings } from '../../lib/diffusion/process/settings'
import { ancestralPlan } from '../../lib/diffusion/sampling/ancestral'
import { resampledEvaluations } from '../../lib/diffusion/sampling/repaint'
import { DDPM, type SampleOptions, Tensor } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'

type Options = Omit<SampleOptions, 'returnIntermediates'>

const correlation = 0.95

/** Two pixels N(0, 1) of this correlation: E[eps | x_t] = sqrt(1 - bar) Cov(x_t)^-1 x_t. */
function pair(): DDPM {
  const ddpm: DDPM = new DDPM({
    ...{ timesteps: 60, linearStart: 1e-3, linearEnd: 0.2, clipDenoised: false, device: testDevice },
    ...{ imageSize: 1, imageWidth: 2, channels: 1 },
    async model(x, t) {
      const [values, [step]] = [await x.data(), await t.data()]
      const bar = ddpm.alphasCumprod[step]
      const off = bar * correlation
      const scale = Math.sqrt(1 - bar) / (1 - off ** 2)
      const noise = values.map((v, i) => scale * (v - off * values[i ^ 1]))
      return Tensor.from(noise, x.shape)
    },
  })
  return ddpm
}

async function meanOfDrawn(ddpm: DDPM, o: Options): Promise<number> {
  const batchSize = 512
  const image = Tensor.from(new Float32Array(2 * batchSize).fill(1), [batchSize, 1, 1, 2])
  const mask = Tensor.from([1, 0], [1, 1, 1, 2])
  const drawn = await (await ddpm.sample({ batchSize, seed: 1, image, mask, ...o })).data()
  assert.ok(drawn.every((v, i) => i % 2 === 1 || v === 1))
  return drawn.reduce((sum, v, i) => sum + (i % 2 === 1 ? v : 0), 0) / batchSize
}

describe('RePaint', () => {
  it('goes the way of the paper: each part again from its beginning, and the noise between', () => {
    const betas = Float64Array.from({ length: 6 }, (_, t) => 0.1 + 0.05 * t)
    const schedule = makeSchedule(betas, { vPosterior: 0, parameterization: 'eps' })
    const settings = { parameterization: 'eps', varianceType: 'fixed', clipDenoised: false } as Settings
    const { evaluations } = ancestralPlan({ schedule, settings }, {})
    const path = resampledEvaluations(evaluations, { length: 2, times: 2, schedule })
    assert.deepEqual(
      path.map(({ t, jump }) => (jump ? `jump to ${t}` : t)),
      [5, 4, 3, 'jump to 4', 3, 2, 1, 'jump to 2', 1, 0],
    )
    // From the state before t = 2 to that before t = 4: q(x_4 | x_2).
    const kept = (1 - betas[3]) * (1 - betas[4])
    assertClose(path[3].jump!, [Math.sqrt(kept), Math.sqrt(1 - kept)], { abs: 1e-6, rel: 1e-6 }, 'jump')
    assert.deepEqual(resampledEvaluations(evaluations, { length: 2, times: 1, schedule }), [...evaluations])
  })

  for (const sampler of ['ddpm', 'ddim'] as const) {
    it(`brings what is drawn near what it should be beside what is kept (${sampler})`, async () => {
      using ddpm = pair()
      const path: Options = sampler === 'ddpm' ? { sampler } : { sampler, steps: 30, eta: 1 }
      const once = await meanOfDrawn(ddpm, path)
      const often = await meanOfDrawn(ddpm, { ...path, jumpLength: 5, jumpNSample: 8 })
      const [far, near] = [once, often].map((mean) => Math.abs(mean - correlation))
      // 4 standard errors of the conditional deviation sqrt(1 - correlation^2) are 0.055.
      assert.ok(near < 0.055 + far / 4, `mean ${often}, ${once} without resampling, ${correlation} in theory`)
      assert.ok(far > 0.1, `${once}: the plain way itself has to be away`)
    })
  }

  it('image i of a seed is the same in any batch; more rows than the schedule has steps', async () => {
    using ddpm = pair()
    const image = (n: number) => Tensor.from(new Float32Array(2 * n).fill(0.5), [n, 1, 1, 2])
    const mask = Tensor.from([1, 0], [1, 1, 1, 2])
    const o: Options = { seed: 4, mask, jumpLength: 3, jumpNSample: 5 }
    let steps = 0
    const onStep = ({ total }: { total: number }) => {
      steps = total
    }
    const both = await (await ddpm.sample({ ...o, batchSize: 2, image: image(2), onStep })).data()
    assert.ok(steps > 2 * 60 + 12, `${steps} steps`)
    const second = await ddpm.sample({ ...o, batchSize: 1, sampleOffset: 1, image: image(1) })
    assertSameBits(both.slice(2), await second.data(), 'the second image')
    const another = await (await ddpm.sample({ ...o, jumpNSample: 4, batchSize: 2, image: image(2) })).data()
    assert.notDeepEqual(another, both)
  })

  it('needs a mask, and a sampler of which a step needs no other', async () => {
    using ddpm = pair()
    const [image, mask] = [Tensor.from([1, 1], [1, 1, 1, 2]), Tensor.from([1, 0], [1, 1, 1, 2])]
    const rejected = (o: Options, argument: string) =>
      assert.rejects(ddpm.sample({ batchSize: 1, ...o }), { code: 'invalid-argument', argument })
    await rejected({ jumpNSample: 3 }, 'mask')
    await rejected({ image, mask, jumpLength: 3 }, 'jumpNSample')
    await rejected({ image, mask, jumpNSample: 3, sampler: 'dpmsolver++', steps: 5 }, 'jumpNSample')
  })
})
