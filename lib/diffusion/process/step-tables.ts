/**
 * The coefficients of the fused posterior step (kernels/ops.h PosteriorStep), one row of 8 for each timestep or evaluation:
 *
 *     m = row[0]*x + row[1]*out, clipped if asked for
 *     y = row[2]*m + row[3]*x + row[4]*out + row[5]*noise
 *
 * m is the prediction of x_0, or of the noise. Computed in float64 from the float32 schedule.
 */
import { type Prediction, startRow } from './prediction'
import type { Schedule } from './schedule'

export const rowLength = 8
/** Of a row, what noise is multiplied by. */
export const noiseColumn = 5

/** Rows of all tables: a step evaluates the network once or twice, and some begin with a few evaluations more. */
export function tableRows(numTimesteps: number): number {
  return 2 * numTimesteps + 12
}

/** ddpm.py's p_sample at every timestep: Ho et al. 2020, eq. 7 and 11. No noise at t = 0. */
export function posteriorTable(schedule: Schedule, parameterization: Prediction): Float32Array {
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
