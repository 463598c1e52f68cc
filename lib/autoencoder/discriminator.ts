/** The discriminator of a first stage's training: its weights, their optimizer, its running statistics, and its two programs. */

import type { Device } from '../device'
import { appendUpdate, type OptimizerOptions } from '../diffusion/training/optimizer'
import { DiffusionError } from '../errors'
import type { Graph, Value } from '../graph'
import type { NativeBuffer } from '../native'
import type { Autoencoder } from '../nn/autoencoder/autoencoder'
import { type DiscriminatorShape, NLayerDiscriminator } from '../nn/discriminator/n-layer'
import { batchStatistics, type PatchNorm } from '../nn/discriminator/norms'
import { type StateDict, Weights } from '../nn/weights'
import type { Seed } from '../options'
import type { Binding, Program } from '../program'
import { sizeOf, Tensor } from '../tensor'
import { column, type DiscriminatorLoss, lossOfLogits, meanOf } from './adversarial-loss'
import { type OptimizedState, TrainedWeights } from './trained-weights'

/** A program of the training's, by everything that its graph depends on. */
export type Programs = (
  kind: string,
  key: Readonly<Record<string, string | number | boolean>>,
  build: (graph: Graph) => Record<string, Value>,
) => Promise<Program>

export interface DiscriminatorState extends OptimizedState {
  /** Running means and variances of the batch norms, by upstream's names. */
  buffers: StateDict
  /** Batches that these are of: upstream's num_batches_tracked. */
  batches: number
}

/** One batch: images and what the last convolution made of them, flat [n, 1, 1, d]. */
export interface Judged {
  /** Of the images, [n, c, h, w]. */
  readonly shape: readonly number[]
  readonly x: Binding
  readonly image: NativeBuffer
}

/** torch.nn.BatchNorm2d's. */
const momentum = 0.1

type Outputs = Readonly<Record<string, Float32Array>>

export class Discriminator {
  readonly network: NLayerDiscriminator
  readonly trained: TrainedWeights
  readonly #weights: Weights
  readonly #loss: DiscriminatorLoss
  readonly #programs: Programs
  /** By its norm's prefix; of batch norms only. */
  readonly #running = new Map<string, { mean: Float32Array; variance: Float32Array }>()
  #batches = 0

  constructor(
    device: Device,
    o: { readonly shape: DiscriminatorShape; readonly loss: DiscriminatorLoss; readonly seed: Seed },
    /** Whose reconstructions it judges. */
    private readonly autoencoder: Autoencoder,
    programs: Programs,
  ) {
    this.network = new NLayerDiscriminator(o.shape)
    this.#weights = new Weights(device, this.network.parameters, o.seed)
    this.trained = new TrainedWeights(this.#weights, { useEma: false, emaDecay: 0 })
    this.#loss = o.loss
    this.#programs = programs
    if (o.shape.useActnorm) return
    for (const { prefix, channels } of this.network.norms) {
      this.#running.set(prefix, { mean: new Float32Array(channels), variance: new Float32Array(channels).fill(1) })
    }
  }

  configure(options: OptimizerOptions): void {
    this.trained.configure(options)
  }

  /**
   * What the reconstructions are worth: g_loss, and by buffers that are given the gradients with respect to `image` of the weighted
   * error and of g_loss. Running statistics go on, as upstream's do in the generator's step.
   */
  async judge(
    batch: Judged & {
      readonly errorWeights: Float32Array
      /** What a perceptual loss adds to the first gradient. */
      readonly perceptual?: NativeBuffer
      readonly ofError: NativeBuffer
      readonly ofLogits: NativeBuffer
    },
  ): Promise<{ gLoss: number }> {
    const { shape, x, image, errorWeights, perceptual, ofError, ofLogits } = batch
    await this.#initialize(batch)
    const key = { shape: shape.join('x'), perceptual: perceptual !== undefined }
    const program = await this.#programs('judge', key, (graph) => {
      const [given, made] = this.#pair(graph, shape)
      const rec = this.autoencoder.decodedEnd({ graph }, made.map)
      const error = graph.loss(rec, given.map, { type: 'l1' })
      const [fromError] = graph.backward(graph.weightedSum(error, graph.input('errorWeights', error.dims)), [made.flat])
      const { logits, statistics } = graph.untrained(() => this.#logits(graph, rec, 'fake'))
      const gLoss = graph.affine(meanOf(graph, logits), { scale: -1 })
      const [fromLogits] = graph.backward(gLoss, [made.flat])
      const added = perceptual && graph.input('perceptual', made.flat.dims)
      return {
        gLoss,
        ofError: added ? graph.add(fromError!, added) : fromError!,
        ofLogits: fromLogits!,
        ...statistics,
      }
    })
    const outputs = await program.run({
      ...{ x, image, errorWeights, ofError, ofLogits, frozen: this.#weights.bank('weights') },
      ...(perceptual && { perceptual }),
    })
    this.#track(outputs, ['fake'], shape)
    return { gLoss: outputs.gLoss[0] }
  }

  /** Its own step. Throws `not-finite`. */
  async trainingStep(
    batch: Judged & {
      readonly factor: number
      readonly update: boolean
      readonly accumulate: number
      readonly lr?: number
    },
  ): Promise<Record<string, number>> {
    const { shape, x, image, factor, update } = batch
    await this.#initialize(batch)
    const { optimizer } = this.trained.options
    const program = await this.#programs('discriminate', { shape: shape.join('x'), update, optimizer }, (graph) => {
      const [given, made] = this.#pair(graph, shape)
      const real = this.#logits(graph, given.map, 'real')
      const fake = this.#logits(graph, this.autoencoder.decodedEnd({ graph }, made.map), 'fake')
      const lost = (logits: Value, isReal: boolean) =>
        meanOf(graph, lossOfLogits(graph, logits, { loss: this.#loss, real: isReal }))
      const loss = graph.add(lost(real.logits, true), lost(fake.logits, false))
      graph.backward(graph.weightedSum(loss, graph.input('factor', [1, 1, 1, 1])))
      const outputs = {
        loss,
        logitsReal: meanOf(graph, real.logits),
        logitsFake: meanOf(graph, fake.logits),
        ...real.statistics,
        ...fake.statistics,
      }
      if (!update) return outputs
      return { ...outputs, ...appendUpdate(graph, { optimizer, count: this.network.parameters.count, ema: false }) }
    })
    const outputs = await program.run({
      ...{ x, image, factor: Float32Array.of(factor / 2) },
      ...this.trained.bindings(batch),
    })
    const { loss, logitsReal, logitsFake, sumSquares } = outputs
    if (sumSquares && !Number.isFinite(sumSquares[0])) {
      this.trained.uncount()
      const message = `the gradients of the discriminator are not finite at step ${this.trained.step + 1}`
      throw new DiffusionError('not-finite', message, { argument: 'loss', received: String(loss[0]) })
    }
    this.#track(outputs, ['real', 'fake'], shape)
    return { disc_loss: (factor * loss[0]) / 2, logits_real: logitsReal[0], logits_fake: logitsFake[0] }
  }

  /** Images and reconstructions as inputs. */
  #pair(graph: Graph, [n, channels, height, width]: readonly number[]) {
    return (['x', 'image'] as const).map((name) => {
      const flat = graph.input(name, [n, 1, 1, channels * height * width])
      return { flat, map: graph.toNhwc(flat, { channels, height, width }) }
    })
  }

  /** A column of logits, and the statistics that the norms took. */
  #logits(graph: Graph, x: Value, name: string): { logits: Value; statistics: Record<string, Value> } {
    const statistics: Record<string, Value> = {}
    const tracked = this.#running.size > 0
    const logits = this.network.build(graph, x, (norm, value) => {
      if (!tracked) return
      const { mean, variance } = batchStatistics(graph, value)
      statistics[`${name} ${norm.prefix} mean`] = mean
      statistics[`${name} ${norm.prefix} variance`] = variance
    })
    return { logits: column(graph, logits), statistics }
  }

