/** The training of a first stage: ldm's AutoencoderKL.training_step and VQModel.training_step. */

import { noiseBindings, type Stream } from '../diffusion/process/process'
import type { OptimizerOptions } from '../diffusion/training/optimizer'
import { appendUpdate, rateOf } from '../diffusion/training/optimizer'
import { DiffusionError, invalidArgument } from '../errors'
import type { Graph, Value } from '../graph'
import type { StateDict, Weights } from '../nn/weights'
import { parseOptions, type Seed } from '../options'
import { type Binding, type Program, ProgramCache } from '../program'
import { heldOutSeed, Purpose, words } from '../rng'
import { AutoencoderKL } from '../stages/autoencoder-kl'
import { checkLpipsShape, type LPIPS } from '../stages/lpips'
import { VQModel, VQModelInterface } from '../stages/vq-model'
import { checkTensor, sizeOf, type Tensor } from '../tensor'
import type { World } from '../world'
import { Adversary, type Guidance } from './adversary'
import { type Buffers, StepBuffers } from './buffers'
import type { DiscriminatorState } from './discriminator'
import { buildForward, type ForwardShape } from './forward'
import { type FirstStageLoss, lossOf } from './loss'
import {
  type AutoencoderStepOptions,
  type AutoencoderTrainingOptions,
  type AutoencoderValidationOptions,
  discriminatorOf,
  stepSchema,
  trainingSchema,
  validationSchema,
} from './options'
import { type BatchStep, SummedGradients, type UpdateOf, worldOf } from './summed-gradients'
import { type OptimizedState, TrainedWeights } from './trained-weights'

/** One batch with what its programs are bound to. */
interface Given {
  readonly x: Tensor
  readonly forward: ForwardShape
  readonly inputs: Record<string, Binding>
  readonly trained: TrainedWeights
}

/** A gradient with respect to the last convolution's output, and what it counts for. */
type Guide = Pick<Guidance, 'gradient' | 'weight'>

interface Perception {
  readonly lpips: LPIPS
  readonly weight: number
}

/** First stages with a network, which can be trained. */
export type TrainableFirstStage = AutoencoderKL | VQModel | VQModelInterface

export interface AutoencoderStepResult {
  loss: number
  /** By upstream's names: 'train/total_loss', 'train/rec_loss', 'train/kl_loss' or 'train/quant_loss', and so on. */
  log: Record<string, number>
  /** Global L2 norm of the gradients before clipping; undefined without an update. */
  gradNorm?: number
}

/** Everything that a bit-exact resume needs, between two updates. */
export interface AutoencoderTrainingState {
  /** Of the first stage. */
  autoencoder: OptimizedState
  /** With discStart only. */
  discriminator?: DiscriminatorState
  /** Batches so far: what names the noise of a step without a `step`. Default: as many as updates. */
  batches?: number
}

/**
 * Trains the weights of a first stage, which stay its own: it encodes and decodes with them at any time. The stage is not disposed of
 * with the training.
 */
export class AutoencoderTraining {
  readonly seed: Seed
  readonly #loss: FirstStageLoss
  readonly #o: { readonly useEma: boolean; readonly emaDecay: number }
  readonly #programs: ProgramCache
  readonly #buffers: StepBuffers
  readonly #perception: Perception | undefined
  /** With discStart only. */
  readonly #adversary: Adversary | undefined
  #optimizer: OptimizerOptions | undefined
  #trained: TrainedWeights | undefined
  #gradients: SummedGradients | undefined
  /** Those who train together; undefined where this process does alone. */
  readonly #world: World | undefined
  /** Batches so far, those of other ranks included, and those whose gradients wait for an update. */
  #batches = 0
  #waiting = 0
  /** Ends with the call before: what is in the buffers, and a step of two optimizers, is one call's. */
  #turn: Promise<unknown> = Promise.resolve()

