/** The loop that all samplers share: x stays on the device and alternates between two buffers. */
import { DiffusionError } from '../../errors'
import type { NativeBuffer } from '../../native'
import type { Seed } from '../../options'
import type { Binding, Bindings } from '../../program'
import { Purpose } from '../../rng'
import { type Shape, Tensor } from '../../tensor'
import { type Condition, kindOf } from '../condition'
import { type Core, checkTensor, extentOf } from '../core'
import { type StepKind, stepProgram } from '../posterior-step'
import { noiseBindings, noiseProgram } from '../process'
import { tableRows } from '../step-tables'
import { checkImage, type ImageOptions, Inpainting, noiseImage } from './image'
import type { Evaluation, SamplingPlan } from './plan'
import { Thresholding } from './threshold'

export interface StepEvent {
  /** The timestep that was just left. */
  readonly t: number
  /** How many steps have been taken, from 1 to `total`. */
  readonly step: number
  readonly total: number
  /** The state after the step. Lent for the duration of the callback (or of the promise it returns). */
  readonly x: Tensor
}

export interface LoopOptions extends ImageOptions {
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
  checkImage(o, shape)
  checkAborted(o.signal)

  const noise = o.noise ? 'given' : plan.noisy ? 'drawn' : 'none'
  const kind = {
    shape,
    clip: plan.clip,
    noise,
    x0: o.returnIntermediates,
    learned: plan.variance !== undefined,
    ...kindOf(o.condition),
    deterministic: o.deterministic,
    multistep: plan.history > 0 || plan.corrects || plan.starts ? plan : undefined,
  } as const
  const held: { release(): void }[] = []
  const hold = <T extends { release(): void }>(resource: T): T => {
    held.push(resource)
    return resource
  }
  const allocate = () => hold(core.device.allocate(n * d))
  try {
    const tables = holdTables(core, plan, noise, hold)
    let [x, next] = [allocate(), allocate()]
    const memory = new Memory(plan, allocate)
    const x0 = o.returnIntermediates ? allocate() : undefined
    const { threshold } = plan
    const thresholding = threshold && hold(new Thresholding(core, shape, { ...plan, threshold }, kind))
    const streamOf = (step: number) => ({ seed: o.seed, sampleOffset: o.sampleOffset, step })
    const draw = noiseBindings(n, streamOf(0))
    const stream = { rng: hold(core.device.upload(draw.rng)), sample: hold(core.device.upload(draw.sample)) }
    const stepNoise = async (i: number): Promise<Bindings> => {
      if (o.noise) return { noise: await noiseValues(core, await o.noise(i), shape) }
      return plan.noisy ? { ...stream, step: new Int32Array(n).fill(i) } : {}
    }
    const snapshot = async (buffer: NativeBuffer) => Tensor.wrap(await buffer.read(0, n * d), shape)
    const inpainting = o.image && o.mask ? hold(await Inpainting.create(core, o.image, o.mask)) : undefined

    if (o.xT) await copyTo(x, o.xT, core)
    else if (o.image && o.strength !== undefined) {
      const { t } = plan.evaluations[0]
      await noiseImage(core, { image: o.image, t, stream: streamOf(0), purpose: Purpose.initial, y: x })
    } else await noiseProgram(core, { n, d }, Purpose.initial).run({ ...draw, y: x })
    const intermediates = x0 ? [await snapshot(x)] : []
    const predX0 = [...intermediates]

    const total = plan.evaluations.filter(({ partial }) => !partial).length
    let step = 0
    let from: number | undefined
    for (const [i, evaluation] of plan.evaluations.entries()) {
      checkAborted(o.signal)
      from ??= evaluation.t
      const t = new Int32Array(n).fill(evaluation.t)
      if (!plan.evaluations[i - 1]?.partial) await inpainting?.blendNoisy(x, evaluation.t, streamOf(i))
      const program = await stepProgram(core, { ...kind, given: thresholding?.given })
      const denoiser = await core.denoiser.bindings(x, t, shape, o.condition)
      const own = await thresholding?.step(i, { x, t, table: tables.table, denoiser })
      const at = { row: new Int32Array(n).fill(i), ...tables, ...(own ? { row: own.row, ...own.tables } : {}) }
      const inputs = { ...(own?.denoiser ?? denoiser), ...(await stepNoise(i)) }
      await program.run({ x, y: next, t, ...at, ...inputs, ...memory.bindings, ...(x0 && { x0 }) })
      memory.advance(evaluation)
      ;[x, next] = [next, x]
      if (evaluation.partial) continue

      step++
      if (step === total) await inpainting?.blendClean(x)
      if (x0 && ((total - step) % o.logEveryT === 0 || step === 1)) {
        intermediates.push(await snapshot(x))
        predX0.push(await snapshot(x0))
      }
      if (o.onStep) {
        using lent = Tensor.onDevice(core.device, x, shape, { owned: false })
        await o.onStep({ t: from, step, total, x: lent })
      }
      from = undefined
    }
    return { samples: Tensor.wrap(checkFinished(await x.read(0, n * d)), shape), intermediates, predX0 }
  } finally {
    for (const resource of held) resource.release()
  }
}

/** The plan's tables on the device, by their names in the step's graph. */
function holdTables(
  core: Core,
  plan: SamplingPlan,
  noise: StepKind['noise'],
  hold: (buffer: NativeBuffer) => NativeBuffer,
): Bindings {
  const upload = (values: Float32Array) => hold(core.device.upload(values))
  // A learned variance is needed where there is noise.
  const table = {
    table: upload(plan.table),
    ...(plan.variance && noise !== 'none' && { variance: upload(plan.variance) }),
  }
  const columns = Object.entries(plan.columns).map(([name, values]) => [name, upload(values)])
  if (columns.length === 0) return table
  return {
    ...table,
    ...Object.fromEntries(columns),
    one: upload(new Float32Array(tableRows(core.numTimesteps)).fill(1)),
  }
}

/** What a multistep sampler remembers: the last predictions, and the state that the corrector begins with. */
class Memory {
  /** m_0, m_1, ... */
  readonly #m: NativeBuffer[]
  readonly #states: NativeBuffer[]

  constructor(plan: SamplingPlan, allocate: () => NativeBuffer) {
    this.#m = plan.history > 0 ? Array.from({ length: plan.history + 1 }, allocate) : []
    this.#states = plan.corrects ? [allocate(), allocate()] : []
  }

  get bindings(): Bindings {
    const [base, state] = this.#states
    return { ...Object.fromEntries(this.#m.map((buffer, i) => [`m${i}`, buffer])), ...(base && { base, state }) }
  }

  /** After an evaluation. */
  advance({ forget }: Evaluation): void {
    if (!forget && this.#m.length > 0) this.#m.unshift(this.#m.pop()!)
    this.#states.reverse()
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
