/**
 * What of a network does not depend on x, computed before the steps that it is for: what the blocks are told of the timesteps, for
 * up to 32 evaluations in one product, and what cross-attention takes of the context, once a sampling. The bits are those of
 * computing it in each step, since a sample's numbers do not depend on the others'. Where algorithms are chosen by times, those of a
 * product of more rows may be others: what depends on the timestep stays in the steps there.
 */
import type { Graph, Value } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Preparation, Prepared } from '../../nn/network'
import type { Program } from '../../program'
import type { RunQueue } from '../../run-queue'
import type { Shape, Tensor } from '../../tensor'
import type { Condition, ConditionKind } from '../process/condition'
import type { Core } from '../process/core'
import type { DenoiserMode, NetworkDenoiser } from '../process/denoiser'
import { toldTimes } from '../process/preconditioning'
import type { SamplingPlan } from './plan'

/** Of a table of what is told: the most evaluations that it is for, and the rows that it ends at if that is earlier. */
const [mostEvaluations, mostRows] = [32, 256]

/** What the graph of a step depends on: a part of programs' keys. */
export interface PreparedKind {
  /**
   * Where what the blocks are told comes from: a table that has for each evaluation a row for all samples, or one for each sample; or
   * the step itself.
   */
  readonly told: 'alike' | 'each' | 'step'
}

/** The conditions of a step by what they are called in its graph. */
type Which = NonNullable<DenoiserMode['of']>
type Conditions = Readonly<{ given: Condition; negative?: Condition }>
type Buffers = Record<string, NativeBuffer>

const prefixOf = (of: Which) => (of === 'negative' ? 'negative.' : '')

/** What is the same for all samples does not depend on the condition either. */
const toldName = ({ told }: PreparedKind, of: Which) => `${told === 'each' ? prefixOf(of) : ''}told`

/** Of the table: how many evaluations it is for, and the rows of each. */
function tableSize({ told }: PreparedKind, n: number): { evaluations: number; each: number; rows: number } {
  const each = told === 'each' ? n : 1
  const evaluations = Math.max(1, Math.min(mostEvaluations, Math.floor(mostRows / each)))
  return { evaluations, each, rows: evaluations * each }
}

/** Inputs of the step's graph: `told`, of which each sample has row `place`, and `attended.0`, ...; with a prefix for the negative one. */
export function preparedInputs(
  core: Core,
  g: Graph,
  o: { shape: Shape; kind: PreparedKind; condition: ConditionKind; of: Which },
): Prepared {
  const { kind, condition, of } = o
  const [n] = o.shape
  const { toldChannels, attendedChannels } = core.denoiser.network!.module.preparation!
  const table = () => g.input(toldName(kind, of), [tableSize(kind, n).rows, 1, 1, toldChannels])
  return {
    ...(kind.told !== 'step' && { told: g.embedding(placeInput(g, n), table()) }),
    attended: attendedChannels.map((channels, i) => {
      return g.input(prefixOf(of) + attendedName(i), [n, 1, condition.contextLength, channels])
    }),
  }
}

const attendedName = (i: number) => `attended.${i}`

const placeInput = (g: Graph, n: number) => g.input('place', [n, 1, 1, 1], 'i32')

/** The next run finds the next evaluation's rows, after the last the first. */
export function nextPlace(g: Graph, n: number, kind: PreparedKind): void {
  if (kind.told === 'step') return
  const place = placeInput(g, n)
  g.nextStep(place, g.input('places', [tableSize(kind, n).rows + 1, 1, 1, 1], 'i32'), place)
}

/** The `place` that follows on each, at the index after it. */
function placesOf({ rows, each }: ReturnType<typeof tableSize>): Int32Array {
  const places = new Int32Array(rows + 1)
  for (let i = 0; i < rows; i++) places[i + 1] = (i + each) % rows
  return places
}

const emptyAs = <T extends Float32Array | Int32Array>(values: T, length: number) =>
  new (values.constructor as new (length: number) => T)(length)

/** Of the evaluations from `first` on, each `each` times; after the end the last. */
function timesFrom<T extends Float32Array | Int32Array>(
  times: T,
  first: number,
  { rows, each }: ReturnType<typeof tableSize>,
): T {
  const last = times.length - 1
  return emptyAs(times, rows).map((_, i) => times[Math.min(first + Math.floor(i / each), last)]) as T
}

/** All of it, `count` times. */
function tiled<T extends Float32Array | Int32Array>(values: T, count: number): T {
  const all = emptyAs(values, count * values.length)
  for (let i = 0; i < count; i++) all.set(values, i * values.length)
  return all
}

interface PreparedOptions {
  readonly shape: Shape
  readonly plan: SamplingPlan
  /** Of the step's graph, by what they are called there. */
  readonly conditions: Conditions
  readonly deterministic?: boolean
}

/** A program that prepares, with what it is bound to. */
interface Job {
  readonly program: Program
  readonly bindings: Readonly<Buffers>
}

/** Of one sampling. */
export class PreparedNetwork {
  readonly kind: PreparedKind
  readonly #held: NativeBuffer[] = []
  /** Of the step's graph, by condition. */
  readonly #bindings: Readonly<Record<Which, Buffers>> = { given: {}, negative: {} }
  readonly #table: ReturnType<typeof tableSize>
  /** What the network is told in the evaluations of a table, one table after the other. */
  readonly #times: NativeBuffer[] = []
  readonly #told: Job[] = []
  readonly #attended: Job[] = []

