/**
 * The coefficients of the fused posterior step (kernels/ops.h PosteriorStep), one row of 8 for each timestep:
 *
 *     x0 = row[0]*x + row[1]*out, clipped if asked for
 *     y  = row[2]*x0 + row[3]*x + row[4]*out + row[5]*noise
 *
 * so that a sampler is nothing but a table and a list of timesteps. Computed in float64 from the float32 schedule.
 */
import { makeDdimParameters, type Parameterization, posteriorVariance, type Schedule } from './schedule'

export const rowLength = 8

/** x0 from the network's output: ddpm.py's predict_start_from_noise for eps, the output itself for x0. */
function startRow(parameterization: Parameterization, sqrtRecip: number, sqrtRecipm1: number): [number, number] {
  return parameterization === 'eps' ? [sqrtRecip, -sqrtRecipm1] : [0, 1]
}

/** ddpm.py's p_sample at every timestep: Ho et al. 2020, eq. 7 and 11. No noise at t = 0. */
export function posteriorTable(schedule: Schedule, parameterization: Parameterization): Float32Array {
  const table = new Float32Array(schedule.betas.length * rowLength)
  for (let t = 0; t < schedule.betas.length; t++) {
    const start = startRow(parameterization, schedule.sqrtRecipAlphasCumprod[t], schedule.sqrtRecipm1AlphasCumprod[t])
    const sigma = t === 0 ? 0 : Math.exp(0.5 * schedule.posteriorLogVarianceClipped[t])
    table.set([...start, schedule.posteriorMeanCoef1[t], schedule.posteriorMeanCoef2[t], 0, sigma], t * rowLength)
  }
  return table
}

/**
 * Ancestral sampling over a subset of ascending timesteps, by the betas that lead from one of them to the next
 * (Nichol & Dhariwal 2021, eq. 19). Other rows are zero.
 */
export function respacedTable(
  schedule: Schedule,
  timesteps: Int32Array,
  o: { parameterization: Parameterization; vPosterior: number },
): Float32Array {
  const table = new Float32Array(schedule.betas.length * rowLength)
  timesteps.forEach((t, i) => {
    const bar = schedule.alphasCumprod[t]
    const previous = i === 0 ? 1 : schedule.alphasCumprod[timesteps[i - 1]]
    const alpha = bar / previous
    const beta = 1 - alpha
    const start = startRow(o.parameterization, Math.sqrt(1 / bar), Math.sqrt(1 / bar - 1))
    const mean = [(beta * Math.sqrt(previous)) / (1 - bar), ((1 - previous) * Math.sqrt(alpha)) / (1 - bar)]
    const sigma = i === 0 ? 0 : Math.sqrt(Math.max(posteriorVariance(beta, bar, previous, o.vPosterior), 1e-20))
    table.set([...start, ...mean, 0, sigma], t * rowLength)
  })
  return table
}

/**
 * DDIM over ascending timesteps: Song et al. 2021, eq. 12; ddim.py's p_sample_ddim. A network that predicts x0 has its
 * noise computed from it: eps = (x - sqrt(a) x0) / sqrt(1 - a) (ddim.py would take the output for eps). Other rows are zero.
 */
export function ddimTable(
  schedule: Schedule,
  timesteps: Int32Array,
  o: { parameterization: Parameterization; eta: number },
): Float32Array {
  const table = new Float32Array(schedule.betas.length * rowLength)
  const { alphas, alphasPrev, sigmas } = makeDdimParameters(schedule.alphasCumprod, timesteps, o.eta)
  timesteps.forEach((t, i) => {
    const [a, previous, sigma] = [alphas[i], alphasPrev[i], sigmas[i]]
    const direction = Math.sqrt(Math.max(1 - previous - sigma * sigma, 0))
    const row =
      o.parameterization === 'eps'
        ? [1 / Math.sqrt(a), -Math.sqrt((1 - a) / a), Math.sqrt(previous), 0, direction, sigma]
        : [0, 1, Math.sqrt(previous) - direction * Math.sqrt(a / (1 - a)), direction / Math.sqrt(1 - a), 0, sigma]
    table.set(row, t * rowLength)
  })
  return table
}
