/** Log variances of the timesteps that are trained: ddpm.py's learn_logvar, LatentDiffusion's loss / exp(logvar[t]) + logvar[t]. */
import type { Graph, Value } from '../../graph'
import { ParameterTable } from '../../nn/parameters'
import type { TablePlace } from '../../parameter-slot'

/** Their state_dict name. */
const logvarName = 'logvar'

/** [T], of which each timestep picks a row. */
export function logvarTable(timesteps: number, init: number): ParameterTable {
  const table = new ParameterTable()
  const stored = { axes: [timesteps, 1, 1, 1], order: [0, 1, 2, 3], graphShape: [timesteps, 1] } as const
  table.add(logvarName, [timesteps], { kind: 'constant', value: init }, { stored })
  return table
}

/** A table of these, and where it is beside the network's parameters. */
export interface LearnedLogvar {
  readonly table: ParameterTable
  readonly place: TablePlace
}

/** logvar[t]: [n, 1, 1, 1]. */
export function logvarAt(g: Graph, { table, place }: LearnedLogvar, t: Value): Value {
  return g.placed(place, () => g.embedding(t, g.parameter(table.get(logvarName)!)))
}

/**
 * loss / exp(logvar), both [n, 1, 1, 1]: twice times exp(-logvar / 2), the deviation of a normal distribution of log variance -logvar,
 * which GaussianSample draws by noise of 1. Logvars beyond [-20, 30] count as these.
 */
export function overVariance(g: Graph, loss: Value, logvar: Value): Value {
  const [n] = loss.dims
  const zeros = g.constant(new Float32Array(n), loss.dims)
  const ones = g.constant(new Float32Array(n).fill(1), loss.dims)
  const deviation = g.gaussianSample(g.concat([zeros, g.affine(logvar, { scale: -1 })]), ones)
  const factor = g.concat([g.affine(deviation, { scale: 1, shift: -1 }), zeros])
  return g.scaleShift(g.scaleShift(loss, factor), factor)
}
