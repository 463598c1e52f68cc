/** What all diffusion models have in common; ddpm.py's DDPM without what is about images. */
import { DiffusionError, invalidArgument, markCopy } from '../../errors'
import { exportOnnx, type OnnxOptions } from '../../export/onnx'
import { WeightReader } from '../../nn/weight-reader'
import type { StateDict } from '../../nn/weights'
import { parseOptions, type Seed } from '../../options'
import { drawTimesteps } from '../../rng'
import { checkShape, checkTensor, type Shape, sizeOf, Tensor } from '../../tensor'
import { type LoadReport, loadStateDict, type Stateful, stateDict } from '../formats/state'
import {
  type CalcBpdOptions,
  type ConditionOptions,
  calcBpdSchema,
  clipSchema,
  conditionSchema,
  type LoadStateDictOptions,
  type LossOptions,
  loadStateDictSchema,
  type PMeanVarianceOptions,
  type PSampleOptions,
  pSampleSchema,
  type Told,
  type TrainBatchOptions,
  trainBatchSchema,
  type ValidationOptions,
} from '../options/method-options'
import {
  type Intermediates,
  loopSchema,
  type PSampleLoopOptions,
  type SamplingOptions,
} from '../options/sampling-options'
import { applyModel } from '../process/apply-model'
import type { MadeCondition } from '../process/condition'
import { type Core, coreOf } from '../process/core'
import { conditionOf } from '../process/given-condition'
import type { LearnedLogvar } from '../process/learned-logvar'
import {
  checkLoss,
  getLoss,
  type LossResult,
  lossAndGradients,
  lossInput,
  pLosses,
  requireNetwork,
} from '../process/losses'
import type { ModelSettings } from '../process/model-options'
import { onnxMeaning } from '../process/prediction'
import { nextStream, nhwcToNchw, predictStartFromNoise, qMeanVariance, qPosterior, qSample } from '../process/process'
import { timestepSamplerOf } from '../process/timestep-sampler'
import type { Timesteps } from '../process/timesteps'
import type { TrainedBeside } from '../process/trained-beside'
import { type BitsPerDim, calcBpd } from '../sampling/bits-per-dim'
import { choosePlan } from '../sampling/choose'
import { guidanceOf } from '../sampling/guidance/given'
import { untouched } from '../sampling/image'
import { checkAborted, type LoopOptions, type LoopResult, samplingLoop } from '../sampling/loop'
import { pMeanVariance, pSample } from '../sampling/posterior-step'
import { LitEma } from '../training/ema'
import type { OptimizerOptions } from '../training/optimizer'
import { Training, type TrainingState, type TrainResult } from '../training/training-step'
import { ScheduledModel } from './scheduled-model'

/** What LatentDiffusion adds to a step. */
export interface StepExtras {
  readonly codebook?: Tensor
  readonly returnX0?: boolean
  readonly noiseDropout?: number
}

/** What LatentDiffusion adds to a sampling. */
export interface LoopExtras extends Pick<LoopOptions, 'conditionAt' | 'mixAfter' | 'codebook'> {
  /** By timestep, in place of `temperature`. */
  readonly temperatures?: readonly number[]
}

export abstract class DiffusionModel extends ScheduledModel {
  /** Dropout is active and losses are called 'train/...', as with torch's Module.training. Sampling never has dropout. */
  training = true

  readonly #training: Training | undefined
  readonly #ema: LitEma | undefined

  /** `beside`: what is trained with the network and is no part of it. */
  protected constructor(options: ModelSettings, beside?: readonly TrainedBeside[]) {
    checkLoss(options)
    const timestepSampler = timestepSamplerOf(options)
    super(options, beside)
    const { network } = this[coreOf].denoiser
    if (!network) return
    if (options.useEma) {
      this.#ema = new LitEma(options.emaDecay)
      network.weights.copy('weights', 'ema')
    }
    this.#training = new Training(network, this.#ema, timestepSampler, options.emaSigmaRels)
  }

  /** Sets `training`; torch's Module.train. */
  train(mode = true): this {
    this.training = mode
    return this
  }

  eval(): this {
    return this.train(false)
  }

  // ---- the forward process and its posterior -------------------------------------------------------------------------

  /** q(x_t | x_0): Ho et al. 2020, eq. 4. mean has xStart's shape, variance and logVariance [n, 1, ...]. */
  async qMeanVariance(xStart: Tensor, t: Timesteps): Promise<{ mean: Tensor; variance: Tensor; logVariance: Tensor }> {
    return this.call((core) => qMeanVariance(core, xStart, t))
  }

