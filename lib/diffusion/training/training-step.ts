/** One training step as one program: q_sample, network, loss, gradients, update, EMA. */
import { DiffusionError } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { StateDict, Weights } from '../../nn/weights'
import type { Program } from '../../program'
import { drawTimesteps } from '../../rng'
import type { Tensor } from '../../tensor'
import { World } from '../../world'
import type { Core } from '../process/core'
import type { NetworkDenoiser } from '../process/denoiser'
import type { LossScaleState } from '../process/loss-scale'
import {
  backward,
  buildLoss,
  type LossInput,
  type LossResult,
  lossBindings,
  lossDictOf,
  lossKey,
  lossWeights,
  requireNetwork,
  type SampleLosses,
  samplesOf,
  totalLosses,
} from '../process/losses'
import type { TimestepSampler } from '../process/settings'
import { type DrawnTimesteps, drawNormal, LossSecondMoment, type NormalOptions } from '../process/timestep-sampler'
import { mustBeAlike } from './alike'
import { Checksums } from './checksums'
import type { LitEma } from './ema'
import { type Accumulation, GradientTree, sumsOf } from './gradient-tree'
import {
  appendUpdate,
  hyperOf,
  momentsOf,
  type Optimizer,
  type OptimizerOptions,
  type OptimizerSettings,
  type Place,
  parseOptimizer,
  rateOf,
} from './optimizer'
import { PowerEmas } from './power-ema'
import { Shards } from './shards'

export interface UpdateOptions {
  /** Change the weights after this batch; otherwise only add to the gradients. */
  update: boolean
  /** How many batches the gradients are the mean of. */
  accumulate: number
  /** In place of the optimizer's learning rate. */
  lr?: number
  /** Average the new weights in. */
  ema: boolean
  /** What the batch's timesteps were drawn by, and what learns their losses. */
  timesteps?: LossSecondMoment
  /** Those who train together: `accumulate` is the batches of each. Default: nobody else. */
  world?: World
}

export interface TrainResult extends LossResult {
  /** Global L2 norm of the gradients before clipping; undefined without an update. */
  gradNorm?: number
  /** With fp16: what the loss was multiplied by for its gradients. */
  lossScale?: number
  /** True where gradients in fp16 overflowed: the update was not made, and the next has half the scale. */
  skipped?: boolean
}

/** Everything that a bit-exact resume needs of the model. */
export interface TrainingState {
  /** The trained weights, by the network's names, and what is trained beside it by the state dict's. */
  weights: StateDict
  /** Undefined where useEma is false. */
  ema?: StateDict
  /** The further averages, in the order of emaSigmaRels; with these only. */
  powerEmas?: StateDict[]
  /** The optimizer's averages of the gradients. */
  m: StateDict
  /** AdamW's averages of their squares. Undefined with Lion, which has none. */
  v?: StateDict
  /** Updates so far. */
  optimizerStep: number
  /** How often the weights were averaged in. */
  emaUpdates: number
  /** Seeds drawn so far for calls that were given none (default 0). */
  draws?: number
  /** LossSecondMoment's, [T, 11]; with timestepSampler 'loss-second-moment' only. */
  timestepLosses?: Tensor
  /** With precision 'fp16' only. */
  lossScale?: LossScaleState
  /** In the middle of an accumulation only: the sums of the batches since the last update. */
  accumulation?: Accumulation
}

/** Inputs of the loss, and with `update` hyper; outputs of the loss, and then sumSquares. */
export function trainingProgram(
  core: Core,
  input: LossInput,
  o: { update: boolean; ema: boolean; optimizer?: Optimizer; place?: Place; isSharded?: boolean },
): Promise<Program> {
  const { count } = requireNetwork(core, 'training').weights.table
  const { update, ema, optimizer = 'adamw', place, isSharded = false } = o
  const build = (g: Graph): Record<string, Value> => {
    const losses = buildLoss(core, g, input)
    backward(g, losses)
    return update ? { ...losses, ...appendUpdate(g, { optimizer, count, ema, place, isSharded }) } : losses
  }
  return core.networkProgram('train', { ...lossKey(core, input), update, ema, optimizer, ...place, isSharded }, build)
}

