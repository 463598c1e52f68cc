/** Denoising diffusion in image space: Ho et al. 2020, by the names of CompVis' ddpm.py DDPM. */
import type { JsonObject } from '../../checkpoint/json'
import { writeLora } from '../../checkpoint/lora-file'
import { DiffusionError, invalidArgument } from '../../errors'
import { baseOf, LoraNetwork } from '../../nn/lora/lora'
import { type LoraUpdates, updatesOf } from '../../nn/lora/lora-weights'
import { UNet } from '../../nn/unet/unet'
import { augmentationLeftOut } from '../../nn/unet/vector-embedding'
import { hasConfig } from '../../nn/unet-config'
import type { StateDict } from '../../nn/weights'
import { definedOnly, type Parsed, parseOptions } from '../../options'
import { Tensor } from '../../tensor'
import { readDDPMConfig } from '../formats/compvis-config'
import type { WrittenScheduler } from '../formats/diffusers-scheduler'
import {
  type CheckpointReport,
  foundAt,
  type InitFromCkptOptions,
  nothingFits,
  pretrainedFolder,
  readCheckpoint,
  readPretrained,
  writePretrained,
} from '../formats/pretrained'
import { type PushToHubOptions, type PushToHubResult, pushToHub } from '../formats/push-to-hub'
import { registeredNames } from '../formats/state'
import {
  type DDPMOptions,
  ddpmSchema,
  type InterpolateOptions,
  interpolateSchema,
  type LoggedImages,
  type LogImagesOptions,
  logImagesSchema,
  type PretrainedOptions,
  type SampleOptions,
  type SaveLoraOptions,
  type SavePretrainedOptions,
  sampleSchema,
  saveLoraSchema,
  savePretrainedSchema,
} from '../options/ddpm-options'
import { type TrainBatchOptions, type ValidationOptions, validationSchema } from '../options/method-options'
import type { Intermediates } from '../options/sampling-options'
import { checkClassNames, classLabel } from '../process/class-names'
import { type Core, coreOf } from '../process/core'
import { type LossDict, type LossResult, requireNetwork } from '../process/losses'
import { drawNoise, nextStream, qSample, type Stream } from '../process/process'
import { defaultSchedule } from '../process/schedule'
import type { TrainedBeside } from '../process/trained-beside'
import type { SchedulerConfig } from '../sampling/diffusers/scheduler-config'
import { interpolatedNoise } from '../sampling/interpolate'
import type { LoopResult, StepEvent } from '../sampling/loop'
import { stepsOf } from '../sampling/steps'
import type { LrSchedulerConfig } from '../training/lr-scheduler'
import type { OptimizerOptions } from '../training/optimizer'
import type { TrainResult } from '../training/training-step'
import { type Batch, firstImages, type ModelInput } from './batch'
import { DiffusionModel } from './diffusion-model'
import {
  changeWeights,
  type LoraSource,
  mergeAdapters,
  ranksOf,
  readLoras,
  type UpdatedText,
  updated,
  type WithLorasOptions,
  withLorasSchema,
} from './lora'
import { imageRows } from './make-grid'

export class DDPM extends DiffusionModel {
  /** Height of samples. */
  readonly imageSize: number
  readonly imageWidth: number
  readonly channels: number
  readonly firstStageKey: string
  readonly classKey: string
  readonly contextKey: string
  readonly vectorKey: string
  readonly concatKey: string
  /**
   * scheduler_config.json of the folder that the model is from: `sample({ scheduler: ddpm.schedulerConfig, steps })` is what the
   * folder's pipeline does.
   */
  schedulerConfig?: SchedulerConfig
  /** The scheduler_config of the YAML file that the model is from: what configureOptimizers takes unless it is given another. */
  lrSchedule?: LrSchedulerConfig
  readonly #settings: Parsed<typeof ddpmSchema>

