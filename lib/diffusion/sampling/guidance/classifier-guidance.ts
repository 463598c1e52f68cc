/** Guidance by the gradient of a classifier's log p(y | x_t): Dhariwal & Nichol 2021, section 4. */
import { DiffusionError } from '../../../errors'
import type { NativeBuffer } from '../../../native'
import type { RunQueue } from '../../../run-queue'
import { checkTensor, type Shape, Tensor } from '../../../tensor'
import type { ScaledClassifier } from '../../classifier/classifier'
import { type Core, extentOf } from '../../process/core'
import { type Prediction, targetRow } from '../../process/prediction'
import { timesOf } from '../../process/timesteps'
import { type SamplingPlan, timesTable } from '../plan'
import type { GuidanceKind } from './nodes'
import type { Buffers, GuidancePart, Moment } from './part'

/**
 * The gradient of log p(y | x_t) with respect to x_t, of x's shape. t [n] is int32, but float32 where the sampler's noise level lies
 * between two timesteps. x is lent: it can't be used after the call.
 */
export type ConditionFunction = (x: Tensor, t: Tensor) => Tensor | Promise<Tensor>

/**
 * What becomes of the output p x_0 + q noise where the noise is less by b = sqrt(1 - alpha_bar) times the gradient (algorithm 2 there)
 * and x_t the same, as a multiple of the gradient. Where nothing is left of an image no gradient says anything: 0.
 */
export function scoreFactor(prediction: Prediction, bar: number): number {
  const [a, b] = [Math.sqrt(bar), Math.sqrt(1 - bar)]
  if (a === 0) return 0
  const [p, q] = targetRow(prediction, a, b)
  return b * ((p * b) / a - q)
}

abstract class GradientPart implements GuidancePart {
  abstract readonly external: boolean
  readonly kind: GuidanceKind
  protected readonly held: Record<string, NativeBuffer>

  /** `meanShift`: the plan's, by which the gradient moves means; without it, it moves predictions. */
  constructor(
    protected readonly core: Core,
    protected readonly shape: Shape,
    meanShift: Float32Array | undefined,
  ) {
    const { device, schedule, settings } = core
    const { n, d } = extentOf(shape, 'shape')
    this.kind = { gradient: meanShift ? 'mean' : 'score' }
    const factors = () => schedule.alphasCumprod.map((bar) => scoreFactor(settings.parameterization, bar))
    this.held = {
      gradient: device.allocate(n * d),
      ...(meanShift
        ? { meanShift: device.upload(meanShift) }
        : { score: device.upload(factors()), 'score.one': device.upload(schedule.alphasCumprod.map(() => 1)) }),
    }
  }

  get bindings(): Buffers {
    return this.held
  }

  isActive(): boolean {
    return true
  }

  abstract prepare(queue: RunQueue, at: Moment): Promise<void>

  release(): void {
    for (const buffer of Object.values(this.held)) buffer.release()
  }
}

/** By a classifier, whose program is asked for with the step's. */
export class ClassifierGuidance extends GradientPart {
  readonly external = false
  readonly #inputs: Buffers

  constructor(
    core: Core,
    shape: Shape,
    private readonly o: {
      readonly classifier: ScaledClassifier
      readonly labels: Int32Array
      readonly scale: number
      readonly meanShift?: Float32Array
      readonly plan: SamplingPlan
    },
  ) {
    super(core, shape, o.meanShift)
    this.#inputs = o.classifier.bindings(o.labels, o.scale)
    if (o.plan.fractional) this.#times = core.device.upload(timesTable(o.plan))
  }

  /** By evaluation, where some lie between timesteps. */
  readonly #times?: NativeBuffer

  async prepare(queue: RunQueue, { x, t, row }: Moment): Promise<void> {
    const times = this.#times
    const program = await this.o.classifier.program(this.shape, times && this.o.plan.rows)
    const time: Buffers = times ? { times, row } : { t }
    queue.add(program, { x, ...time, ...this.#inputs, gradient: this.held.gradient })
  }

  override release(): void {
    super.release()
    this.#times?.release()
    this.o.classifier.release()
  }
}

/** By a function of the user's, which is called in each step: guided-diffusion's cond_fn. */
export class FunctionGuidance extends GradientPart {
  readonly external = true

  constructor(
    core: Core,
    shape: Shape,
    private readonly o: { readonly condFn: ConditionFunction; readonly meanShift?: Float32Array },
  ) {
    super(core, shape, o.meanShift)
  }

  async prepare(_queue: RunQueue, { x, at }: Moment): Promise<void> {
    const { core, shape } = this
    using lent = Tensor.onDevice(core.device, x, shape, { owned: false })
    let gradient: unknown
    try {
      gradient = await this.o.condFn(lent, Tensor.from(timesOf(shape[0], at.t)))
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new DiffusionError('denoiser-failed', `condFn threw: ${reason}`, { argument: 'condFn', cause })
    }
    checkTensor(gradient, 'condFn', shape)
    const values = await gradient.data()
    const bad = values.findIndex((v) => !Number.isFinite(v))
    if (bad >= 0) {
      throw new DiffusionError('not-finite', `condFn returned ${values[bad]} at element ${bad}`, { argument: 'condFn' })
    }
    this.held.gradient.write(values)
  }
}