export class Training {
  /** Updates so far. */
  step = 0
  /** Samples whose gradients wait for the next update. */
  accumulated = 0
  readonly #gradients: GradientTree
  readonly #checksums: Checksums
  /** Of the first batch of a step. */
  #batchSize = 0
  /** What the gradients that wait were multiplied by. */
  #scale = 1
  #timesteps: LossSecondMoment | undefined
  readonly #powerEmas: PowerEmas | undefined
  #options: OptimizerSettings | undefined
  #shards: Shards | undefined

  constructor(
    readonly network: NetworkDenoiser,
    readonly ema: LitEma | undefined,
    readonly timestepSampler: NormalOptions & { readonly name: TimestepSampler },
    emaSigmaRels: readonly number[] = [],
  ) {
    this.#gradients = new GradientTree(network.weights)
    this.#checksums = new Checksums(network.weights)
    if (emaSigmaRels.length > 0) this.#powerEmas = new PowerEmas(emaSigmaRels)
  }

  /** The averages, where an update left them as they were. */
  async average(core: Core): Promise<void> {
    await this.ema?.update(core, this.network.weights, this.#shardsOf(core))
    await this.averageFurther(core)
  }

  /** The further averages, after an update. */
  async averageFurther(core: Core): Promise<void> {
    await this.#powerEmas?.update(core, this.network.weights, this.step, this.#shardsOf(core))
  }

  /** Where ranks share the optimizer's state. */
  #shardsOf(core: Core): Shards | undefined {
    const world = core.settings.shardOptimizer ? this.world(core) : undefined
    if (world) this.#shards ??= new Shards(this.network.weights, world)
    return world && this.#shards
  }

  /** Has all of the optimizer's state and the averages here, until the next update. All ranks call it at the same place. */
  async gatherShards(): Promise<void> {
    await this.#shards?.gather()
  }

  /** Those who train together; undefined where this process does alone. */
  world({ settings, device }: Core): World | undefined {
    const world = World.of(settings.distributed, device)
    if (!world || world.size === 1) return undefined
    if (this.timestepSampler.name !== 'loss-second-moment') return world
    throw new DiffusionError(
      'unsupported',
      "timestepSampler 'loss-second-moment' learns from the losses of one process",
      {
        argument: 'timestepSampler',
        expected: "another, or distributed: 'off'",
        received: `'${this.timestepSampler.name}' on ${world.size} ranks`,
      },
    )
  }