  constructor(options: DDPMOptions, beside?: readonly TrainedBeside[]) {
    const o = parseOptions('DDPM', options, ddpmSchema)
    super(o, beside)
    this.#settings = o
    checkClassNames(o.classNames, this.network?.numClasses)
    this.imageSize = o.imageSize ?? this.network?.imageSize ?? 256
    this.imageWidth =
      o.imageWidth ?? (o.imageSize === undefined ? this.network?.imageWidth : undefined) ?? this.imageSize
    this.channels = o.channels ?? this.network?.inChannels ?? 3
    this.firstStageKey = o.firstStageKey
    this.classKey = o.classKey
    this.contextKey = o.contextKey
    this.vectorKey = o.vectorKey
    this.concatKey = o.concatKey
  }

  /** Channels, height and width of what `sample` returns unless it is told others. */
  get sampleShape(): readonly [channels: number, height: number, width: number] {
    return [this.channels, this.imageSize, this.imageWidth]
  }

  /** Names of the class labels from 0 on; empty where they have none. */
  get classNames(): readonly string[] {
    return this.#settings.classNames ?? []
  }

  /** The label that stands for no class. */
  get nullClass(): number | undefined {
    return this.#settings.nullClass
  }

  /**
   * The label of a class by its name, or by words that only its name has: `classLabel('food')` of 'Food & Drink'. Throws
   * `invalid-argument`, with all names.
   */
  classLabel(name: string): number {
    return classLabel(this.classNames, name)
  }

  /**
   * A model from a folder in diffusers' layout (UNet2DModel with a scheduler of discrete timesteps; safetensors or .bin, whole or in
   * shards): a pipeline, a training's checkpoint, or a network alone. Where there is no such folder, a name such as
   * 'google/ddpm-cifar10-32' is fetched from the Hugging Face hub into its cache (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). Its options are those of the files, others the defaults, but
   * useEma is false unless given; `options` override. What was ignored is among `warnings()`. Throws
   * `not-found`, `io`, `bad-file`, `state-mismatch`, and `unsupported` with the field's name for what has no counterpart here.
   */
  static async fromPretrained(source: string, options: PretrainedOptions = {}): Promise<DDPM> {
    const { variant, weights: kind, revision, onDownload, ...own } = options
    const folder = await pretrainedFolder(source, variant, { revision, onDownload })
    const { settings, weights, schedulerConfig, warnings } = await readPretrained(folder, { variant, weights: kind })
    const ddpm = new DDPM({ ...settings, useEma: false, ...definedOnly(own) })
    ddpm.schedulerConfig = schedulerConfig
    ddpm.warn(warnings)
    try {
      await ddpm.loadStateDict(weights)
      return ddpm
    } catch (error) {
      ddpm.dispose()
      throw error
    }
  }

  /**
   * A model from a configuration of latent-diffusion, a YAML file or what it holds: model.target is ldm's DDPM, its unet_config's
   * the UNetModel of ldm, guided-diffusion or improved-diffusion. A ckpt_path is loaded as by initFromCkpt, but for the schedule, which
   * ddpm.py registers afterwards. `options` override.
   * Throws `not-found`, `io`, `bad-file`, and `unknown-option` or `unsupported` with the field's name.
   */
  static async fromConfig(source: string | JsonObject, options: DDPMOptions = {}): Promise<DDPM> {
    const { options: own, checkpoint, lrSchedule, warnings } = await readDDPMConfig(source)
    const ddpm = new DDPM({ ...own, ...definedOnly(options) })
    ddpm.lrSchedule = lrSchedule
    ddpm.warn(warnings)
    try {
      if (checkpoint) {
        const { path, ignoreKeys, onlyModel } = checkpoint
        await ddpm.initFromCkpt(path, { ignoreKeys: [...ignoreKeys, ...registeredNames], onlyModel })
      }
      return ddpm
    } catch (error) {
      ddpm.dispose()
      throw error
    }
  }

