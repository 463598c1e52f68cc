import { DDPM, type Tensor } from '../../lib/index'
import { assertCloseToScale } from '../support/compare'
import { testDevice } from '../support/devices'
import { camelCase, Fixture } from './fixture'

/** A model that returns the recorded output, so that only the formulas are tested. */
function model(fixture: Fixture, options: object): DDPM {
  const { cases: _, ...schedule } = camelCase(fixture.config)
  return new DDPM({ model: () => fixture.tensor('in/model_out'), ...schedule, device: testDevice, ...options })
}

async function compare(fixture: Fixture, actual: Record<string, Tensor>): Promise<void> {
  for (const [name, tensor] of Object.entries(actual)) {
    assertCloseToScale(await tensor.data(), fixture.numbers(name), fixture.tolerance.rtol, name)
  }
}

for (const name of ['diffusion_ops_linear_T1000', 'diffusion_ops_cosine_T100']) {
  describe(name, () => {
    let fixture: Fixture
    before(async () => {
      fixture = await Fixture.load(name)
    })

    for (const vPosterior of [0, 0.5]) {
      it(`q_*, predict_start_from_noise and q_posterior, v ${vPosterior}`, async () => {
        using ddpm = model(fixture, { vPosterior })
        const [xStart, xT, noise] = ['in/x_start', 'in/x_t', 'in/noise'].map((n) => fixture.tensor(n))
        const t = fixture.integers('in/t')
        const { mean, variance, logVariance } = await ddpm.qMeanVariance(xStart, t)
        const posterior = await ddpm.qPosterior(xStart, xT, t)
        await compare(fixture, {
          'out/q_mean_variance/mean': mean,
          'out/q_mean_variance/variance': variance,
          'out/q_mean_variance/log_variance': logVariance,
          'out/q_sample': await ddpm.qSample(xStart, t, noise),
          'out/predict_start_from_noise': await ddpm.predictStartFromNoise(xT, t, noise),
          [`out/q_posterior_v${vPosterior}/mean`]: posterior.posteriorMean,
          [`out/q_posterior_v${vPosterior}/variance`]: posterior.posteriorVariance,
          [`out/q_posterior_v${vPosterior}/log_variance_clipped`]: posterior.posteriorLogVarianceClipped,
        })
      })
    }

    it('p_mean_variance and p_sample, every case', async () => {
      for (const c of fixture.config.cases) {
        const { id, clipDenoised, parameterization, vPosterior, repeatNoise } = camelCase(c)
        using ddpm = model(fixture, { parameterization, vPosterior })
        const x = fixture.tensor('in/x_t')
        if (c.op === 'p_mean_variance') {
          const out = await ddpm.pMeanVariance(x, fixture.integers(c.t), { clipDenoised })
          await compare(fixture, {
            [`out/${id}/mean`]: out.modelMean,
            [`out/${id}/variance`]: out.posteriorVariance,
            [`out/${id}/log_variance`]: out.posteriorLogVariance,
          })
        } else {
          const noise = fixture.tensor(`in/${id}/noise`)
          const t = fixture.integers(`in/${id}/t`)
          const sample = await ddpm.pSample(x, t, { clipDenoised, repeatNoise, noise })
          await compare(fixture, { [`out/${id}/sample`]: sample })
        }
      }
    })
  })
}