  /** The first sample of a batch of `batchSize`, among those of its step. Of ranks before this one, batches are taken to be as large. */
  firstSample(core: Core, { batchSize, accumulate }: { batchSize: number; accumulate: number }): number {
    const world = this.world(core)
    if (!world) return this.accumulated
    if (this.accumulated === 0 || batchSize === this.#batchSize)
      return world.rank * accumulate * batchSize + this.accumulated
    const what = 'ranks have batches of one size in a step, unless sampleOffset says which samples they are of'
    throw new DiffusionError('invalid-argument', what, {
      argument: 'x',
      expected: `${this.#batchSize} samples, as before in this step`,
      received: `${batchSize}`,
    })
  }

  /** Where timesteps are drawn by their losses. Another number of them begins anew. */
  timesteps({ numTimesteps }: Core): LossSecondMoment | undefined {
    if (this.timestepSampler.name !== 'loss-second-moment') return undefined
    if (this.#timesteps?.numTimesteps !== numTimesteps) this.#timesteps = new LossSecondMoment(numTimesteps)
    return this.#timesteps
  }

  draw(core: Core, step: number, o: { batchSize: number; sampleOffset: number }): DrawnTimesteps {
    const { seed, numTimesteps, schedule } = core
    const { name, ...normal } = this.timestepSampler
    if (name === 'uniform') return { t: drawTimesteps(seed, step, { ...o, numTimesteps }) }
    if (name === 'loss-second-moment') return this.timesteps(core)!.draw(seed, step, o)
    return { t: drawNormal(name, schedule, { ...o, ...normal, seed, step }) }
  }

  /** A new optimizer: its moments and its step start from zero. */
  configure(options: OptimizerOptions): void {
    this.#options = parseOptimizer(options)
    this.step = 0
    this.#powerEmas?.resume(0)
    this.accumulated = 0
    const { weights } = this.network
    this.#gradients.clear()
    if (this.#shards?.areDivided) {
      this.#shards.clear(['m', 'v'])
      return
    }
    for (const bank of ['m', 'v'] as const) {
      if (weights.has(bank)) weights.bank(bank).clear() // new ones are zero
    }
  }

  async batch(core: Core, input: LossInput, o: UpdateOptions): Promise<TrainResult> {
    const { network } = this
    if (!this.#options) {
      throw new DiffusionError('not-configured', 'call configureOptimizers({ lr }) before training', {
        argument: 'configureOptimizers',
      })
    }
    const ema = o.update && o.ema ? this.ema : undefined
    const { optimizer } = this.#options
    const world = o.update ? o.world : undefined
    const place = world && { rank: world.rank, ranks: world.size, share: o.accumulate }
    // One batch and its update are one program; so are the last one's of a rank, which the sum of all goes on beside.
    const isWhole = o.update && (world !== undefined || (o.accumulate === 1 && this.#gradients.batches === 0))
    const isSharded = world !== undefined && core.settings.shardOptimizer
    const kind = { update: isWhole, ema: ema !== undefined, optimizer, place, isSharded }
    const program = await trainingProgram(core, input, kind)
    if (this.accumulated === 0) {
      this.#scale = core.lossScale?.scale ?? 1
      this.#batchSize = input.t.length
    }
    const scale = this.#scale
    const options = this.#options
    if (world) await this.#compare(core, world, options, o, input.t.length)
    const bindings = {
      ...(await lossBindings(core, input)),
      ...lossWeights(core, input, scale),
      ...network.weights.bindings('weights'),
    }
    const bank = this.#gradients.take()
    const before = this.accumulated
    this.accumulated = o.update ? 0 : before + input.t.length
    let sumSquares: Float32Array
    let losses: Record<string, Float32Array>
    if (isWhole) {
      ;({ sumSquares, ...losses } = await this.#gradients.spend(bank, (earlier) => {
        const grads = network.weights.bank(bank)
        const updating = this.#updateBindings(options, o, ema, scale, isSharded ? this.#shardsOf(core) : undefined)
        return program.run({ ...bindings, ...updating, ...earlier, grads })
      }))
    } else {
      let result: LossResult | undefined
      try {
        losses = await this.#gradients.keep(bank, async () => {
          const losses = await program.run({ ...bindings, grads: network.weights.bank(bank) })
          if (!o.update) result = this.#checked(core, samplesOf(losses), input, o.timesteps)
          return losses
        })
      } catch (error) {
        this.accumulated = before // as if it had not been asked for
        throw error
      }
      this.#gradients.push(bank, (o.world?.rank ?? 0) * o.accumulate)
      if (result) return result
      sumSquares = await this.#update(core, options, o, ema, scale)
    }
    const finite = Number.isFinite(sumSquares[0])
    if (!finite) this.#uncount(ema)
    const result = this.#checked(core, samplesOf(losses), input, o.timesteps)
    core.lossScale?.update(finite)
    const scaled = core.lossScale && { lossScale: scale }
    if (finite && o.ema) await this.averageFurther(core)
    if (finite) return { ...result, gradNorm: Math.sqrt(sumSquares[0]) / divisorOf(o, scale), ...scaled }
    if (scale > 1) return { ...result, skipped: true, ...scaled }
    throw notFinite('the gradients are not finite', this.step + 1, 'finite gradients', sumSquares[0])
  }

