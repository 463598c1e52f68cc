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

/** The state x as flat samples [n, 1, 1, d] and t i32 [n, 1, 1, 1] to the output. Inputs as in denoiserBindings. */
export function denoise(
  core: Core,
  g: Graph,
  o: { x: Value; t: Value; shape: Shape; mode: DenoiserMode },
): DenoiserOutput {
  const { x, t, shape, mode } = o
  const { network } = core.denoiser
  if (!network) return core.denoiser.build(g, x, t, shape, mode)
  const column = (name: string) => g.input(name, [core.numTimesteps, 1, 1, 1])
  const { scale, time } = tables(core)
  const seen = scale ? g.timestepAffine(x, column('inputScale'), t) : x
  return network.build(g, seen, time ? g.extract(column('toldTime'), t) : t, shape, mode)
}

/** What `denoise` needs at run time, beyond x and t. */
export async function denoiserBindings(
  core: Core,
  o: { x: NativeBuffer; t: Int32Array; shape: Shape; condition: Condition },
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
