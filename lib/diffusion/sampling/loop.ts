/**
 * The loop that all samplers share. x stays on the device and alternates between two buffers; which step it is, is counted there
 * too. Steps are asked for many at a time, unless JavaScript has a part in each.
 */
import { DiffusionError } from '../../errors'
import type { NativeBuffer } from '../../native'
import type { Seed } from '../../options'
import type { Binding, Bindings } from '../../program'
import { Purpose } from '../../rng'
import { RunQueue } from '../../run-queue'
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { type Condition, kindOf } from '../process/condition'
import { type Core, extentOf } from '../process/core'
import { betweenTimesteps, denoiserBindings } from '../process/preconditioning'
import { noiseBindings, noiseProgram } from '../process/process'
import { timesOf } from '../process/timesteps'
import { Guidance } from './guidance/guidance'
import type { GuidancePart } from './guidance/part'
import { type Clock, checkImage, copyOf, type ImageOptions, Inpainting, noiseImage } from './image'
import type { Evaluation, SamplingPlan } from './plan'
import { type StepKind, stepProgram } from './posterior-step'
import { PreparedNetwork } from './prepared'
import { checkCodebook, quantizedTables } from './quantized-step'
import { Jumps } from './repaint'

/** How many steps are asked for before they are waited for: an abort waits as long, where a device runs ahead of its host. */
const stepsAtOnce = 32

type Buffers = Readonly<Record<string, NativeBuffer>>

export interface StepEvent {
  /**
   * The timestep that was just left, as the denoiser was told it: between two whole ones where the noise level lies there, as the
   * levels of `sigmas: 'karras'` do.
   */
  readonly t: number
  /** How many steps have been taken, from 1 to `total`. */
  readonly step: number
  readonly total: number
  /** The state after the step. Lent for the duration of the callback (or of the promise it returns). */
  readonly x: Tensor
  /** The prediction of x_0 in the step, lent as `x`; like it, it is copied from the device when its data is asked for. */
  readonly predX0: Tensor
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
  /** What the network is told in evaluation i, at timestep t, in place of `condition`, whose shapes it has. */
  readonly conditionAt?: (i: number, t: number) => Promise<Condition>
  /** With a mask: the image is mixed in after each step, as by ddpm.py's LatentDiffusion. Default: before it. */
  readonly mixAfter?: boolean
  /** [codes, c]: predictions of x_0 are taken to its nearest entries. Default: they stay as they are. */
  readonly codebook?: Tensor
  /** Default: none. */
  readonly guidance?: { parts(plan: SamplingPlan): Promise<readonly GuidancePart[]> }
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
  if (o.codebook) checkCodebook(o.codebook, shape)
  checkAborted(o.signal)