  /** The optimizer's step by the gradients of all batches. Returns the sum of their squares. Where it fails, the accumulation is over, too. */
  async #update(core: Core, options: OptimizerSettings, o: UpdateOptions, ema: LitEma | undefined, scale: number) {
    const { count } = this.network.weights.table
    const { optimizer } = options
    const key = { optimizer, ema: ema !== undefined, count }
    const { weights } = this.network
    let program: Program
    try {
      program = core.program('update', key, (g) => appendUpdate(g, { optimizer, count, ema: ema !== undefined }))
    } catch (error) {
      this.#gradients.clear()
      throw error
    }
    const bank = this.#gradients.sum()
    const { sumSquares } = await this.#gradients.spend(bank, () => {
      const updating = this.#updateBindings(options, o, ema, scale)
      return program.run({ weights: weights.bank('weights'), ...updating, grads: weights.bank(bank) })
    })
    return sumSquares
  }

  /** Before the last batch of a step, of `samples` samples. Where ranks took other batches, the accumulation is over. */
  async #compare(core: Core, world: World, options: OptimizerSettings, o: UpdateOptions, samples: number) {
    const { accumulate } = o
    const batches = this.#gradients.batches + 1
    try {
      await mustBeAlike(world, {
        step: this.step,
        batches,
        accumulate,
        samples: this.accumulated + samples,
        lr: o.lr ?? rateOf(options, this.step),
        parameters: this.network.weights.table.size,
        shardOptimizer: Number(core.settings.shardOptimizer),
        ...(await this.#checksums.take()),
      })
      if (batches === accumulate) return
      const what = `an update after ${batches} batches, with accumulate ${accumulate}`
      throw new DiffusionError('invalid-argument', what, {
        argument: 'accumulate',
        expected: String(batches),
        received: String(accumulate),
      })
    } catch (error) {
      this.#gradients.clear()
      this.accumulated = 0
      throw error
    }
  }

  /** Counts the step. */
  #updateBindings(
    options: OptimizerSettings,
    o: UpdateOptions,
    ema: LitEma | undefined,
    scale: number,
    banks: Pick<Weights, 'bank'> | Shards = this.network.weights,
  ) {
    return {
      ...Object.fromEntries(this.#moments.map((bank) => [bank, banks.bank(bank)])),
      ...(ema && { ema: banks.bank('ema') }),
      hyper: this.#hyper(options, o, ema, scale),
    }
  }

  /** Of the optimizer, which is AdamW until one is configured. */
  get #moments(): readonly ('m' | 'v')[] {
    return momentsOf(this.#options ?? { optimizer: 'adamw' })
  }

  /** An optimizer changes nothing where the gradients are not finite. */
  #uncount(ema: LitEma | undefined): void {
    this.step -= 1
    ema?.retreat()
  }

  /** Counts the step. */
  #hyper(options: OptimizerSettings, o: UpdateOptions, ema: LitEma | undefined, scale: number): Float32Array {
    const lr = o.lr ?? rateOf(options, this.step)
    this.step += 1
    const gradScale = 1 / divisorOf(o, scale)
    return hyperOf({ ...options, lr }, { step: this.step, gradScale, emaDecay: ema?.advance() })
  }

  /** A loss that is no number was not learned from: its gradients are none either. */
  #checked(core: Core, samples: SampleLosses, input: LossInput, timesteps?: LossSecondMoment): LossResult {
    const result = lossDictOf(core, samples, input)
    if (Number.isFinite(result.loss)) {
      timesteps?.update(input.t, totalLosses(core, samples))
      return result
    }
    throw notFinite(`the training loss is ${result.loss}`, this.step + 1, 'a finite loss', result.loss)
  }

  /** The network's: what is trained beside it has no averages. */
  #averaged(dict: StateDict): StateDict {
    const own = this.network.module.parameters
    return Object.fromEntries(Object.entries(dict).filter(([name]) => own.get(name)))
  }

  #notAveraged(dict: StateDict): StateDict {
    const own = this.network.module.parameters
    return Object.fromEntries(Object.entries(dict).filter(([name]) => !own.get(name)))
  }

  /** A snapshot of one moment: all reads are asked for before anything else can change the banks. */
  async state(core: Core): Promise<TrainingState> {
    this.#shards?.mustBeWhole()
    const { weights } = this.network
    const counts = { optimizerStep: this.step, emaUpdates: this.ema?.numUpdates ?? 0, draws: core.seeds.drawn }
    const losses = this.timesteps(core)?.state
    const [samples, scale] = [this.accumulated, this.#scale]
    const { banks, batches, first } = this.#gradients
    const further = this.#powerEmas?.sigmaRels.map((_, i) => weights.read(`ema-${i}`))
    const sums = banks.map((bank) => weights.read(bank))
    const [w, ema, m, v] = await Promise.all([
      weights.read('weights'),
      this.ema ? weights.read('ema') : undefined,
      weights.read('m'),
      this.#moments.includes('v') ? weights.read('v') : undefined,
    ])
    const [gradients, ...others] = await Promise.all(sums)
    const lossScale = core.lossScale?.state
    return {
      weights: w,
      ...(ema && { ema: this.#averaged(ema) }),
      ...(further && { powerEmas: (await Promise.all(further)).map((dict) => this.#averaged(dict)) }),
      m,
      ...(v && { v }),
      ...counts,
      ...(losses && { timestepLosses: losses }),
      ...(lossScale && { lossScale }),
      ...(gradients && {
        accumulation: { gradients, ...(others.length > 0 && { further: others }), batches, first, samples, scale },
      }),
    }
  }

  async loadState(core: Core, state: TrainingState): Promise<void> {
    this.#shards?.mustBeWhole()
    const { weights } = this.network
    const timesteps = this.timesteps(core)
    if (this.ema && !state.ema) {
      throw new DiffusionError('state-mismatch', 'the training state has no averages (ema), but the model keeps them', {
        argument: 'ema',
        expected: 'a state dict',
        received: 'nothing',
      })
    }
    if (timesteps && !state.timestepLosses) {
      throw new DiffusionError('state-mismatch', 'the training state has no timestepLosses, by which the model draws', {
        argument: 'timestepLosses',
      })
    }
    if (this.#moments.includes('v') !== (state.v !== undefined)) {
      const [has, keeps] = state.v ? ["AdamW's", 'Lion'] : ["Lion's", 'AdamW']
      throw new DiffusionError('state-mismatch', `the training state is ${has}, but the optimizer is ${keeps}`, {
        argument: 'v',
      })
    }
    const powers = this.#powerEmas?.sigmaRels.length ?? 0
    if (powers > 0 && state.powerEmas?.length !== powers) {
      throw new DiffusionError(
        'state-mismatch',
        `the training state does not have the ${powers} averages of emaSigmaRels`,
        {
          argument: 'powerEmas',
        },
      )
    }
    const { accumulation } = state
    const { first, sums } = sumsOf(accumulation)
    if (timesteps && state.timestepLosses) await timesteps.load(state.timestepLosses)
    const banks = sums.map(() => this.#gradients.take())
    const averages = (ema: StateDict) => ({ ...this.#notAveraged(state.weights), ...ema })
    try {
      await weights.writeAll([
        ['weights', state.weights],
        ['m', state.m],
        ...(state.v ? [['v', state.v] as const] : []),
        ...(this.ema && state.ema ? [['ema', averages(state.ema)] as const] : []),
        ...Array.from({ length: powers }, (_, i) => [`ema-${i}`, averages(state.powerEmas![i])] as const),
        ...sums.map(({ dict }, i) => [banks[i], dict] as const),
      ])
    } catch (error) {
      for (const bank of banks) this.#gradients.free(bank)
      throw error
    }
    this.#gradients.clear()
    for (const [i, bank] of banks.entries()) this.#gradients.push(bank, first, sums[i].length)
    if (this.ema && state.ema) this.ema.numUpdates = state.emaUpdates
    this.#powerEmas?.resume(state.optimizerStep)
    this.step = state.optimizerStep
    this.accumulated = accumulation?.samples ?? 0
    this.#batchSize = this.accumulated / Math.max(1, this.#gradients.batches)
    this.#scale = accumulation?.scale ?? 1
    core.lossScale?.load(state.lossScale)
    core.seeds.drawn = state.draws ?? 0
  }
}

/** By which the sum of all batches' gradients is that of their mean. */
function divisorOf({ accumulate, world }: UpdateOptions, scale: number): number {
  return accumulate * (world?.size ?? 1) * scale
}

function notFinite(what: string, step: number, expected: string, received: number): DiffusionError {
  return new DiffusionError('not-finite', `${what} at step ${step}`, {
    argument: 'loss',
    expected,
    received: String(received),
  })
}