  private constructor(
    private readonly core: Core,
    private readonly network: NetworkDenoiser,
    private readonly preparation: Preparation,
    private readonly o: PreparedOptions,
  ) {
    const { device, settings } = core
    const differ = network.module.numClasses !== undefined || Object.values(o.conditions).some(({ vector }) => vector)
    const hasTable = (o.deterministic ?? settings.deterministic) || !device.native.timesAlgorithms
    this.kind = { told: !hasTable ? 'step' : differ ? 'each' : 'alike' }
    this.#table = tableSize(this.kind, o.shape[0])
  }

  /** Undefined for a denoiser of which nothing can be prepared. `create` is to be called before it prepares. */
  static of(core: Core, o: PreparedOptions): PreparedNetwork | undefined {
    const { network } = core.denoiser
    return network?.module.preparation && new PreparedNetwork(core, network, network.module.preparation, o)
  }

  /** Of the graph of a step with these conditions. */
  bindings(conditions: readonly Which[]): Readonly<Buffers> {
    return Object.assign({}, ...conditions.map((of) => this.#bindings[of]))
  }

  /** Asks for what evaluation i needs: before each is asked for, in their order. */
  prepare(queue: RunQueue, i: number): void {
    if (i === 0) for (const { program, bindings } of this.#attended) queue.add(program, bindings)
    const { evaluations } = this.#table
    if (i % evaluations !== 0) return
    const t = this.#times[i / evaluations]
    for (const { program, bindings } of this.#told) queue.add(program, { ...bindings, t })
  }

  /** Programs and memory. */
  async create(): Promise<void> {
    const { told } = this.kind
    const conditions = Object.entries(this.o.conditions) as [Which, Condition][]
    if (this.preparation.attendedChannels.length > 0) {
      for (const [of, { context }] of conditions) this.#attended.push(await this.#attendedJob(of, context!))
    }
    if (told === 'step') return
    const { device } = this.core
    const { shape, plan } = this.o
    const first = Int32Array.from({ length: shape[0] }, (_, i) => i % this.#table.each)
    this.#bindings.given.place = this.#hold(device.upload(first))
    this.#bindings.given.places = this.#hold(device.upload(placesOf(this.#table)))
    const times = toldTimes(this.core, plan)
    for (let i = 0; i < plan.evaluations.length; i += this.#table.evaluations) {
      this.#times.push(this.#hold(device.upload(timesFrom(times, i, this.#table))))
    }
    const fractional = times instanceof Float32Array
    for (const [of, condition] of conditions) {
      if (of === 'given' || told === 'each') this.#told.push(await this.#toldJob(of, condition, fractional))
    }
  }

  async #toldJob(of: Which, { y, vector }: Condition, fractional: boolean): Promise<Job> {
    const { core, preparation } = this
    const { numClasses, vectorDim = 0 } = this.network.module
    const { rows, evaluations } = this.#table
    const key = { rows, vector: vector !== undefined, fractional }
    const program = await this.#program('told', key, (g) => {
      const input = (name: string, dtype: 'f32' | 'i32', channels = 1) => g.input(name, [rows, 1, 1, channels], dtype)
      return {
        told: preparation.told({ graph: g, train: false }, input('t', fractional ? 'f32' : 'i32'), {
          y: numClasses === undefined ? undefined : input('labels', 'i32'),
          vector: vector && input('vector', 'f32', vectorDim),
        }),
      }
    })
    const upload = (values: Float32Array | Int32Array) => this.#hold(core.device.upload(tiled(values, evaluations)))
    const told = this.#hold(core.device.allocate(rows * preparation.toldChannels))
    this.#bindings[of][toldName(this.kind, of)] = told
    const given = {
      ...(numClasses !== undefined && { labels: upload(y!) }),
      ...(vector && { vector: upload((await vector.data()) as Float32Array) }),
    }
    return { program, bindings: { ...this.network.active, ...given, told } }
  }

  async #attendedJob(of: Which, context: Tensor): Promise<Job> {
    const { core, preparation } = this
    const [n, length, channels] = context.shape
    const program = await this.#program('attended', { n, length }, (g) => {
      const tokens = g.input('context', [n, 1, length, channels])
      const values = preparation.attended({ graph: g, train: false }, tokens)
      return Object.fromEntries(values.map((value, i) => [attendedName(i), value]))
    })
    const bound = await context.binding(core.device)
    const outputs: Buffers = {}
    for (const [i, c] of preparation.attendedChannels.entries()) {
      outputs[attendedName(i)] = this.#hold(core.device.allocate(n * length * c))
      this.#bindings[of][prefixOf(of) + attendedName(i)] = outputs[attendedName(i)]
    }
    const tokens = ArrayBuffer.isView(bound) ? this.#hold(core.device.upload(bound)) : bound
    return { program, bindings: { ...this.network.active, ...outputs, context: tokens } }
  }

  #program(kind: string, key: Record<string, number | boolean>, build: (g: Graph) => Record<string, Value>) {
    // A weight that is used once is packed as it is used.
    return this.core.networkProgram(kind, key, build, this.o.deterministic, { packedBytes: 0 })
  }

  #hold(buffer: NativeBuffer): NativeBuffer {
    this.#held.push(buffer)
    return buffer
  }

  release(): void {
    for (const buffer of this.#held) buffer.release()
  }
}