  /**
   * Writes a folder that fromPretrained and diffusers' DDPMPipeline.from_pretrained open. `weights`: 'ema' or 'model'; default:
   * the averaged ones where there are any. `maxShardSize`: bytes of a file; `variant`: 'fp16' for half precision. Throws `io`, and `unsupported` with the option's name for a model that diffusers
   * can't express, and with a weightFormat. A network is written without what it was told of augmentation, which is among `warnings()`. The scheduler stays of
   * the class that the model's own folder has.
   */
  async savePretrained(folder: string, options: SavePretrainedOptions = {}): Promise<void> {
    const o = parseOptions('savePretrained', options, savePretrainedSchema)
    this.network?.parameters.requireWide('savePretrained')
    if (this.network instanceof LoraNetwork) {
      using plain = await this.merged()
      return await plain.savePretrained(folder, options)
    }
    const weights = await this.networkWeights(this.written(o.weights))
    if (this.network instanceof UNet && this.network.options.vectorEmbedding === 'augment')
      this.warn([augmentationLeftOut])
    await writePretrained(folder, this.network, weights, {
      ...this.writtenScheduler(),
      classNames: this.#settings.classNames,
      nullClass: this.nullClass,
      schedulerConfig: this.schedulerConfig,
      maxShardSize: o.maxShardSize,
      variant: o.variant,
    })
  }

  /** @internal The weights that are asked for, or the averaged ones where there are any. */
  protected written(weights: 'ema' | 'model' | undefined): 'ema' | 'model' {
    return weights ?? (this.#settings.useEma ? 'ema' : 'model')
  }

  /** @internal What a scheduler says of the model. */
  protected writtenScheduler(): WrittenScheduler {
    return { ...this.#settings, ...this.exactBetas() }
  }

  // ---- low-rank updates --------------------------------------------------------------------------------------------

  /**
   * A model like this one with low-rank updates from files: `withLoras([{ path: 'style.safetensors', scale: 0.8 }])`. They are made part
   * of the weights, with a weightFormat rounded again, or with `merge: false` stay layers beside, which round otherwise. Names that are of
   * no UNet are among its `warnings()`. Throws `not-found`, `io`, `bad-file`, `unsupported` for other kinds of updates, and
   * `state-mismatch` where they are of other layers.
   */
  async withLoras(loras: readonly LoraSource[], options: WithLorasOptions = {}): Promise<DDPM> {
    const { merge } = parseOptions('withLoras', options, withLorasSchema)
    const network = requireNetwork(this[coreOf], 'withLoras').module
    if (network instanceof LoraNetwork) {
      throw new DiffusionError('unsupported', 'the model has updates beside its weights already: merged() has none')
    }
    const { updates, textUpdates, warnings } = await readLoras(network, loras, this.updatedText)
    const lora = merge ? undefined : ranksOf(updates)
    const change = (weights: StateDict, model: DDPM) => updated(weights, updates, model.network)
    const model = await this.#with({ lora }, change, textUpdates)
    model.warn(warnings)
    return model
  }

  /** A model like this one whose low-rank updates are part of its weights (see withLoras), so that nothing is beside them; else a copy. */
  async merged(): Promise<DDPM> {
    const network = requireNetwork(this[coreOf], 'merged').module
    return this.#with({ lora: undefined }, async (weights) => {
      return network instanceof LoraNetwork ? mergeAdapters(network, weights) : weights
    })
  }

  /**
   * Writes the low-rank updates of a model with `lora`, and nothing else, as safetensors. Throws `io`, and `unsupported` for a model
   * that has none.
   */
  async saveLora(path: string, options: SaveLoraOptions = {}): Promise<void> {
    const { names, weights } = parseOptions('saveLora', options, saveLoraSchema)
    const { network } = this
    if (!(network instanceof LoraNetwork)) {
      const message = 'saveLora: the model has no low-rank updates; it has them with the option lora'
      throw new DiffusionError('unsupported', message)
    }
    await writeLora(path, updatesOf(network.adapters, await this.networkWeights(this.written(weights))), names)
  }

  /** @internal A model of these options, with initial weights. */
  protected async again(options: DDPMOptions): Promise<DDPM> {
    return new DDPM(options)
  }

  /** @internal The text encoder, which updates may be of, too. */
  protected get updatedText(): UpdatedText | undefined {
    return undefined
  }

