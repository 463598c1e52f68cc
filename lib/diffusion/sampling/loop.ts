/** The loop that all samplers share: x stays on the device and alternates between two buffers. */
import { DiffusionError } from '../../errors'
import type { NativeBuffer } from '../../native'
import type { Seed } from '../../options'
import type { Binding, Bindings } from '../../program'
import { Purpose } from '../../rng'
import { type Shape, Tensor } from '../../tensor'
import type { Condition } from '../condition'
import { type Core, checkTensor, extentOf } from '../core'
import { stepProgram } from '../posterior-step'
import { noiseBindings, noiseProgram } from '../process'
import type { SamplingPlan } from './plan'

export interface StepEvent {
  /** The timestep that was just left. */
  readonly t: number
  /** How many steps have been taken, from 1 to `total`. */
  readonly step: number
  readonly total: number
  /** The state after the step. Lent for the duration of the callback (or of the promise it returns). */
  readonly x: Tensor
}

export interface LoopOptions {
  readonly seed: Seed
  /** Index of the first sample: image i drawn alone is image i of a batch. */
  readonly sampleOffset: number
  /** The first state, in place of noise. */
  readonly xT?: Tensor
  /** The noise of step i, counted from 0, in place of drawn noise. */
  readonly noise?: (i: number) => Tensor | Promise<Tensor>
  readonly condition: Condition
  readonly returnIntermediates: boolean
  /** Keep the states after the first step and after each step whose number, counted down to 0, this divides. */
  readonly logEveryT: number
  readonly deterministic?: boolean
  readonly onStep?: (event: StepEvent) => unknown
  readonly signal?: AbortSignal
}

export interface LoopResult {
  samples: Tensor
  /** x_T and the states that were kept; ddpm.py's intermediates, ddim.py's x_inter. Empty unless asked for. */
  intermediates: Tensor[]
  /** x_T and the predictions of x_0 in the same steps; ddim.py's pred_x0. Empty unless asked for. */
  predX0: Tensor[]
}

export async function samplingLoop(core: Core, shape: Shape, plan: SamplingPlan, o: LoopOptions): Promise<LoopResult> {
  const { n, d } = extentOf(shape, 'shape')
  core.denoiser.check(shape, 'shape')
  if (o.xT) checkTensor(o.xT, 'xT', shape)
  checkAborted(o.signal)

  const noise = o.noise ? 'given' : plan.noisy ? 'drawn' : 'none'
  const kind = {
    shape,
    clip: plan.clip,
    noise,
    x0: o.returnIntermediates,
    guided: o.condition.guidance !== undefined,
    deterministic: o.deterministic,
  } as const
  const held: NativeBuffer[] = []
  const hold = (buffer: NativeBuffer) => {
    held.push(buffer)
    return buffer
  }
  try {
    const table = hold(core.device.upload(plan.table))
    let x = hold(core.device.allocate(n * d))
    let next = hold(core.device.allocate(n * d))
    const x0 = o.returnIntermediates ? hold(core.device.allocate(n * d)) : undefined
    const draw = noiseBindings(n, { seed: o.seed, sampleOffset: o.sampleOffset, step: 0 })
    const stream = { rng: hold(core.device.upload(draw.rng)), sample: hold(core.device.upload(draw.sample)) }
    const stepNoise = async (i: number): Promise<Bindings> => {
      if (o.noise) return { noise: await noiseValues(core, await o.noise(i), shape) }
      return plan.noisy ? { ...stream, step: new Int32Array(n).fill(i) } : {}
    }
    const snapshot = async (buffer: NativeBuffer) => Tensor.wrap(await buffer.read(0, n * d), shape)

    if (o.xT) await copyTo(x, o.xT, core)
    else await noiseProgram(core, { n, d }, Purpose.initial).run({ ...draw, y: x })
    const intermediates = x0 ? [await snapshot(x)] : []
    const predX0 = [...intermediates]

    const total = plan.timesteps.length
    for (let i = 0; i < total; i++) {
      checkAborted(o.signal)
      const index = total - 1 - i
      const t = new Int32Array(n).fill(plan.timesteps[index])
      const program = stepProgram(core, kind)
      const inputs = { ...(await core.denoiser.bindings(x, t, shape, o.condition)), ...(await stepNoise(i)) }
      await program.run({ x, y: next, t, table, ...inputs, ...(x0 && { x0 }) })
      ;[x, next] = [next, x]
      if (x0 && (index % o.logEveryT === 0 || i === 0)) {
        intermediates.push(await snapshot(x))
        predX0.push(await snapshot(x0))
      }
      if (o.onStep) {
        using lent = Tensor.onDevice(core.device, x, shape, { owned: false })
        await o.onStep({ t: plan.timesteps[index], step: i + 1, total, x: lent })
      }
    }
    return { samples: Tensor.wrap(checkFinished(await x.read(0, n * d)), shape), intermediates, predX0 }
  } finally {
    for (const buffer of held) buffer.release()
  }
}

async function noiseValues(core: Core, noise: unknown, shape: Shape): Promise<Binding> {
  checkTensor(noise, 'noise', shape)
  return noise.binding(core.device)
}

async function copyTo(buffer: NativeBuffer, tensor: Tensor, core: Core): Promise<void> {
  const values = await tensor.binding(core.device)
  if (ArrayBuffer.isView(values)) buffer.write(values)
  else buffer.copyFrom(values)
}

/** NaN that a network brought forth would otherwise come out as a picture of nothing. */
function checkFinished(values: Float32Array): Float32Array {
  const bad = values.findIndex(Number.isNaN)
  if (bad < 0) return values
  throw new DiffusionError('not-finite', `sampling ended in NaN (element ${bad}): the network or its weights diverged`)
}

export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new DiffusionError('aborted', 'sampling was aborted', { cause: signal.reason })
}
