import assert from 'node:assert/strict'
import { DDPM, Tensor } from '../../lib/index'
import { assertClose, assertCloseToScale } from '../support/compare'
import { testDevice } from '../support/devices'
import { camelCase, Fixture } from './fixture'

/** [n, T] with its columns in the other order. */
function reversed(values: Float32Array, T: number): Float32Array {
  return values.map((_, i) => values[Math.floor(i / T) * T + (T - 1 - (i % T))])
}

describe('calc_bpd', () => {
  it('every case: terms, prior, total and errors', async () => {
    const [fixture, weights] = [await Fixture.load('nll_T50'), await Fixture.load('unet_improved_diffusion')]
    const { rtol, vb_t0_rtol: firstRtol } = fixture.tolerance.suggest
    const { timesteps: T } = fixture.config
    const x = fixture.tensor('in/x_start')
    const { numHeads: heads, ...unet } = camelCase(fixture.config.unet)
    for (const c of fixture.config.cases) {
      const fixedLarge = c.model_var_type === 'FIXED_LARGE'
      using ddpm = new DDPM({
        unetConfig: { ...unet, numHeads: heads, imageSize: 8 },
        givenBetas: fixture.numbers(`in/${c.id}/betas`),
        parameterization: c.model_mean_type === 'EPSILON' ? 'eps' : 'x0',
        vPosterior: fixedLarge ? 1 : 0,
        clipDenoised: c.clip_denoised,
        device: testDevice,
      })
      await ddpm.loadStateDict(weights.params())
      const found = await ddpm.calcBpd(x, { noise: (t) => fixture.row(`in/${c.id}/noise`, T - 1 - t) })
      const golden = (name: string) => fixture.numbers(`out/${c.id}/${name}`)
      assertCloseToScale(await found.priorBpd.data(), golden('prior_bpd'), rtol, `${c.id} prior_bpd`)
      for (const [name, tensor] of [['xstart_mse', found.xstartMse] as const, ['mse', found.mse] as const]) {
        assert.deepEqual(tensor.shape, [2, T])
        assertCloseToScale(await tensor.data(), reversed(golden(name), T), rtol, `${c.id} ${name}`)
      }
      const [vb, expected] = [await found.vb.data(), reversed(golden('vb'), T)]
      const later = (values: Float32Array) => values.filter((_, i) => i % T > 0)
      const first = (values: Float32Array) => values.filter((_, i) => i % T === 0)
      // float32 cancels in single small terms; the reference is float32 throughout.
      assertClose(later(vb), later(expected), { rel: 1e-2, abs: 1e-7 }, `${c.id} vb`)
      const startX = c.model_mean_type === 'START_X'
      assertClose(first(vb), first(expected), { rel: startX ? firstRtol : rtol, abs: 0 }, `${c.id} vb at 0`)
      const total = await found.totalBpd.data()
      assertClose(total, golden('total_bpd'), { rel: startX ? firstRtol : rtol, abs: 0 }, `${c.id} total_bpd`)
    }
  })

  it('of a perfect denoiser is the prior and the decoder', async () => {
    const x = Tensor.from([-1, 1, 0.2, -127 / 127.5], [1, 1, 2, 2])
    using ddpm = new DDPM({ model: () => x, parameterization: 'x0', timesteps: 20, device: testDevice })
    const { vb, totalBpd, priorBpd } = await ddpm.calcBpd(x, { seed: 1 })
    const terms = await vb.data()
    for (const term of terms.subarray(1)) assert.ok(Math.abs(term) < 1e-6, String(term))
    const [total, prior] = [await totalBpd.data(), await priorBpd.data()]
    assertClose(total, [prior[0] + terms[0]], { rel: 1e-5, abs: 1e-6 }, 'total')
    const again = await ddpm.calcBpd(x, { seed: 1 })
    assert.deepEqual(await again.totalBpd.data(), total)
    await assert.rejects(ddpm.calcBpd(x, { signal: AbortSignal.abort() }), { code: 'aborted' })
  })
})
