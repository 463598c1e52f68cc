/** The gradients of a step's batches, those of other ranks included, and the update by their sum. */
import type { Device } from '../device'
import { mustBeAlike } from '../diffusion/training/alike'
import { GradientTree } from '../diffusion/training/gradient-tree'
import { type appendUpdate, rateOf } from '../diffusion/training/optimizer'
import { DiffusionError, invalidArgument } from '../errors'
import type { StateDict } from '../nn/weights'
import type { Bindings, Program } from '../program'
import { Tensor } from '../tensor'
import { type Distributed, World } from '../world'
import type { TrainedWeights } from './trained-weights'

/** What an update's nodes are made of. */
export type UpdateOf = Parameters<typeof appendUpdate>[1]

/** Of one batch. */
export interface BatchStep {
  readonly update: boolean
  /** Batches of a step, of each rank. */
  readonly accumulate: number
  readonly lr?: number
}

/** Those who train together. Throws `unsupported` for a discriminator with others: its norms, and what it counts for, follow from one batch. */
export function worldOf(distributed: Distributed, device: Device, hasDiscriminator: boolean): World | undefined {
  const world = World.of(distributed, device)
  if (!world || world.size === 1) return undefined
  if (!hasDiscriminator) return world
  const what = 'a discriminator, whose norms and weight follow from the batches of one process, is trained by one'
  throw new DiffusionError('unsupported', what, {
    argument: 'discStart',
    expected: "none, or distributed: 'off'",
    received: `${world.size} processes`,
  })
}

export class SummedGradients {
  readonly #tree: GradientTree

  /** `world`: those who train together; undefined where this process does alone. */
  constructor(
    readonly trained: TrainedWeights,
    readonly world: World | undefined,
  ) {
    this.#tree = new GradientTree(trained.weights)
  }

  /**
   * One batch. `backward` gives the program of its gradients, with what it is told the one that updates by them, too; `update` the one
   * that does only that. Outputs are the batch's, and with an update sumSquares. Throws `rank-failed` where others take another step.
   */
  async batch(
    step: BatchStep,
    programs: { backward(update?: UpdateOf): Promise<Program>; update(o: UpdateOf): Promise<Program> },
    inputs: Bindings,
  ): Promise<Record<string, Float32Array>> {
    const { trained, world } = this
    const { update, accumulate } = step
    const { weights } = trained
    const place = update && world ? { rank: world.rank, ranks: world.size, share: accumulate } : undefined
    const nodes = { optimizer: trained.options.optimizer, count: weights.table.count, ema: trained.hasEma, place }
    // The last batch of a rank and the update are one program, which the sum goes on beside.
    const isWhole = update && (place !== undefined || (accumulate === 1 && this.#tree.batches === 0))
    const program = await programs.backward(isWhole ? nodes : undefined)
    if (place) await this.#compare(world!, step)
    const updating = () => trained.bindings({ ...step, accumulate: accumulate * (world?.size ?? 1) })
    const bank = this.#tree.take()
    if (isWhole) {
      return this.#tree.spend(bank, (earlier) =>
        program.run({ ...inputs, ...updating(), ...earlier, grads: weights.bank(bank) }),
      )
    }
    const outputs = await this.#tree.keep(bank, () =>
      program.run({ ...inputs, ...weights.bindings('weights'), grads: weights.bank(bank) }),
    )
    this.#tree.push(bank, (world?.rank ?? 0) * accumulate)
    if (!update) return outputs
    const last = await programs.update(nodes).catch((error) => {
      this.clear()
      throw error
    })
    const sum = this.#tree.sum()
    const { sumSquares } = await this.#tree.spend(sum, () => last.run({ ...updating(), grads: weights.bank(sum) }))
    return { ...outputs, sumSquares }
  }

  /** Ranks that took other batches would add up what does not belong together, or wait for one another for ever. */
  async #compare(world: World, { accumulate, lr }: BatchStep): Promise<void> {
    const { trained } = this
    const batches = this.#tree.batches + 1
    try {
      await mustBeAlike(world, {
        step: trained.step,
        batches,
        accumulate,
        lr: lr ?? rateOf(trained.options, trained.step),
        parameters: trained.weights.table.size,
      })
      if (batches !== accumulate) throw invalidArgument('accumulate', String(batches), accumulate)
    } catch (error) {
      this.clear()
      throw error
    }
  }

  /** The sum of those that wait for an update, of this rank. */
  async read(): Promise<StateDict> {
    const { weights } = this.trained
    const [first = await weights.read('grads'), ...others] = await Promise.all(
      this.#tree.banks.map((bank) => weights.read(bank)),
    )
    const sum: StateDict = { ...first }
    for (const dict of others) {
      for (const [name, { shape }] of Object.entries(dict)) {
        const [a, b] = [await sum[name].values(), await dict[name].values()]
        sum[name] = Tensor.wrap(
          Float32Array.from(a, (value, i) => value + b[i]),
          shape,
        )
      }
    }
    return sum
  }

  clear(): void {
    this.#tree.clear()
  }
}