  /**
   * Throws `unknown-option`, `invalid-argument`, also for a first stage whose output is no image like its input, and `unsupported` for one
   * with a weightFormat, and for a discriminator where several processes train together.
   */
  constructor(
    readonly autoencoder: TrainableFirstStage,
    options: AutoencoderTrainingOptions = {},
  ) {
    const isStage = [AutoencoderKL, VQModel, VQModelInterface].some((kind) => autoencoder instanceof kind)
    if (!isStage) throw invalidArgument('autoencoder', 'an AutoencoderKL, VQModel or VQModelInterface', autoencoder)
    const o = parseOptions('AutoencoderTraining', options, trainingSchema)
    const { useEma, emaDecay, seed = autoencoder.seed } = o
    const { device, network } = autoencoder
    network.parameters.requireWide('AutoencoderTraining')
    const { shape, quantizer } = network
    if (shape.givePreEnd) throw invalidArgument('givePreEnd', 'false in a training', true)
    if (shape.outChannels !== shape.inChannels) {
      throw invalidArgument('outCh', `inChannels, ${shape.inChannels}, in a training`, shape.outChannels)
    }
    this.seed = seed
    this.#loss = lossOf(o, quantizer !== undefined)
    this.#o = { useEma, emaDecay }
    this.#programs = new ProgramCache(device)
    this.#buffers = new StepBuffers(device, network)
    this.#perception = perceptionOf(o, autoencoder)
    const adversary = discriminatorOf(o)
    this.#world = worldOf(o.distributed, device, adversary !== undefined)
    if (!adversary) return
    this.#adversary = new Adversary(device, network, { ...adversary, seed }, (...program) => this.#program(...program))
  }

  /** Numbers that are trained. */
  get parameterCount(): number {
    return this.autoencoder.network.parameters.size
  }

  /**
   * A new optimizer, whose moments start from zero. Upstream's is Adam: betas [0.5, 0.9], weightDecay 0. Throws `unknown-option` and
   * `invalid-argument`.
   */
  configureOptimizers(options: OptimizerOptions): void {
    this.#trained?.configure(options)
    this.#gradients?.clear()
    this.#adversary?.discriminator.configure(options)
    this.#optimizer = { ...options }
    this.#waiting = 0
  }

  /**
   * One step on images x [n, c, h, w] from -1 to 1, height and width multiples of the stage's `factor`: upstream's training_step of
   * both optimizers, the discriminator's with what the new weights make of x and noise of its own. Throws `not-configured`,
   * `invalid-argument`, and `not-finite` for a loss or gradients that are no numbers, which change nothing.
   */
  async trainingStep(x: Tensor, options: AutoencoderStepOptions = {}): Promise<AutoencoderStepResult> {
    const o = parseOptions('trainingStep', options, stepSchema)
    this.#check(x, o.noise)
    return this.#call(async (trained) => {
      const { update, accumulate, lr = rateOf(trained.options, trained.step) } = o
      const factor = this.#adversary?.factorAt(trained.step) ?? 0
      const { rank, size: ranks } = this.#world ?? { rank: 0, size: 1 }
      const step = o.step ?? this.#batches + rank * accumulate
      const forward: ForwardShape = { shape: x.shape, drawn: this.#draws(o.noise), train: true }
      const streamOf = (pass: 0 | 1) => ({ seed: this.seed, sampleOffset: 0, step: 2 * step + pass })
      const inputs = async (pass: 0 | 1) => ({
        ...(await this.#inputs(x, o.noise, streamOf(pass))),
        ...dropoutInput(this.autoencoder.network.shape.dropout, streamOf(pass)),
      })
      const adversary = factor > 0 ? this.#adversary : undefined
      const generator = await inputs(0)
      const given = { x, forward, inputs: generator, trained }
      const guides: Guide[] = []
      const buffers = (adversary || this.#perception) && (await this.#reconstruct(given))
      const perceived = buffers && (await this.#perceive(given, buffers))
      if (perceived) guides.push({ gradient: buffers.ofPerception, weight: 1 })
      const guidance = buffers && adversary && (await this.#guidance(adversary, { ...given, buffers, factor }))
      if (guidance) guides.push(guidance)
      const { sumSquares, ...terms } = await this.#update({ ...given, guides, step: { update, accumulate, lr } })
      this.#batches += update ? 1 + accumulate * (ranks - 1) : 1
      this.#waiting = update ? 0 : this.#waiting + 1
      const own = this.#logged(terms, perceived, x)
      const loss = own.loss + (guidance?.loss ?? 0)
      const made = sumSquares === undefined || Number.isFinite(sumSquares[0])
      if (!made) trained.uncount()
      if (!Number.isFinite(loss)) throw notFinite('the training loss', trained.step + 1, loss)
      if (!made) throw notFinite('the norm of the gradients', trained.step + 1, sumSquares[0])
      const gradNorm = sumSquares && Math.sqrt(sumSquares[0]) / (accumulate * ranks)
      const log: Record<string, number> = { ...own.log, total_loss: loss, ...guidance?.log }
      if (adversary) {
        const { shape } = x
        const { image } = await this.#reconstruct({ ...given, inputs: await inputs(1) })
        const judged = { shape, x: generator.x, image, factor, update, accumulate, lr }
        Object.assign(log, await adversary.discriminator.trainingStep(judged))
      }
      return { loss, log: prefixed('train', log), ...(gradNorm !== undefined && { gradNorm }) }
    })
  }

  /** What the weights of now make of the images. */
  async #reconstruct({ forward, inputs, trained }: Given): Promise<Buffers> {
    const program = await this.#program('reconstruct', keyOf(forward), (graph) => {
      const { image, features } = buildForward(graph, this.autoencoder.network, forward)
      return { image: graph.toNchw(image), features }
    })
    const buffers = this.#buffers.for(forward.shape)
    const { image, features } = buffers
    await program.run({ ...inputs, ...trained.weights.bindings('weights'), image, features })
    return buffers
  }

