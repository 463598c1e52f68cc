/**
 * The denoiser in a graph. Where its parameterization says so (prediction.ts), a network is given another multiple of the state and is
 * told another number than the timestep: by tables of T rows, which are inputs of the graph. A function is given both as they are.
 */
import type { Graph, Value } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Bindings } from '../../program'
import type { Shape } from '../../tensor'
import type { Condition } from './condition'
import type { Core } from './core'
import type { DenoiserMode, DenoiserOutput } from './denoiser'
import { inputScale, toldTime } from './prediction'
import { roundToEven } from './schedule'
import type { Times } from './timesteps'

/** Where a sampling says itself what its network is given and told: tables by its evaluations, of which each sample has row `row`. */
export interface ByEvaluation {
  readonly row: Value
  readonly rows: number
}

/**
 * The state x as flat samples [n, 1, 1, d] and t i32 [n, 1, 1, 1] to the output. Inputs as in denoiserBindings; with `by`, the tables
 * are those of betweenTimesteps.
 */
export function denoise(
  core: Core,
  g: Graph,
  o: { x: Value; t: Value; shape: Shape; mode: DenoiserMode; by?: ByEvaluation },
): DenoiserOutput {
  const { x, t, shape, mode, by } = o
  const { network } = core.denoiser
  if (!network) return core.denoiser.build(g, x, t, shape, mode)
  const { row, rows } = by ?? { row: t, rows: core.numTimesteps }
  const column = (name: string) => g.input(name, [rows, 1, 1, 1])
  const { scale, time } = tables(core)
  const seen = scale ? g.timestepAffine(x, column('inputScale'), row) : x
  return network.build(g, seen, time || by ? g.extract(column('toldTime'), row) : t, shape, mode)
}

/**
 * What a network is given and told in evaluations of which some lie between timesteps: t says where, `alpha` is sqrt(alpha_bar) there
 * (default: that of the nearest). Tables of `rows`. Undefined for a function, which is told t itself, and for a network that knows
 * whole timesteps alone, which is told the nearest.
 */
export function betweenTimesteps(
  { schedule, settings, denoiser, numTimesteps }: Core,
  o: { evaluations: readonly { readonly t: number; readonly alpha?: number }[]; rows: number; fractional: boolean },
): { readonly toldTime: Float32Array; readonly inputScale?: Float32Array } | undefined {
  if (!o.fractional || !denoiser.network || denoiser.network.module.numTimesteps !== undefined) return undefined
  const [scale, time] = [inputScale(settings.parameterization), toldTime(settings.parameterization)]
  const column = (of: (a: number, b: number, t: number) => number) => {
    const values = new Float32Array(o.rows)
    for (const [row, { t, alpha: a = schedule.sqrtAlphasCumprod[roundToEven(t)] }] of o.evaluations.entries()) {
      values[row] = of(a, Math.sqrt((1 - a) * (1 + a)), t)
    }
    return values
  }
  return {
    toldTime: column(time ? (a, b) => time(a, b, numTimesteps) : (_a, _b, t) => t),
    ...(scale && { inputScale: column(scale) }),
  }
}

/** What a network is told in each evaluation of which it has a row: the number that `denoise` gives it, [rows]. */
export function toldTimes(
  core: Core,
  o: Parameters<typeof betweenTimesteps>[1] & { timesteps: Int32Array },
): Float32Array | Int32Array {
  const between = betweenTimesteps(core, o)
  if (between) return between.toldTime
  const told = tables(core).time?.()
  return told ? Float32Array.from(o.timesteps, (t) => told[t]) : o.timesteps
}

/** What `denoise` needs at run time, beyond x and t. */
export async function denoiserBindings(
  core: Core,
  o: { x: NativeBuffer; t: Times; shape: Shape; condition: Condition },
): Promise<Bindings> {
  return { ...(await core.denoiser.bindings(o.x, o.t, o.shape, o.condition)), ...preconditioningBindings(core) }
}

/** The tables alone. */
export function preconditioningBindings(core: Core): Bindings {
  const { scale, time } = core.denoiser.network ? tables(core) : {}
  return {
    ...(scale && { inputScale: core.table('inputScale', scale) }),
    ...(time && { toldTime: core.table('toldTime', time) }),
  }
}

/** Of each timestep, where they are others than 1 and the timestep. */
function tables({ schedule, settings, numTimesteps }: Core): Partial<Record<'scale' | 'time', () => Float32Array>> {
  const { sqrtAlphasCumprod: a, sqrtOneMinusAlphasCumprod: b } = schedule
  const [scale, time] = [inputScale(settings.parameterization), toldTime(settings.parameterization)]
  return {
    ...(scale && { scale: () => a.map((signal, t) => scale(signal, b[t])) }),
    ...(time && { time: () => a.map((signal, t) => time(signal, b[t], numTimesteps)) }),
  }
}