  /** x_t from x_0. noise: of xStart's shape; default: the next of the model's own. */
  async qSample(xStart: Tensor, t: Timesteps, noise?: Tensor): Promise<Tensor> {
    return this.call((core) => qSample(core, xStart, t, noise))
  }

  /** x_0 from x_t and its noise. */
  async predictStartFromNoise(xT: Tensor, t: Timesteps, noise: Tensor): Promise<Tensor> {
    return this.call((core) => predictStartFromNoise(core, xT, t, noise))
  }

  /** q(x_{t-1} | x_t, x_0): Ho et al. 2020, eq. 6 and 7. */
  async qPosterior(
    xStart: Tensor,
    xT: Tensor,
    t: Timesteps,
  ): Promise<{ posteriorMean: Tensor; posteriorVariance: Tensor; posteriorLogVarianceClipped: Tensor }> {
    return this.call((core) => qPosterior(core, xStart, xT, t))
  }

  // ---- the reverse process -----------------------------------------------------------------------------------------

  /** @internal The network's output for x_t. */
  protected predict(x: Tensor, t: Timesteps, given: ConditionOptions): Promise<Tensor> {
    return this.call(async (core) => applyModel(core, x, t, await this.#condition(core, x, given)))
  }

  /** p(x_{t-1} | x_t) by the denoiser. */
  async pMeanVariance(
    x: Tensor,
    t: Timesteps,
    options: PMeanVarianceOptions = {},
  ): Promise<{ modelMean: Tensor; posteriorVariance: Tensor; posteriorLogVariance: Tensor }> {
    return this.call((core) => this.meanVariance(core, x, t, options))
  }

  /** @internal pMeanVariance with a core. */
  protected async meanVariance(
    core: Core,
    x: Tensor,
    t: Timesteps,
    options: PMeanVarianceOptions,
    extras: StepExtras = {},
  ) {
    const { clipDenoised, ...given } = parseOptions('pMeanVariance', options, clipSchema)
    const condition = await this.#condition(core, x, given)
    return pMeanVariance(core, x, t, { clipDenoised: clipDenoised ?? this.settings.clipDenoised, condition, ...extras })
  }

  async #condition(core: Core, x: Tensor, { y, context, vector, concat }: ConditionOptions) {
    checkTensor(x, 'x')
    return conditionOf(core, x.shape, { labels: y, argument: 'y', context, vector, concat })
  }

  /** One step: x_{t-1} from x_t. */
  async pSample(x: Tensor, t: Timesteps, options: PSampleOptions = {}): Promise<Tensor> {
    return this.call(async (core) => (await this.sampleStep(core, x, t, options)).sample)
  }

  /** @internal pSample with a core. */
  protected async sampleStep(core: Core, x: Tensor, t: Timesteps, options: PSampleOptions, extras: StepExtras = {}) {
    const o = parseOptions('pSample', options, pSampleSchema)
    const clipDenoised = o.clipDenoised ?? this.settings.clipDenoised
    const condition = await this.#condition(core, x, o)
    return pSample(core, x, t, { ...o, condition, clipDenoised, seed: o.seed ?? core.seeds.next(), ...extras })
  }

  /**
   * From noise to samples of `shape` [n, c, h, w]. Image i of a seed has the same noise in any batch. Throws `aborted`
   * within one step of `signal`, `not-finite` for NaN; leaves nothing on the device.
   */
  async pSampleLoop(shape: Shape, options?: PSampleLoopOptions & Intermediates<false>): Promise<Tensor>
  async pSampleLoop(shape: Shape, options: PSampleLoopOptions & Required<Intermediates<true>>): Promise<LoopResult>
  async pSampleLoop(shape: Shape, options?: PSampleLoopOptions & Intermediates): Promise<Tensor | LoopResult>
  async pSampleLoop(shape: Shape, options?: PSampleLoopOptions & Intermediates): Promise<Tensor | LoopResult> {
    return this.call((core) => this.loop(core, shape, options))
  }

  /** @internal pSampleLoop with a core. */
  protected async loop(
    core: Core,
    shape: Shape,
    options?: PSampleLoopOptions & Intermediates,
    { temperatures, ...extras }: LoopExtras = {},
  ): Promise<Tensor | LoopResult> {
    checkShape(shape)
    const o = parseOptions('pSampleLoop', options, loopSchema)
    const { classLabels: labels, context, vector, concat } = o
    const guide = o.guidingModel?.[coreOf].denoiser.network?.module
    const forOthers = o.classifier !== undefined || guide?.numClasses !== undefined
    const given = { labels, argument: 'classLabels', context, vector, concat, forOthers }
    const condition = await conditionOf(core, shape, given)
    const guidance = await guidanceOf(core, shape, { ...o, condition })
    const { codebook } = extras
    const temperature = temperatures ?? o.temperature
    const plan = choosePlan(core, { ...o, codebook, temperature, strength: o.strength || undefined })
    this.warn(plan.warnings ?? [])
    const { seed = core.seeds.next(), logEveryT = this.settings.logEveryT } = o
    if (o.image) await this.noticeRange(o.image, 'image')
    checkAborted(o.signal)
    const loop = () =>
      guidance.during(() => samplingLoop(core, shape, plan, { ...o, ...extras, condition, guidance, seed, logEveryT }))
    const result = o.strength === 0 ? await untouched(o, shape, o.returnIntermediates) : await loop()
    return o.returnIntermediates ? result : result.samples
  }

  /** Whether sampling with these options draws noise in its steps. */
  protected drawsNoise(options: SamplingOptions): boolean {
    return choosePlan(this[coreOf], options).noisy
  }

  // ---- losses ------------------------------------------------------------------------------------------------------

  /** By lossType: the mean (a Tensor of shape []), or with `mean` false every element's. */
  async getLoss(pred: Tensor, target: Tensor, mean = true): Promise<Tensor> {
    return this.call((core) => getLoss(core, pred, target, mean))
  }

  /** The training loss of xStart noised to t. noise: default the next of the model's own. */
  async pLosses(xStart: Tensor, t: Timesteps, noise?: Tensor, options: LossOptions = {}): Promise<LossResult> {
    const { training: train } = this
    return this.call(async (core) => {
      const given = await this.told('pLosses', options)
      return pLosses(core, await lossInput(core, { xStart, t, ...given, noise, ...this.#ofLoss(train) }))
    })
  }

  /** @internal What a loss is told by the options of `method`. */
  protected async told(method: string, options: LossOptions): Promise<Told> {
    return parseOptions(method, options, conditionSchema)
  }

  /** @internal `logvar` is a part of the loss. */
  protected get logvarInLoss(): boolean {
    return false
  }

  /** @internal The timestep that a condition gets noise of, by that of the samples, [T]. Undefined where it gets none. */
  protected get condIds(): Int32Array | undefined {
    return undefined
  }

  /** @internal Where it is trained. */
  protected get learnedLogvar(): LearnedLogvar | undefined {
    return undefined
  }

  #ofLoss(train: boolean): { train: boolean; logvar?: Float32Array; learned?: LearnedLogvar } {
    return { train, ...(this.logvarInLoss && { logvar: this.logvar, learned: this.learnedLogvar }) }
  }

  /** The loss, and its gradients by state_dict name. Changes nothing. `unsupported` where the denoiser is a function. */
  async lossAndGradients(
    xStart: Tensor,
    t: Timesteps,
    noise?: Tensor,
    options: LossOptions = {},
  ): Promise<LossResult & { gradients: StateDict }> {
    requireNetwork(this[coreOf], 'lossAndGradients').weights.table.requireWide('lossAndGradients')
    const { training: train } = this
    return this.call(async (core) => {
      const given = await this.told('lossAndGradients', options)
      return lossAndGradients(core, await lossInput(core, { xStart, t, ...given, noise, ...this.#ofLoss(train) }))
    })
  }

  /** pLosses at timesteps drawn evenly from all. */
  async forward(x: Tensor, options: LossOptions = {}): Promise<LossResult> {
    const { training: train } = this
    return this.call(async (core) => this.drawnLoss(core, x, { ...(await this.told('forward', options)), train }))
  }

  /** @internal */
  protected async drawnLoss(
    core: Core,
    xStart: Tensor,
    { seed, sampleOffset = 0, ...o }: Told & ValidationOptions & { train: boolean },
  ): Promise<LossResult> {
    checkTensor(xStart, 'x')
    const [batchSize] = xStart.shape
    const { numTimesteps } = core
    const drawn = () => drawTimesteps(seed ?? core.seeds.next(), 0, { batchSize, numTimesteps, sampleOffset })
    const t = o.t ?? drawn()
    const stream = { ...(seed === undefined ? nextStream(core) : { seed, step: 0 }), sampleOffset }
    const { condIds } = this
    return pLosses(core, await lossInput(core, { ...o, xStart, t, stream, condIds, ...this.#ofLoss(o.train) }))
  }

  /**
   * Bits per dimension of images whose pixels are k/127.5 - 1 (k from 0 to 255): Ho et al. 2020, eq. 5. One evaluation of the
   * network for each timestep. Throws `aborted`.
   */
  async calcBpd(x: Tensor, options: CalcBpdOptions = {}): Promise<BitsPerDim> {
    const { seed, sampleOffset, ...o } = parseOptions('calcBpd', options, calcBpdSchema)
    const clipDenoised = o.clipDenoised ?? this.settings.clipDenoised
    return this.call(async (core) => {
      const condition = await this.#condition(core, x, o)
      await this.noticeRange(x, 'x')
      const stream = { seed: seed ?? core.seeds.next(), sampleOffset, step: 0 }
      return calcBpd(core, x, { ...o, clipDenoised, condition, stream })
    })
  }

  /** [n, h, w, c] or [n, h, w] to float32 [n, c, h, w]. */
  protected nhwcToNchw(x: Tensor): Promise<Tensor> {
    return this.call((core) => nhwcToNchw(core, x))
  }

  /** @internal What is no image of [-1, 1] is most likely a mistake. */
  protected noticeRange(x: Tensor, argument: string): Promise<void> {
    return this.notices.ofRange(x, argument)
  }

  // ---- training ----------------------------------------------------------------------------------------------------

  /** AdamW or Lion, starting afresh. Throws `unsupported` with a weightFormat. AdamW's defaults: betas [0.9, 0.999], eps 1e-8, weightDecay 0.01, maxGradNorm 0 (no clipping). */
  configureOptimizers(options: OptimizerOptions): void {
    this.requireTraining('configureOptimizers').configure(options)
  }

  /** Updates so far. */
  get globalStep(): number {
    return this.#training?.step ?? 0
  }

  /**
   * Loss and gradients of one batch, the update of the weights and of their averages: one program. x: NCHW, a Float32Array
   * has the network's own size. Needs configureOptimizers. Throws `not-finite` when the loss is not a number.
   */
  async trainBatch(x: Tensor | Float32Array, options: TrainBatchOptions = {}): Promise<TrainResult> {
    return this.call((core) => this.optimize(core, x, options, { ema: true }))
  }

  /** @internal trainBatch, with the choice of leaving the averages to onTrainBatchEnd. */
  protected async optimize(
    core: Core,
    x: Tensor | Float32Array,
    options: TrainBatchOptions,
    { ema, made }: { ema: boolean; made?: MadeCondition },
  ): Promise<TrainResult> {
    const training = this.requireTraining('training')
    const { lr, update, accumulate, ...o } = parseOptions('trainBatch', options, trainBatchSchema)
    const xStart = x instanceof Float32Array ? this.#images(x) : x
    checkTensor(xStart, 'x')
    await this.noticeRange(xStart, 'x')
    const step = o.step ?? training.step
    const batchSize = xStart.shape[0]
    const sampleOffset = o.sampleOffset ?? training.firstSample(core, { batchSize, accumulate })
    const timesteps = training.timesteps(core)
    const draw = { batchSize, numTimesteps: core.numTimesteps, sampleOffset }
    const drawn = o.t === undefined ? training.draw(core, step, draw) : undefined
    const { y, context, vector, concat, noise } = o
    const input = await lossInput(core, {
      ...{ xStart, y, context, vector, concat, made, noise },
      t: o.t ?? drawn!.t,
      stream: { seed: this.seed, step, sampleOffset },
      importance: drawn?.weights,
      condIds: this.condIds,
      ...this.#ofLoss(true),
    })
    return training.batch(core, input, { update, accumulate, lr, ema, timesteps, world: training.world(core) })
  }

  #images(data: Float32Array): Tensor {
    const { inChannels, imageSize, imageWidth = imageSize } = requireNetwork(this[coreOf], 'training').module
    const shape = [data.length / (inChannels * imageSize * imageWidth), inChannels, imageSize, imageWidth]
    if (data.length === 0 || !Number.isInteger(shape[0])) {
      throw invalidArgument('x', `a multiple of ${sizeOf(shape.slice(1))} numbers`, data)
    }
    return Tensor.wrap(data, shape)
  }

  /** @internal What trains; throws where nothing can be trained, before anything is taken. */
  protected requireTraining(method: string): Training {
    this[coreOf].alive()
    requireNetwork(this[coreOf], method).weights.table.requireWide(method)
    return this.#training!
  }

  /** ddpm.py's on_train_batch_end: averages the weights in. For use with trainingStep; trainBatch does it itself. */
  async onTrainBatchEnd(): Promise<void> {
    const { network } = this[coreOf].denoiser
    if (!network) return
    network.weights.table.requireWide('onTrainBatchEnd')
    await this.call(async (core) => this.#training?.average(core))
  }

  /** @internal The first sample of a batch of so many, among those of its step. */
  protected firstSample(core: Core, batchSize: number, { accumulate = 1 }: TrainBatchOptions): number {
    return this.#training?.firstSample(core, { batchSize, accumulate }) ?? 0
  }

  /** @internal The next seed of the model's own. */
  protected nextSeed(): Seed {
    return this[coreOf].seeds.next()
  }

  /**
   * With `shardOptimizer`: has the optimizer's state and the averages of all ranks here, whole, until the next update: before trainingState,
   * emaScope, and whatever else reads them. All ranks call it at the same place; otherwise it does nothing. Throws `rank-failed`.
   */
  async gatherShards(): Promise<void> {
    await this.#training?.gatherShards()
  }

  /** Everything that a bit-exact resume needs of the model. With `shardOptimizer` after gatherShards. */
  async trainingState(): Promise<TrainingState> {
    return this.requireTraining('trainingState').state(this[coreOf])
  }

  /** After configureOptimizers. */
  async loadTrainingState(state: TrainingState): Promise<void> {
    await this.requireTraining('loadTrainingState').loadState(this[coreOf], state)
  }

  /**
   * Runs `fn` with the averaged weights in place of the trained ones (without useEma, with the trained ones). Only what `fn`
   * starts sees them; a training that goes on meanwhile does not.
   */
  async emaScope<T>(fn: () => T | Promise<T>): Promise<T> {
    const { network } = this[coreOf].denoiser
    return network && this.#ema ? network.withAverages(fn) : fn()
  }

  // ---- state -------------------------------------------------------------------------------------------------------

  get #stateful(): Stateful {
    return {
      schedule: this[coreOf].schedule,
      logvar: this.settings.learnLogvar ? this.logvar : undefined,
      network: this[coreOf].denoiser.network,
      ema: this.#ema,
    }
  }

  /** By ddpm.py's names: schedule buffers, model.diffusion_model.*, model_ema.*. */
  async stateDict(): Promise<StateDict> {
    this[coreOf].alive()
    return stateDict(this.#stateful)
  }

  /** @internal The network's weights by its own names. Throws `not-configured` for averages of a model without any. */
  protected async networkWeights(which: 'ema' | 'model'): Promise<StateDict> {
    const { weights, module } = requireNetwork(this[coreOf], 'savePretrained')
    if (which === 'ema' && !this.#ema) {
      throw new DiffusionError('not-configured', 'the model has no averaged weights: useEma is false')
    }
    const all = await weights.read(which === 'ema' ? 'ema' : 'weights')
    // Without what is trained beside the network.
    const own = Object.fromEntries(module.parameters.slots.map(({ name }) => [name, all[name]]))
    return this.learnedLogvar ? { ...own, logvar: Tensor.from(this.logvar) } : own
  }

  /**
   * Takes a dict with ddpm.py's names, or with the network's alone. Throws `state-mismatch` for wrong shapes and, with `strict`
   * (default), for missing and unexpected names, before anything is changed.
   */
  async loadStateDict(dict: StateDict, options: LoadStateDictOptions = {}): Promise<LoadReport> {
    this[coreOf].alive()
    const { strict } = parseOptions('loadStateDict', options, loadStateDictSchema)
    const { schedule, logvar, missing, unexpected } = await loadStateDict(this.#stateful, dict, strict)
    if (logvar) this.logvar = logvar
    if (schedule) this.publish(schedule)
    return { missing, unexpected }
  }

  /**
   * Writes the network as an ONNX model (opset 17), with the trained weights, or within emaScope the averaged ones.
   * Inputs: x float [n, c, height, width], t int64 [n], with numClasses y int64 [n], with vectorDim vector float [n, vectorDim] (but
   * for vectorEmbedding 'augment'); n is free, height and width are
   * the network's unless given. Output: named by the parameterization, in x's shape; with 'edm' and 'flow', t is a float and x is
   * what the network is given (see parameterization). A model of 2 GiB is written as two files: see externalData. Weights are read
   * one at a time. Resolves with the files' names. Throws `io`, `aborted`, `busy` where the weights change meanwhile, and `unsupported` for a function and
   * with a weightFormat.
   */
  async exportOnnx(path: string, options?: OnnxOptions): Promise<string[]> {
    this[coreOf].alive()
    const network = requireNetwork(this[coreOf], 'exportOnnx')
    network.weights.table.requireWide('exportOnnx')
    const weights = new WeightReader(network.active)
    return exportOnnx(path, network.module, weights, onnxMeaning(this.parameterization), options)
  }

  /** @internal */
  protected override summary(): Record<string, unknown> {
    const { computed, ...rest } = super.summary()
    return { ...rest, globalStep: this.globalStep, computed }
  }
}

markCopy(DiffusionModel)