  #track(outputs: Outputs, names: readonly string[], shape: readonly number[]): void {
    for (const name of names) {
      this.#batches++
      for (const norm of this.network.norms) {
        const running = this.#running.get(norm.prefix)
        if (!running) continue
        const count = this.network.pixelsAt(norm, shape)
        const towards = (old: Float32Array, now: Float32Array, factor: number) =>
          old.map((value, i) => (1 - momentum) * value + momentum * factor * now[i])
        running.mean = towards(running.mean, outputs[`${name} ${norm.prefix} mean`], 1)
        running.variance = towards(
          running.variance,
          outputs[`${name} ${norm.prefix} variance`],
          count / Math.max(1, count - 1),
        )
      }
    }
  }

  /** ActNorms by the first batch that they see, one after another. */
  async #initialize({ shape, x, image }: Judged): Promise<void> {
    if (!this.network.shape.useActnorm || this.#batches > 0) return
    for (const norm of this.network.norms) {
      const program = await this.#programs('initialize', { shape: shape.join('x'), norm: norm.prefix }, (graph) => {
        const [, made] = this.#pair(graph, shape)
        const found: Record<string, Value> = {}
        const take = (own: PatchNorm, value: Value) => {
          if (own === norm) Object.assign(found, batchStatistics(graph, value))
        }
        graph.untrained(() => this.network.build(graph, this.autoencoder.decodedEnd({ graph }, made.map), take))
        return found
      })
      const { mean, variance } = await program.run({ x, image, frozen: this.#weights.bank('weights') })
      const count = this.network.pixelsAt(norm, shape)
      const std = variance.map((v) => Math.sqrt((v * count) / Math.max(1, count - 1)))
      const dims = [1, norm.channels, 1, 1]
      await this.#weights.write(
        'weights',
        {
          [`${norm.prefix}.loc`]: Tensor.wrap(
            mean.map((v) => -v),
            dims,
          ),
          [`${norm.prefix}.scale`]: Tensor.wrap(
            std.map((v) => 1 / (v + 1e-6)),
            dims,
          ),
        },
        { strict: false },
      )
    }
  }

  /** By upstream's names. */
  #buffers(): StateDict {
    return Object.fromEntries(
      [...this.#running].flatMap(([prefix, { mean, variance }]) => [
        [`${prefix}.running_mean`, Tensor.from(mean, [mean.length])],
        [`${prefix}.running_var`, Tensor.from(variance, [variance.length])],
      ]),
    )
  }

  async state(): Promise<DiscriminatorState> {
    const buffers = this.#buffers()
    return { buffers, batches: this.#batches, ...(await this.trained.state()) }
  }

  /** Throws `state-mismatch`. */
  async load({ buffers, batches, ...state }: DiscriminatorState): Promise<void> {
    for (const [name, { shape }] of Object.entries(this.#buffers())) {
      if (buffers[name] && sizeOf(buffers[name].shape) === sizeOf(shape)) continue
      const message = `the discriminator's state has no '${name}' of ${sizeOf(shape)} numbers`
      throw new DiffusionError('state-mismatch', message, { argument: name })
    }
    await this.trained.load(state)
    for (const [prefix, running] of this.#running) {
      running.mean = Float32Array.from(await buffers[`${prefix}.running_mean`].values())
      running.variance = Float32Array.from(await buffers[`${prefix}.running_var`].values())
    }
    this.#batches = batches
  }

  /** Gives its memory back. */
  dispose(): void {
    this.#weights.release()
  }
}
