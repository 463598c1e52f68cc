/**
 * The coefficients of the fused posterior step (kernels/ops.h PosteriorStep), one row of 8 for each timestep or evaluation:
 *
 *     m = row[0]*x + row[1]*out, clipped if asked for
 *     y = row[2]*m + row[3]*x + row[4]*out + row[5]*noise
 *
 * m is the prediction of x_0, or of the noise. Computed in float64 from the float32 schedule.
 */
import type { Parameterization, Schedule } from './schedule'

export const rowLength = 8

/** Rows of all tables: a step evaluates the network once or twice, and some begin with a few evaluations more. */
export function tableRows(numTimesteps: number): number {
  return 2 * numTimesteps + 12
}

/** [a, b] of a*x_t + b*out. */
export type Row = readonly [number, number]

/** x_0 from the network's output; `bar` is alpha_bar. v is that of Salimans & Ho 2022, section 4. */
export function startRow(parameterization: Parameterization, bar: number): Row {
  const [signal, noise] = [Math.sqrt(bar), Math.sqrt(1 - bar)]
  if (parameterization === 'eps') return [1 / signal, -noise / signal]
  return parameterization === 'x0' ? [0, 1] : [signal, -noise]
}

/** The noise from the network's output. */
export function noiseRow(parameterization: Parameterization, bar: number): Row {
  const [signal, noise] = [Math.sqrt(bar), Math.sqrt(1 - bar)]
  if (parameterization === 'eps') return [0, 1]
  return parameterization === 'x0' ? [1 / noise, -signal / noise] : [noise, signal]
}

/** ddpm.py's p_sample at every timestep: Ho et al. 2020, eq. 7 and 11. No noise at t = 0. */
export function posteriorTable(schedule: Schedule, parameterization: Parameterization): Float32Array {
  const timesteps = schedule.betas.length
  const table = new Float32Array(tableRows(timesteps) * rowLength)
  for (let t = 0; t < timesteps; t++) {
    const start =
      parameterization === 'eps'
        ? [schedule.sqrtRecipAlphasCumprod[t], -schedule.sqrtRecipm1AlphasCumprod[t]]
        : startRow(parameterization, schedule.alphasCumprod[t])
    const sigma = t === 0 ? 0 : Math.exp(0.5 * schedule.posteriorLogVarianceClipped[t])
    table.set([...start, schedule.posteriorMeanCoef1[t], schedule.posteriorMeanCoef2[t], 0, sigma], t * rowLength)
  }
  return table
}