  const selfConditioned = core.denoiser.network?.module.selfCondition ?? false
  const keepsX0 = o.returnIntermediates || o.onStep !== undefined || selfConditioned
  const noise = o.noise ? 'given' : plan.noisy ? 'drawn' : 'none'
  const between = betweenTimesteps(core, plan)
  const kind = {
    shape,
    clip: plan.clip,
    noise,
    x0: keepsX0,
    learned: plan.variance !== undefined,
    threshold: plan.threshold,
    advances: true,
    between: between !== undefined,
    condition: kindOf(o.condition),
    deterministic: o.deterministic,
    rows: plan.rows,
    codes: o.codebook?.shape[0],
    multistep: plan.history > 0 || plan.corrects || plan.starts ? plan : undefined,
  } as const
  const held: { release(): void }[] = []
  const hold = <T extends { release(): void }>(resource: T): T => {
    held.push(resource)
    return resource
  }
  const allocate = (elements = n * d) => hold(core.device.allocate(elements))
  const staged = new Map<string, NativeBuffer>()
  /** With what lies outside of the device in memory there, which the next call with these names writes anew. */
  const stage = (bindings: Bindings): Buffers =>
    Object.fromEntries(
      Object.entries(bindings).map(([name, binding]) => {
        if (!ArrayBuffer.isView(binding)) return [name, binding]
        const buffer = staged.get(name) ?? allocate(binding.length)
        staged.set(name, buffer)
        buffer.write(binding)
        return [name, buffer]
      }),
    )
  const queue = new RunQueue(core.device, o.signal)
  const flush = async () => {
    await queue.flush()
    core.alive()
    checkAborted(o.signal)
  }
  try {
    const guidance = hold(new Guidance((await o.guidance?.parts(plan)) ?? []))
    const { condition } = o
    const { negative } = guidance
    const prepares = !o.conditionAt && !condition.made
    const prepared = prepares
      ? PreparedNetwork.of(core, {
          ...{ shape, plan, deterministic: o.deterministic },
          conditions: { given: condition, ...(negative && { negative }) },
        })
      : undefined
    if (prepared) hold(prepared)
    const stepOf = ({ kind: guided }: Pick<ReturnType<Guidance['at']>, 'kind'>) =>
      stepProgram(core, { ...kind, prepared: prepared?.kind, guidance: guided })
    // Before anything else takes memory, so that a step that does not fit says so first.
    if (plan.evaluations.length > 0) await stepOf(guidance.at(plan.evaluations[0]))
    await prepared?.create()
    const tables = holdTables(core, plan, noise, hold)
    if (o.codebook) {
      const quantized = Object.entries(quantizedTables(plan.table))
      for (const [name, values] of quantized) tables[name] = hold(core.device.upload(values))
      tables.codebook = hold(await copyOf(core, o.codebook))
    }
    let x = o.xT ? hold(await copyOf(core, o.xT)) : allocate()
    let next = allocate()
    const memory = new Memory(plan, allocate)
    let x0 = keepsX0 ? allocate() : undefined
    // The first step has none.
    let estimate = selfConditioned ? hold(core.device.upload(new Float32Array(n * d))) : undefined
    const draw = noiseBindings(n, { seed: o.seed, sampleOffset: o.sampleOffset, step: 0 })
    const clock: Clock = {
      row: hold(core.device.upload(new Int32Array(n))),
      t: hold(core.device.upload(new Int32Array(n).fill(plan.timesteps[0]))),
      rng: hold(core.device.upload(draw.rng)),
      sample: hold(core.device.upload(draw.sample)),
    }
    const { row, t, rng, sample } = clock
    const seen = Object.fromEntries(
      Object.entries(between ?? {}).map(([name, values]) => [name, hold(core.device.upload(values))]),
    )
    const inputs = { row, t, ...tables, ...(noise === 'drawn' && { rng, sample, step: row }) }
    const snapshot = async (buffer: NativeBuffer) => Tensor.wrap(await buffer.read(0, n * d), shape)
    const inpainting = o.image && o.mask ? hold(await Inpainting.create(core, plan, o.image, o.mask)) : undefined

    const jumps = plan.evaluations.some(({ jump }) => jump) ? hold(new Jumps(core, shape, plan)) : undefined

    if (o.image && o.strength !== undefined && !o.xT) {
      const image = hold(await copyOf(core, o.image))
      noiseImage(queue, core, { shape, image, clock, purpose: Purpose.initial, y: x })
    } else if (!o.xT) {
      queue.add(noiseProgram(core, { n, d }, Purpose.initial), { rng, sample, step: row, y: x })
    }
    await flush()
    const intermediates = o.returnIntermediates ? [await snapshot(x)] : []
    const predX0 = [...intermediates]

    const external = core.denoiser.external || guidance.external
    const denoiserAt = async (i: number, at: number) => {
      const condition = o.conditionAt ? await o.conditionAt(i, at) : o.condition
      return stage(await denoiserBindings(core, { x, t: timesOf(n, at), shape, condition }))
    }
    const noiseAt = async (i: number) =>
      o.noise ? stage({ noise: await noiseValues(core, await o.noise(i), shape) }) : {}
    const mix = async (i: number, after: boolean) => {
      if (!inpainting || after !== (o.mixAfter ?? false)) return
      const own = o.imageNoise && stage({ imageNoise: await noiseValues(core, await o.imageNoise(i), shape) })
      inpainting.blendNoisy(queue, x, clock, { after, noise: own?.imageNoise })
    }
    const inEachStep = external || [o.noise, o.imageNoise, o.conditionAt].some((given) => given !== undefined)
    const once = inEachStep ? {} : await denoiserAt(0, 0)

    const total = plan.evaluations.filter(({ partial }) => !partial).length
    let step = 0
    let from: number | undefined
    for (const [i, evaluation] of plan.evaluations.entries()) {
      checkAborted(o.signal)
      from ??= evaluation.t
      if (evaluation.jump) {
        jumps?.addNoise(queue, { x, y: next, clock })
        ;[x, next] = [next, x]
      }
      if (!plan.evaluations[i - 1]?.partial) await mix(step, false)
      if (external) await flush()
      const guided = guidance.at(evaluation)
      await guided.prepare(queue, { x, t, row, at: evaluation })
      const denoiser = { ...(inEachStep ? await denoiserAt(i, evaluation.t) : once), ...(estimate && { estimate }) }
      const bindings = {
        x,
        y: next,
        ...inputs,
        ...denoiser,
        ...seen,
        ...prepared?.bindings(guided.kind?.negative ? ['given', 'negative'] : ['given']),
        ...guided.bindings,
        ...(await noiseAt(i)),
        ...memory.bindings,
        ...(x0 && { x0 }),
      }
      prepared?.prepare(queue, i)
      queue.add(await stepOf(guided), bindings)
      memory.advance(evaluation)
      ;[x, next] = [next, x]
      if (estimate) [x0, estimate] = [estimate, x0]
      if (!evaluation.partial) await mix(step++, true)
      if (step === total && !evaluation.partial && !o.mixAfter) inpainting?.blendClean(queue, x)

      const isKept = o.returnIntermediates && !evaluation.partial && ((total - step) % o.logEveryT === 0 || step === 1)
      const isShown = o.onStep && !evaluation.partial
      const isLast = i + 1 === plan.evaluations.length
      if (inEachStep || isKept || isShown || isLast || (i + 1) % stepsAtOnce === 0) await flush()
      if (evaluation.partial) continue
      if (x0 && isKept) {
        intermediates.push(await snapshot(x))
        predX0.push(await snapshot(estimate ?? x0))
      }
      if (o.onStep) {
        using lent = Tensor.onDevice(core.device, x, shape, { owned: false })
        using lentX0 = Tensor.onDevice(core.device, (estimate ?? x0)!, shape, { owned: false })
        await o.onStep({ t: from, step, total, x: lent, predX0: lentX0 })
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
): Record<string, NativeBuffer> {
  const upload = (values: Float32Array | Int32Array) => hold(core.device.upload(values))
  // A learned variance is needed where there is noise.
  const table = {
    table: upload(plan.table),
    timesteps: upload(plan.timesteps),
    ...(plan.variance && noise !== 'none' && { variance: upload(plan.variance) }),
  }
  const columns = Object.entries(plan.columns).map(([name, values]) => [name, upload(values)])
  if (columns.length === 0) return table
  return {
    ...table,
    ...Object.fromEntries(columns),
    one: upload(new Float32Array(plan.rows).fill(1)),
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

  get bindings(): Buffers {
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

/** NaN that a network brought forth would otherwise come out as a picture of nothing. */
function checkFinished(values: Float32Array): Float32Array {
  const bad = values.findIndex(Number.isNaN)
  if (bad < 0) return values
  throw new DiffusionError('not-finite', `sampling ended in NaN (element ${bad}): the network or its weights diverged`)
}

export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new DiffusionError('aborted', 'sampling was aborted', { cause: signal.reason })
}