  /** A model of the same options but for these, with its weights and averages by `change`. */
  async #with(
    options: Pick<DDPMOptions, 'lora'>,
    change: (weights: StateDict, model: DDPM) => Promise<StateDict>,
    ofText?: LoraUpdates,
  ): Promise<DDPM> {
    const { device, seed, deterministic, precision, weightFormat } = this.#settings
    const own = { device, seed, deterministic, precision, weightFormat, freeze: undefined }
    const model = await this.again({ ...(this.config as DDPMOptions), ...own, ...options })
    model.schedulerConfig = this.schedulerConfig
    try {
      const table = this.network!.parameters
      await model.loadStateDict(await changeWeights(await this.stateDict(), table, (weights) => change(weights, model)))
      if (ofText?.size) await model.updatedText?.add(ofText)
      return model
    } catch (error) {
      model.dispose()
      throw error
    }
  }

  /**
   * Sends what savePretrained writes, and a model card, as one commit to a model of the Hugging Face hub, 'owner/name', which is made
   * where there is none (HF_TOKEN, HF_ENDPOINT). `revision`: a branch; `private`, `commitMessage`, `license` (of the card). A card that is there stays,
   * unless `overwriteCard`. What the hub lists afterwards is compared with what was sent. Throws `not-configured` without a token,
   * `io`, `aborted`, `bad-file`, and what savePretrained throws.
   */
  async pushToHub(name: string, options: PushToHubOptions = {}): Promise<PushToHubResult> {
    const { channels, imageSize, imageWidth, classNames, nullClass, network } = this
    const { givenBetas, betaSchedule, parameterization } = this.#settings
    const ownBetas = (givenBetas ?? this.ownBetas().givenBetas) !== undefined
    return pushToHub(
      name,
      options,
      (folder, o) => this.savePretrained(folder, o),
      ({ weights }) => ({
        images: [channels, imageSize, imageWidth],
        parameters: this.parameterCount,
        classes: network?.numClasses,
        classNames,
        nullClass,
        timesteps: this.numTimesteps,
        schedule: ownBetas ? 'betas of its own' : (betaSchedule ?? defaultSchedule(parameterization)),
        predicts: parameterization,
        averaged: this.#settings.useEma && weights !== 'model',
      }),
    )
  }

  /**
   * The options that make this model again, as plain JSON with all defaults; without `device`, `memoryLimit`, `weightFormat`, `distributed`, `shardOptimizer`,
   * `seed` and `deterministic`. Throws `unsupported` where the denoiser is not a UNet.
   */
  get config(): JsonObject {
    const { model, device, memoryLimit, weightFormat, distributed, shardOptimizer, seed, deterministic, ...options } =
      this.#settings
    const network = baseOf(this.network)
    if (!hasConfig(network)) {
      throw new DiffusionError('unsupported', 'only a model whose network is a UNet has a configuration')
    }
    const { imageSize, channels } = this
    const imageWidth = this.imageWidth === imageSize ? undefined : this.imageWidth
    const given = { ...options, imageSize, imageWidth, channels, unetConfig: network.options, ...this.ownBetas() }
    const plain = (_: string, value: unknown) => (ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value)
    return JSON.parse(JSON.stringify(given, plain))
  }

  /**
   * ddpm.py's init_from_ckpt: takes what fits by name from a .ckpt, .pt, .bin or safetensors file, and reports the rest instead
   * of printing it. The weights may be in any dict of the file, `key` names one, and anything may be before their names; where they
   * were found is in the report and in `warnings()`. `ignoreKeys`: prefixes of names to leave out; `onlyModel`: the network alone; `weights`: 'ema' for the
   * file's averages in place of its weights (default 'model'). Throws `not-found`, `io`, `bad-file`, and `state-mismatch` for a
   * wrong shape or where nothing fits; then nothing is changed.
   */
  async initFromCkpt(path: string, options: InitFromCkptOptions = {}): Promise<CheckpointReport> {
    const { dict, counters, found, left } = await readCheckpoint(path, this.network, options)
    const report = await this.loadStateDict(dict, { strict: false })
    const names = Object.keys(dict)
    if (report.unexpected.length === names.length) throw nothingFits(path, names, this.network)
    if (found) this.warn([foundAt(path, found)])
    return { ...report, unexpected: [...report.unexpected, ...left], counters, ...(found && { found }) }
  }

  /** Images [batchSize, channels, imageSize, imageWidth]; batchSize defaults to 16. See pSampleLoop. */
  async sample(options?: SampleOptions & Intermediates<false>): Promise<Tensor>
  async sample(options: SampleOptions & Required<Intermediates<true>>): Promise<LoopResult>
  async sample(options?: SampleOptions & Intermediates): Promise<Tensor | LoopResult>
  async sample(options?: SampleOptions & Intermediates): Promise<Tensor | LoopResult> {
    const { batchSize, ...rest } = parseOptions('sample', options, sampleSchema)
    const shape = [batchSize, this.channels, this.imageSize, this.imageWidth]
    return this.pSampleLoop(shape, rest)
  }

  /**
   * The steps of `sample` as a loop, which the sampling waits for and ends with; the last `x` is the samples:
   * `for await (const { step, total, x } of ddpm.sampleSteps({ steps: 50, sampler: 'ddim' })) ...`. `x` is lent for one turn of the
   * loop. Throws what `sample` throws.
   */
  sampleSteps(options: SampleOptions = {}): AsyncGenerator<StepEvent, void, undefined> {
    return stepsOf((o) => this.sample(o), options)
  }

  /**
   * `count` (8) images from image `sample` (0) of one seed to that of another, by spherical interpolation of their x_T (Song et
   * al. 2021, section 5.3): [count, channels, imageSize, imageWidth]. The sampler must be one without noise; default: 'ddim' with
   * 50 steps, or half of all where that is less.
   */
  async interpolate(options: InterpolateOptions): Promise<Tensor> {
    const { seeds, count, sample, ...given } = parseOptions('interpolate', options, interpolateSchema)
    if (seeds.length !== 2) throw invalidArgument('seeds', 'two seeds', seeds)
    const half = Math.floor(this.numTimesteps / 2)
    const o =
      given.sampler || given.scheduler
        ? given
        : { ...given, sampler: 'ddim' as const, steps: given.steps ?? Math.min(50, half) }
    if (this.drawsNoise(o)) throw invalidArgument('sampler', 'one that draws no noise', o.sampler)
    const image = [this.channels, this.imageSize, this.imageWidth]
    const xT = interpolatedNoise(image, { seeds: [seeds[0], seeds[1]], count, sample })
    return this.pSampleLoop([count, ...image], { ...o, xT, returnIntermediates: false })
  }

  override configureOptimizers(options: OptimizerOptions): void {
    const own = this.lrSchedule && { lrSchedule: this.lrSchedule }
    super.configureOptimizers(own && options ? { ...own, ...options } : options)
  }

  /** batch[key], NHWC or NHW, as float32 NCHW. */
  async getInput(batch: Batch, key: string): Promise<Tensor> {
    const x = batch?.[key]
    if (!(x instanceof Tensor) || (x.shape.length !== 4 && x.shape.length !== 3)) {
      throw invalidArgument(`batch.${key}`, 'a Tensor of shape [n, height, width, channels] or [n, height, width]', x)
    }
    return this.nhwcToNchw(x)
  }

  /** @internal */
  protected override summary(): Record<string, unknown> {
    const { channels, imageSize, classNames } = this
    return { images: [channels, imageSize, imageSize], ...super.summary(), classes: classNames.length }
  }

  async sharedStep(batch: Batch): Promise<LossResult> {
    return this.call(async (core) => {
      const { x, ...told } = await this.modelInput(batch)
      return this.drawnLoss(core, x, { ...told, train: this.training })
    })
  }

  /** @internal Of a batch: x_0, and what the network is told. `stream` names what is drawn for it. */
  protected async modelInput(batch: Batch, _stream?: Partial<Stream>): Promise<ModelInput> {
    return { x: await this.getInput(batch, this.firstStageKey), ...(await this.#condition(batch)) }
  }

  /** What the network takes of it. */
  async #condition(batch: Batch): Promise<Omit<ModelInput, 'x' | 'y'> & { y?: Tensor }> {
    const { numClasses, contextDim, vectorDim, concatChannels } = this.network ?? {}
    const entry = (key: string, wanted: unknown) => (wanted === undefined ? undefined : (batch[key] as Tensor))
    return {
      ...(concatChannels && { concat: await this.getInput(batch, this.concatKey) }),
      y: entry(this.classKey, numClasses),
      context: entry(this.contextKey, contextDim),
      vector: entry(this.vectorKey, vectorDim),
    }
  }

  /**
   * Loss, gradients and update of one batch; timesteps and noise are drawn from the model's seed and the step. Followed by
   * onTrainBatchEnd. Needs configureOptimizers.
   */
  async trainingStep(batch: Batch, options: TrainBatchOptions = {}): Promise<TrainResult> {
    this.requireTraining('training')
    return this.call(async (core) => {
      const first = () =>
        this.firstSample(core, (batch[this.firstStageKey] as Tensor | undefined)?.shape?.[0] ?? 0, options)
      const { step = this.globalStep, sampleOffset = first() } = options
      const { x, made, ...told } = await this.modelInput(batch, { seed: this.seed, step, sampleOffset })
      return this.optimize(core, x, { ...told, ...options }, { ema: false, made })
    })
  }

  /** Losses 'val/...' with the trained weights, and 'val/..._ema' with the averaged ones. */
  async validationStep(batch: Batch, options: ValidationOptions = {}): Promise<LossDict> {
    const given = parseOptions('validationStep', options, validationSchema)
    return this.call(async (core) => {
      const { x, ...told } = await this.modelInput(batch, given)
      const settings = { ...told, ...given, train: false }
      const trained = await this.drawnLoss(core, x, settings)
      const same = given.seed !== undefined && !this.#settings.useEma
      const averaged = same ? trained : await this.emaScope(() => this.drawnLoss(core, x, settings))
      const renamed = Object.entries(averaged.lossDict).map(([key, loss]) => [`${key}_ema`, loss])
      return { ...trained.lossDict, ...Object.fromEntries(renamed) }
    })
  }

  /**
   * ddpm.py's log_images: of the batch's first `N` (8) images, the inputs; `nRow` (2) of them with the noise of every
   * logEveryT'th timestep; and unless `sample` is false, N samples of the averaged weights with their intermediates. makeGrid
   * puts inputs and samples together as its ImageLogger does. Throws `aborted`.
   */
  async logImages(batch: Batch, options: LogImagesOptions = {}): Promise<Partial<LoggedImages>> {
    const o = parseOptions('logImages', options, logImagesSchema)
    const log = await this.call((core) => this.#pictures(core, batch, o))
    const wanted = o.returnKeys?.filter((key) => key in log) ?? []
    if (wanted.length === 0) return log
    return Object.fromEntries(wanted.map((key) => [key, log[key]]))
  }

  async #pictures(core: Core, batch: Batch, o: Parsed<typeof logImagesSchema>): Promise<LoggedImages> {
    const x = await this.getInput(batch, this.firstStageKey)
    const n = Math.min(x.shape[0], o.N)
    const inputs = await firstImages(x, n)
    const xStart = await firstImages(x, Math.min(x.shape[0], o.nRow))
    const noisy: Tensor[] = []
    const last = core.numTimesteps - 1
    for (let t = 0; t <= last; t++) {
      if (t % this.logEveryT !== 0 && t !== last) continue
      const stream = o.seed === undefined ? nextStream(core) : { seed: o.seed, sampleOffset: 0, step: t }
      noisy.push(await qSample(core, xStart, t, await drawNoise(core, xStart.shape, stream)))
    }
    const log: LoggedImages = { inputs, diffusionRow: await imageRows(noisy) }
    if (!o.sample) return log
    const { y, context, vector, concat } = await this.#condition(batch)
    const classLabels = (await y?.data())?.slice(0, n)
    const given = {
      classLabels: classLabels && [...classLabels],
      context: context && (await firstImages(context, n)),
      vector: vector && (await firstImages(vector, n)),
      concat: concat && (await firstImages(concat, n)),
    }
    const { steps, seed, signal } = o
    const share = (steps ?? core.numTimesteps) / core.numTimesteps
    const logEveryT = Math.max(1, Math.round(this.logEveryT * share))
    const shape = [n, this.channels, this.imageSize, this.imageWidth]
    const options = { returnIntermediates: true, steps, seed, signal, logEveryT, ...given } as const
    const drawn = (await this.emaScope(() => this.loop(core, shape, options))) as LoopResult
    return { ...log, samples: drawn.samples, denoiseRow: await imageRows(drawn.intermediates) }
  }
}