  /** Each sample's perceptual distance, whose gradient is then in the buffers. */
  async #perceive(
    { x, inputs }: Pick<Given, 'x' | 'inputs'>,
    { image, ofPerception }: Buffers,
  ): Promise<Float32Array | undefined> {
    if (!this.#perception) return undefined
    const { lpips, weight } = this.#perception
    const { network } = this.autoencoder
    return lpips.descend({
      shape: x.shape,
      x: inputs.x,
      image,
      end: (graph, value) => network.decodedEnd({ graph }, value),
      weights: this.#weights(x).errorWeights.map((own) => own * weight),
      gradient: ofPerception,
    })
  }

  /** The loss but for the discriminator's, and what is logged of it. */
  #logged({ error, regularizer }: Record<string, Float32Array>, distance: Float32Array | undefined, x: Tensor) {
    if (!distance) return this.#loss.log({ error, regularizer }, size(x))
    const { weight } = this.#perception!
    const whole = error.map((e, i) => e + weight * distance[i])
    const { loss, log } = this.#loss.log({ error: whole, regularizer }, size(x))
    return { loss, log: { ...log, p_loss: distance.reduce((sum, d) => sum + d, 0) / distance.length } }
  }

  #guidance(adversary: Adversary, o: Given & { buffers: Buffers; factor: number }): Promise<Guidance> {
    const { x, inputs, buffers, factor } = o
    return adversary.guide({
      shape: x.shape,
      x: inputs.x,
      buffers,
      errorWeights: this.#weights(x).errorWeights,
      factor,
      ...(this.#perception && { perceptual: buffers.ofPerception }),
    })
  }

  /** Forward, backward, and perhaps the update. */
  async #update(o: Given & { guides: readonly Guide[]; step: BatchStep }): Promise<Record<string, Float32Array>> {
    const { x, forward, guides, step } = o
    const keyOfUpdate = ({ place, ...own }: UpdateOf) => ({ ...own, ...place })
    const programs = {
      backward: (update?: UpdateOf) => {
        const key = { ...keyOf(forward), guides: guides.length, update: update !== undefined }
        return this.#program('train', { ...key, ...(update && keyOfUpdate(update)) }, (graph) => {
          const { image, ...outputs } = this.#build(graph, forward)
          const { error, regularizer } = outputs
          const terms = [
            graph.weightedSum(error, graph.input('errorWeights', error.dims)),
            graph.weightedSum(regularizer, graph.input('regularizerWeights', regularizer.dims)),
            ...guides.map((_, i) => along(graph, image, String(i))),
          ]
          graph.backward(terms.reduce((sum, term) => graph.add(sum, term)))
          return update ? { ...outputs, ...appendUpdate(graph, update) } : outputs
        })
      },
      update: (update: UpdateOf) =>
        this.#program('update', keyOfUpdate(update), (graph) => appendUpdate(graph, update)),
    }
    return this.#gradients!.batch(step, programs, {
      ...o.inputs,
      ...this.#weights(x),
      ...Object.fromEntries(
        guides.flatMap(({ gradient, weight }, i) => [
          [`gradient ${i}`, gradient],
          [`weight ${i}`, Float32Array.of(weight)],
        ]),
      ),
    })
  }

  /**
   * Upstream's validation_step: the losses of images, 'val/rec_loss' and so on, by the averaged weights with `_ema` behind them. Changes
   * nothing. Throws `invalid-argument`.
   */
  async validationStep(x: Tensor, options: AutoencoderValidationOptions = {}): Promise<Record<string, number>> {
    const o = parseOptions('validationStep', options, validationSchema)
    this.#check(x, o.noise)
    return this.#call(async (trained) => {
      if (o.ema && !trained.hasEma) throw invalidArgument('ema', 'false, since no averages are kept', o.ema)
      const forward: ForwardShape = { shape: x.shape, drawn: this.#draws(o.noise), train: false }
      const perceives = this.#perception !== undefined
      const program = await this.#program('validate', { ...keyOf(forward), perceives }, (graph) => {
        const { image, ...outputs } = this.#build(graph, forward)
        return perceives ? { ...outputs, image: graph.toNchw(image) } : outputs
      })
      const stream = { seed: heldOutSeed(o.seed ?? this.seed, 0), sampleOffset: o.sampleOffset, step: 0 }
      const inputs = await this.#inputs(x, o.noise, stream)
      const buffers = perceives ? this.#buffers.for(x.shape) : undefined
      const terms = await program.run({
        ...inputs,
        ...trained.weights.bindings(o.ema ? 'ema' : 'weights'),
        ...(buffers && { image: buffers.image }),
      })
      const { log } = this.#logged(terms, buffers && (await this.#perceive({ x, inputs }, buffers)), x)
      const { logvar: _, ...losses } = log
      return prefixed('val', losses, o.ema ? '_ema' : '')
    })
  }

  /** The gradients that wait for an update, by the networks' names; the discriminator's behind 'loss.discriminator.', as upstream's. */
  async gradients(): Promise<StateDict> {
    return this.#call(async () => {
      const others = (await this.#adversary?.discriminator.trained.weights.read('grads')) ?? {}
      const named = Object.entries(others).map(([name, tensor]) => [`loss.discriminator.${name}`, tensor])
      return { ...(await this.#gradients!.read()), ...Object.fromEntries(named) }
    })
  }

  /** The averaged weights; the plain ones where there are no averages. */
  async averages(): Promise<StateDict> {
    return this.#call((trained) => trained.weights.read(trained.hasEma ? 'ema' : 'weights'))
  }

  /**
   * A first stage of its own with the averaged weights; the plain ones where there are no averages. To be disposed of.
   * `scalingFactor`: what pipelines multiply its latents by; see savePretrained.
   */
  async averaged(scalingFactor?: number): Promise<AutoencoderKL | VQModelInterface> {
    const { device, precision, seed, deterministic, network } = this.autoencoder
    const parts = { shape: network.shape, embedDim: network.embedDim, nEmbed: network.codebook?.nE, scalingFactor }
    const options = { device, precision, seed, deterministic }
    const stage = network.codebook ? new VQModelInterface(options, parts) : new AutoencoderKL(options, parts)
    try {
      await stage.loadStateDict(await this.averages())
      return stage
    } catch (error) {
      stage.dispose()
      throw error
    }
  }

  /** A snapshot. Throws `not-configured`, and `invalid-argument` while gradients wait for an update. */
  trainingState(): Promise<AutoencoderTrainingState> {
    return this.#call(async (trained) => {
      if (this.#waiting > 0) throw invalidArgument('update', 'true in the last step before', false)
      const discriminator = await this.#adversary?.discriminator.state()
      return {
        autoencoder: await trained.state(),
        ...(discriminator && { discriminator }),
        batches: this.#batches,
      }
    })
  }

  /** Throws `not-configured`, and `state-mismatch` for the state of another training. */
  loadTrainingState(state: AutoencoderTrainingState): Promise<void> {
    return this.#call(async (trained) => {
      if ((state.discriminator !== undefined) !== (this.#adversary !== undefined)) {
        const [has, not] = state.discriminator ? ['a', 'this training none'] : ['no', 'this training one']
        const message = `the training state has ${has} discriminator, and ${not}`
        throw new DiffusionError('state-mismatch', message, { argument: 'discriminator' })
      }
      await trained.load(state.autoencoder)
      this.#gradients!.clear()
      if (state.discriminator) await this.#adversary?.discriminator.load(state.discriminator)
      this.#batches = state.batches ?? state.autoencoder.optimizerStep
      this.#waiting = 0
    })
  }

  /** Gives the memory of its programs back, but not the stage's. */
  dispose(): void {
    this.#programs.release()
    this.#buffers.release()
    this.#adversary?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** One after the other. */
  #call<T>(fn: (trained: TrainedWeights) => T | Promise<T>): Promise<T> {
    const own = this.#turn.then(() => this.#now(fn))
    this.#turn = own.catch(() => {})
    return own
  }

  #now<T>(fn: (trained: TrainedWeights) => T | Promise<T>): Promise<T> {
    return this.autoencoder.trained(async (weights: Weights) => {
      if (!this.#trained) {
        this.#trained = new TrainedWeights(weights, this.#o)
        this.#gradients = new SummedGradients(this.#trained, this.#world)
        if (this.#optimizer) this.#trained.configure(this.#optimizer)
      }
      const number = this.#programs.begin()
      try {
        return await fn(this.#trained)
      } finally {
        this.#programs.end(number)
      }
    })
  }

  #program(
    kind: string,
    key: Readonly<Record<string, string | number | boolean>>,
    build: (graph: Graph) => Record<string, Value>,
  ): Promise<Program> {
    const { deterministic, precision } = this.autoencoder
    return this.#programs.getBeside(kind, key, build, { deterministic, precision })
  }

  #build(graph: Graph, forward: ForwardShape) {
    const { network } = this.autoencoder
    const { x, image, regularizer } = buildForward(graph, network, forward)
    return { image, error: graph.loss(network.decodedEnd({ graph }, image), x, { type: 'l1' }), regularizer }
  }

  /** Whether the posterior's noise is drawn. */
  #draws(noise: Tensor | undefined): boolean {
    return noise === undefined && this.autoencoder.network.quantizer === undefined
  }

  async #inputs(x: Tensor, noise: Tensor | undefined, stream: Stream): Promise<Record<string, Binding>> {
    const { device } = this.autoencoder
    const drawn = this.#draws(noise) ? noiseBindings(x.shape[0], stream) : {}
    return { x: await x.binding(device), ...(noise && { noise: await noise.binding(device) }), ...drawn }
  }

  #weights(x: Tensor): { readonly errorWeights: Float32Array; readonly regularizerWeights: Float32Array } {
    const [n] = x.shape
    const { error, regularizer } = this.#loss.weights(n, size(x))
    const all = (value: number) => new Float32Array(n).fill(value)
    return { errorWeights: all(error), regularizerWeights: all(regularizer) }
  }

  #check(x: Tensor, noise: Tensor | undefined): void {
    const { network, factor, embedDim } = this.autoencoder
    checkTensor(x, 'x')
    const [n, channels, height, width] = x.shape
    const fits = x.shape.length === 4 && n > 0 && channels === network.shape.inChannels
    if (!fits || height < factor || width < factor || height % factor !== 0 || width % factor !== 0) {
      const expected = `shape [n, ${network.shape.inChannels}, height, width], height and width multiples of ${factor}`
      throw invalidArgument('x', expected, x.shape)
    }
    if (this.#perception) checkLpipsShape('x', x.shape)
    this.#adversary?.discriminator.network.check(height, width)
    if (noise && network.quantizer) throw invalidArgument('noise', 'nothing with a codebook', noise)
    if (noise) checkTensor(noise, 'noise', [n, embedDim, height / factor, width / factor])
  }
}

