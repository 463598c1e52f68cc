/**
 * Guidance away from another prediction: the network's own of another condition (classifier-free guidance, Ho & Salimans 2022), or
 * that of a worse model (autoguidance, Karras et al. 2024a).
 */
import type { Device } from '../../../device'
import type { NativeBuffer } from '../../../native'
import type { Binding, Program } from '../../../program'
import type { RunQueue } from '../../../run-queue'
import type { Shape } from '../../../tensor'
import { type Condition, conditionBindings, kindOf } from '../../process/condition'
import { type Core, extentOf } from '../../process/core'
import { betweenTimesteps, denoise, denoiserBindings } from '../../process/preconditioning'
import { timesOf } from '../../process/timesteps'
import type { Evaluation, SamplingPlan } from '../plan'
import type { GuidanceKind } from './nodes'
import type { Buffers, GuidancePart, Moment } from './part'

/** Of all kinds. */
export interface ContrastOptions {
  /** 1 is the given prediction, 0 the other one. */
  readonly scale: number
  /** How much of the given prediction's deviation is restored: phi of Lin et al. 2024, eq. 16. 0: nothing. */
  readonly rescale: number
  /** Noise levels sigma at which there is guidance, from above the first up to the second: Kynkaanniemi et al. 2024, eq. 5. Undefined: all. */
  readonly interval?: readonly [number, number]
}

/** sigma = sqrt((1 - alpha_bar) / alpha_bar) of an evaluation: the noise beside an image that is not scaled. */
export function sigmaAt({ schedule }: Core, { t, alpha }: Evaluation): number {
  const bar = alpha === undefined ? schedule.alphasCumprod[t] : alpha ** 2
  return Math.sqrt((1 - bar) / bar)
}

abstract class Contrast implements GuidancePart {
  abstract readonly kind: GuidanceKind
  abstract readonly external: boolean
  protected readonly held: Record<string, NativeBuffer>

  constructor(
    protected readonly core: Core,
    protected readonly shape: Shape,
    protected readonly o: ContrastOptions,
  ) {
    const { device } = core
    this.held = {
      guidance: device.upload(Float32Array.of(o.scale)),
      '1-guidance': device.upload(Float32Array.of(1 - o.scale)),
      guidanceRow: device.upload(new Int32Array(shape[0])),
    }
  }

  get bindings(): Buffers {
    return this.held
  }

  isActive(at: Evaluation): boolean {
    const [low, high] = this.o.interval ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
    const sigma = sigmaAt(this.core, at)
    return sigma > low && sigma <= high
  }

  abstract prepare(queue: RunQueue, at: Moment): Promise<void>

  release(): void {
    for (const buffer of Object.values(this.held)) buffer.release()
  }
}

/** By the same network, in the same program. */
export class ClassifierFree extends Contrast {
  readonly external = false
  readonly kind: GuidanceKind

  private constructor(
    core: Core,
    shape: Shape,
    o: ContrastOptions,
    readonly negative: Condition,
  ) {
    super(core, shape, o)
    this.kind = { away: 'condition', negative: kindOf(negative), rescale: o.rescale }
  }

  static async create(core: Core, shape: Shape, o: ContrastOptions & { negative: Condition }): Promise<ClassifierFree> {
    const bindings = await conditionBindings(core.device, o.negative, 'negative.')
    const part = new ClassifierFree(core, shape, o, o.negative)
    for (const [name, values] of Object.entries(bindings)) part.held[name] = ownBuffer(core, values)
    return part
  }

  async prepare(): Promise<void> {}
}

/** The values on the device, in memory that may be released. */
function ownBuffer(core: Core, values: Binding): NativeBuffer {
  if (ArrayBuffer.isView(values)) return core.device.upload(values)
  const buffer = core.device.allocate(values.elements)
  buffer.copyFrom(values)
  return buffer
}

function uploaded(device: Device, tables: Readonly<Record<string, Float32Array | undefined>> = {}): Buffers {
  const given = Object.entries(tables).filter((entry): entry is [string, Float32Array] => entry[1] !== undefined)
  return Object.fromEntries(given.map(([name, values]) => [name, device.upload(values)]))
}

/** By another model, in a program of its own. */
export class AutoGuidance extends Contrast {
  readonly kind: GuidanceKind
  readonly external: boolean
  #program?: Program
  #inputs: Buffers = {}
  /** Of betweenTimesteps. */
  readonly #tables: Buffers

  constructor(
    core: Core,
    shape: Shape,
    o: ContrastOptions & { readonly model: Core; readonly condition: Condition },
    private readonly plan: SamplingPlan,
  ) {
    super(core, shape, o)
    const { n, d } = extentOf(shape, 'shape')
    this.#guide = { core: o.model, condition: o.condition }
    this.external = o.model.denoiser.external
    this.kind = { away: 'model', rescale: o.rescale }
    this.held.negative = core.device.allocate(n * d)
    this.#tables = uploaded(core.device, betweenTimesteps(o.model, plan))
  }

  readonly #guide: { readonly core: Core; readonly condition: Condition }
  readonly #staged: Record<string, NativeBuffer> = {}

  async prepare(queue: RunQueue, { x, t, row, at }: Moment): Promise<void> {
    const { core, condition } = this.#guide
    const { denoiser } = core
    if (!this.#program || denoiser.external) {
      const { shape } = this
      const given = await denoiserBindings(core, { x, t: timesOf(shape[0], at.t), shape, condition })
      this.#inputs = Object.fromEntries(
        Object.entries(given).map(([name, binding]) => {
          if (!ArrayBuffer.isView(binding)) return [name, binding]
          this.#staged[name] ??= core.device.allocate(binding.length)
          this.#staged[name].write(binding)
          return [name, this.#staged[name]]
        }),
      )
    }
    this.#program ??= await this.#compile()
    queue.add(this.#program, {
      ...{ x, t, ...this.#inputs },
      ...(this.#isBetween && { row, ...this.#tables }),
      negative: this.held.negative,
    })
  }

  #compile(): Promise<Program> {
    const { core, condition } = this.#guide
    const { shape } = this
    const { n, d } = extentOf(shape, 'shape')
    const kind = kindOf(condition)
    const rows = this.#isBetween && this.plan.rows
    return core.networkProgram('guide', { shape: shape.join('x'), rows, ...kind }, (g) => {
      const x = g.input('x', [n, 1, 1, d])
      const t = g.input('t', [n, 1, 1, 1], 'i32')
      const by = rows ? { row: g.input('row', [n, 1, 1, 1], 'i32'), rows } : undefined
      return { negative: denoise(core, g, { x, t, by, shape, mode: { train: false, condition: kind } }).prediction }
    })
  }

  get #isBetween(): boolean {
    return Object.keys(this.#tables).length > 0
  }

  override release(): void {
    super.release()
    for (const buffer of Object.values({ ...this.#staged, ...this.#tables })) buffer.release()
  }
}
