/** Variances that the network learns (Nichol & Dhariwal 2021, section 3.1): its output has twice as many channels. */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Bindings } from '../../program'
import type { Core } from './core'
import { startRow } from './prediction'
import type { Schedule } from './schedule'
import type { Settings, VarianceType } from './settings'
import { tableRows } from './step-tables'

export const varianceRowLength = 4

/** A row of kernels/ops.h, Learned variances: what v becomes, the posterior's log variance, whether it ends in x_0. */
export type VarianceRow = readonly [offset: number, slope: number, trueLogVariance: number, ends: number]

export function varianceRow(
  type: VarianceType,
  o: { readonly beta: number; readonly posterior: number; readonly ends: boolean },
): VarianceRow {
  const [low, high] = [Math.log(o.posterior), Math.log(o.beta)]
  const [offset, slope] = type === 'learned' ? [0, 1] : [(low + high) / 2, (high - low) / 2]
  return [offset, slope, low, o.ends ? 1 : 0]
}

/**
 * The row by which kernels/ops.h VarianceNoise adds Sigma times a gradient to a mean, in place of a deviation times noise: of a
 * learned variance by its own row, of another one by its value.
 */
export function meanShiftRow(variance: number | VarianceRow): VarianceRow {
  return typeof variance === 'number' ? [2 * Math.log(variance), 0, 0, 0] : [2 * variance[0], 2 * variance[1], 0, 0]
}

/** beta_tilde; at t = 0, where that is 0, the next one's, as improved-diffusion has it. */
export function trueVariance({ betas, alphasCumprod, alphasCumprodPrev }: Schedule, t: number): number {
  const at = Math.max(t, 1)
  return (betas[at] * (1 - alphasCumprodPrev[at])) / (1 - alphasCumprod[at])
}

/** The row of a timestep. */
export function timestepVariance(type: VarianceType, schedule: Schedule, t: number): VarianceRow {
  return varianceRow(type, { beta: schedule.betas[t], posterior: trueVariance(schedule, t), ends: t === 0 })
}

export function varianceTableOf(core: Core) {
  return core.table('variance', () => {
    const table = new Float32Array(tableRows(core.numTimesteps) * varianceRowLength)
    for (let t = 0; t < core.numTimesteps; t++) {
      table.set(timestepVariance(core.settings.varianceType, core.schedule, t), t * varianceRowLength)
    }
    return table
  })
}

/** Of each element, from the network's output. */
export function learnedLogVariance({ schedule, settings }: Core, v: Float32Array, t: Int32Array): Float32Array {
  const d = v.length / t.length
  const rows = Array.from(t, (step) => timestepVariance(settings.varianceType, schedule, step))
  return v.map((value, i) => {
    const [offset, slope] = rows[Math.floor(i / d)]
    return offset + slope * value
  })
}

export function varianceInput(core: Core, g: Graph, rows = tableRows(core.numTimesteps)): Value {
  return g.input('variance', [rows, 1, 1, varianceRowLength])
}

/**
 * The bound's term of each sample in bits per dimension (eq. 4 to 7), [n, 1, 1, 1]. Its gradient reaches the variance and not the
 * prediction. Inputs as in boundBindings.
 */
export function boundTerm(
  core: Core,
  g: Graph,
  o: { x: Value; noisy: Value; prediction: Value; variance: Value; t: Value },
): Value {
  const column = (name: string) => g.input(name, [core.numTimesteps, 1, 1, 1])
  const [ofStart, ofState] = ['posteriorMeanCoef1', 'posteriorMeanCoef2'].map(column)
  const trueMean = g.timestepAffine(o.x, ofStart, o.t, o.noisy, ofState)
  const mean = g.timestepAffine(o.prediction, column('meanOfOutput'), o.t, o.noisy, column('meanOfState'))
  return g.variationalLoss(mean, trueMean, o.x, o.variance, varianceInput(core, g), o.t)
}

export function boundBindings(core: Core): Bindings {
  const { schedule, settings } = core
  const column = (name: string, of: 0 | 1) =>
    core.table(name, () => {
      return schedule.alphasCumprod.map((bar, t) => {
        const part = schedule.posteriorMeanCoef1[t] * startRow(settings.parameterization, bar)[of]
        return of === 0 ? part + schedule.posteriorMeanCoef2[t] : part
      })
    })
  return {
    posteriorMeanCoef1: core.buffer('posteriorMeanCoef1'),
    posteriorMeanCoef2: core.buffer('posteriorMeanCoef2'),
    meanOfState: column('meanOfState', 0),
    meanOfOutput: column('meanOfOutput', 1),
    variance: varianceTableOf(core),
  }
}

/** Options that say something else of the variance. */
export function checkVariance(
  o: Pick<Settings, 'varianceType' | 'vlbWeight' | 'vPosterior' | 'originalElboWeight'>,
): void {
  if (o.varianceType === 'fixed') {
    if (o.vlbWeight !== undefined) throw invalidArgument('vlbWeight', "nothing with varianceType 'fixed'", o.vlbWeight)
    return
  }
  for (const name of ['vPosterior', 'originalElboWeight'] as const) {
    if (o[name] !== 0) throw invalidArgument(name, `0 with varianceType '${o.varianceType}'`, o[name])
  }
}

/** lambda of L_simple + lambda L_vlb: Nichol & Dhariwal 2021, eq. 16. */
export const defaultVlbWeight = 1e-3