/** A scalar whose gradient with respect to the image is an input of this name, times another. */
function along(graph: Graph, image: Value, name: string): Value {
  const flat = graph.toNchw(image)
  const [n, , , d] = flat.dims
  const column = graph.reshape(flat, [n * d, 1, 1, 1])
  const product = graph.weightedSum(column, graph.input(`gradient ${name}`, column.dims))
  return graph.weightedSum(product, graph.input(`weight ${name}`, product.dims))
}

/** Throws `invalid-argument` for a weight of nothing, and for images that it can't see. */
function perceptionOf(
  { perceptual: lpips, perceptualWeight }: AutoencoderTrainingOptions,
  { device, network }: TrainableFirstStage,
): Perception | undefined {
  if (!lpips) {
    if (perceptualWeight === undefined) return undefined
    throw invalidArgument('perceptualWeight', 'nothing without perceptual', perceptualWeight)
  }
  if (lpips.device !== device) throw invalidArgument('perceptual', `one on ${device.name}`, lpips.device.name)
  checkLpipsShape('perceptual', [1, network.shape.outChannels, network.shape.resolution, network.shape.resolution])
  return { lpips, weight: perceptualWeight ?? 1 }
}

const keyOf = ({ shape, drawn, train }: ForwardShape) => ({ shape: shape.join('x'), drawn, train })

/** Numbers of an image. */
const size = (x: Tensor) => sizeOf(x.shape.slice(1))

function prefixed(split: string, log: Readonly<Record<string, number>>, behind = ''): Record<string, number> {
  return Object.fromEntries(Object.entries(log).map(([name, value]) => [`${split}/${name}${behind}`, value]))
}

/** A key of its own for the dropout of each step. */
function dropoutInput(p: number, { seed, step, sampleOffset }: Stream): Record<string, Binding> {
  if (p === 0) return {}
  const [low, high] = words(seed, Purpose.dropout, sampleOffset, step, 2)
  return { dropoutRng: Int32Array.of(low, high, step, 0) }
}

function notFinite(what: string, step: number, received: number): DiffusionError {
  return new DiffusionError('not-finite', `${what} is ${received} at step ${step}`, {
    argument: 'loss',
    expected: 'a finite number',
    received: String(received),
  })
}
