/** A DDPM with stages: what LatentDiffusion encodes, tells and keeps. */
import type { JsonObject } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import type { OnnxOptions } from '../../export/onnx'
import type { StateDict } from '../../nn/weights'
import { parseOptions, type Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import { checkTensor, sizeOf, Tensor } from '../../tensor'
import { latentConfig } from '../formats/latent-config'
import type { LoadReport } from '../formats/state'
import { checkCondSchedule, condSchedule } from '../latent/cond-schedule'
import { type ConditioningKey, given, withConcat } from '../latent/conditioning'
import {
  checkFirstStage,
  decodeFirstStage,
  decodeGradient,
  encodeFirstStage,
  scaleByStd,
  scaled,
  scaleOf,
} from '../latent/first-stage'
import { LinearPreview } from '../latent/linear-preview'
import { type ParsedSplit, parseSplit } from '../latent/split-input'
import { checkSplit, SplitNetwork } from '../latent/split-network'
import { type CondStage, type FirstStage, isPosterior, type LatentStage, type Posterior } from '../latent/stages'
import { condStagePrefix, TrainedStage, trainableStage } from '../latent/trained-stage'
import { ddpmSchema } from '../options/ddpm-options'
import {
  type DecodeOptions,
  decodeSchema,
  type LatentDiffusionOptions,
  latentSchema,
  type TrainedCondOptions,
} from '../options/latent-options'
import type { LoadStateDictOptions, Told, TrainBatchOptions } from '../options/method-options'
import { coreOf } from '../process/core'
import { type LearnedLogvar, logvarTable } from '../process/learned-logvar'
import type { ScheduleOptions } from '../process/model-options'
import type { Stream } from '../process/process'
import type { TrainingState, TrainResult } from '../training/training-step'
import type { Batch, ModelInput } from './batch'
import { DDPM } from './ddpm'

/** Of getFirstStageEncoding. */
export interface EncodingOptions {
  /** Of the posterior sample, of the latents' shape. Default: drawn by `seed`. */
  noise?: Tensor
  /** Of the posterior sample. Default: the next of the model's own. */
  seed?: Seed
  /** Index of the first image: image i alone gets the noise of image i of a batch. Default 0. */
  sampleOffset?: number
  /** Of a training: each has noise of its own. Default 0. */
  step?: number
}

/** Of getLatentInput. */
export interface LatentInput {
  /** The images, NCHW. */
  x: Tensor
  /** Their latents, scaled. */
  z: Tensor
  /** What the conditioning stage was given. */
  xc?: unknown
  /** What it made of it. */
  c?: Tensor
}

/** Of differentiableDecodeFirstStage. */
export interface DifferentiableImages {
  images: Tensor
  /** The gradient with respect to the latents, of their shape, by that with respect to the images. */
  backward(gradient: Tensor): Promise<Tensor>
}

/** A DDPM of what a first stage makes of images, and of conditions that a conditioning stage makes: the stages, batches and state. */
export abstract class LatentModel extends DDPM {
  readonly firstStageModel: FirstStage
  /** Undefined for an unconditional model. */
  readonly condStageModel?: CondStage
  readonly condStageKey: string
  readonly condStageForward?: string
  readonly concatMode: boolean
  /** Undefined for an unconditional model. */
  readonly conditioningKey?: ConditioningKey
  readonly scaleByStd: boolean
  readonly numTimestepsCond: number
  /** ddpm.py's split_input_params, parsed. */
  readonly splitInputParams?: ParsedSplit
  /** What latents are multiplied by. */
  scaleFactor: number
  readonly #options: Readonly<Partial<LatentDiffusionOptions>>
  /** Of the first stage's weights as they are. */
  #preview?: Promise<LinearPreview>
  readonly #trainedStage?: TrainedStage
  readonly #learnedLogvar?: LearnedLogvar

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: LatentDiffusionOptions) {
    const o = parseOptions('LatentDiffusion', options, { ...ddpmSchema, ...latentSchema })
    const { firstStage, condStage = '__is_unconditional__' } = o
    if (!firstStage) throw invalidArgument('firstStage', 'a first stage, such as an AutoencoderKL', undefined)
    const split = o.splitInputParams && parseSplit(o.splitInputParams)
    const key =
      condStage === '__is_unconditional__' ? undefined : (o.conditioningKey ?? (o.concatMode ? 'concat' : 'crossattn'))
    if (split) checkSplit({ ...o, conditioningKey: key })
    checkCondSchedule(o.numTimestepsCond, o.givenBetas?.length ?? o.timesteps, key)
    const own = Object.fromEntries(Object.keys(ddpmSchema).map((name) => [name, options[name as never]]))
    const trained = o.condStageTrainable ? trainableStage(condStage, { key, forward: o.condStageForward }) : undefined
    if (trained && o.numTimestepsCond > 1) {
      throw invalidArgument('numTimestepsCond', '1 with condStageTrainable', o.numTimestepsCond)
    }
    if (trained && o.contextDropout > 0) {
      throw invalidArgument(
        'contextDropout',
        '0 with condStageTrainable: drop what the stage is given',
        o.contextDropout,
      )
    }
    const logvar = o.learnLogvar ? logvarTable(o.givenBetas?.length ?? o.timesteps, o.logvarInit) : undefined
    const unetConfig = withConcat(o.unetConfig, key, o.varianceType !== 'fixed')
    super({ ...own, unetConfig, clipDenoised: false }, [
      ...(trained ? [{ prefix: condStagePrefix, parameters: trained.parameters }] : []),
      ...(logvar ? [{ prefix: '', parameters: logvar }] : []),
    ])
    checkFirstStage(firstStage, this.channels, o.scaleFactor)
    if (options.clipDenoised)
      this.warn(['clipDenoised is false in LatentDiffusion whatever it is given, as in ddpm.py'])
    this.#options = o
    this.firstStageModel = firstStage
    if (condStage === '__is_first_stage__') this.condStageModel = firstStage as CondStage
    else if (condStage !== '__is_unconditional__') this.condStageModel = condStage
    this.condStageKey = o.condStageKey
    this.condStageForward = o.condStageForward
    this.concatMode = o.concatMode
    this.scaleByStd = o.scaleByStd
    this.numTimestepsCond = o.numTimestepsCond
    this.scaleFactor = o.scaleFactor
    this.splitInputParams = split
    this.conditioningKey = key
    const network = this[coreOf].denoiser.network
    if (split && network) network.split = new SplitNetwork(split)
    if ((trained || logvar) && !network) {
      throw invalidArgument(trained ? 'condStageTrainable' : 'learnLogvar', 'false where a function is the model', true)
    }
    if (trained) this.#trainedStage = new TrainedStage(trained, key!, network!.weights, network!.beside[0])
    if (logvar) this.#learnedLogvar = { table: logvar, place: network!.beside[network!.beside.length - 1] }
  }

  /** ddpm.py's cond_ids, [T]: the timestep that a condition gets noise of, by that of the samples. Undefined where it gets none. */
  override get condIds(): Int32Array | undefined {
    return this.numTimestepsCond > 1 ? condSchedule(this.numTimesteps, this.numTimestepsCond) : undefined
  }

  // ---- first stage -------------------------------------------------------------------------------------------------

  /**
   * Images [n, c, h, w] in [-1, 1] as the first stage encodes them: a distribution, or with a codebook the latents before it. By patches
   * with splitInputParams' patchDistributedVq.
   */
  encodeFirstStage(x: Tensor): Promise<Tensor | Posterior> {
    return encodeFirstStage(this.firstStageModel, x, this.splitInputParams)
  }

  /** scaleFactor times a sample of the distribution, or times the tensor: the latents that the network knows. */
  async getFirstStageEncoding(encoded: Tensor | Posterior, options: EncodingOptions = {}): Promise<Tensor> {
    const z = isPosterior(encoded) ? await this.#drawn(encoded, options) : encoded
    return scaled(z, this.scaleFactor)
  }

  /** Image i of a stream has the same noise in any batch. */
  async #drawn(posterior: Posterior, o: EncodingOptions): Promise<Tensor> {
    if (o.noise) return posterior.sample({ noise: o.noise })
    const { shape } = await posterior.mode()
    const { seed = this.nextSeed(), sampleOffset = 0, step = 0 } = o
    const size = sizeOf(shape.slice(1))
    const noise = new Float32Array(shape[0] * size)
    for (let i = 0; i < shape[0]; i++) noise.set(normal(seed, Purpose.latent, sampleOffset + i, step, size), i * size)
    return posterior.sample({ noise: Tensor.wrap(noise, shape) })
  }

  /** Images [n, c, h, w] of scaled latents. */
  async decodeFirstStage(z: Tensor, options: DecodeOptions = {}): Promise<Tensor> {
    const o = parseOptions('decodeFirstStage', options, decodeSchema)
    return decodeFirstStage(this.firstStageModel, z, { ...o, scale: this.scaleFactor, split: this.splitInputParams })
  }

  /**
   * Small images [n, c, h, w] in [-1, 1] of scaled latents [n, channels, h, w], a pixel each: a linear fit to the first stage, for which the
   * first call encodes and decodes two images. For an `onStep`, whose states are latents: `await ldm.previewLatents(predX0)`.
   */
  async previewLatents(z: Tensor): Promise<Tensor> {
    checkTensor(z, 'z')
    const [images] = this.sampleShape
    this.#preview ??= LinearPreview.fit(this.firstStageModel, { latents: this.channels, images })
    try {
      return await (await this.#preview).of(await scaled(z, 1 / this.scaleFactor))
    } catch (error) {
      this.#preview = undefined
      throw error
    }
  }

  /**
   * ddpm.py's differentiable_decode_first_stage: images of latents as decodeFirstStage, and what a gradient of theirs, [n, c, h, w], is to the
   * latents. Through a codebook it goes straight (VectorQuantizer2). Nothing is kept for it: backward computes the images again. Throws
   * `unsupported` for codes, for latents that are decoded in tiles and for a first stage of another class.
   */
  async differentiableDecodeFirstStage(z: Tensor, options: DecodeOptions = {}): Promise<DifferentiableImages> {
    const parsed = parseOptions('differentiableDecodeFirstStage', options, decodeSchema)
    const o = { ...parsed, scale: this.scaleFactor, split: this.splitInputParams }
    const images = await decodeFirstStage(this.firstStageModel, z, o)
    const backward = async (gradient: Tensor) => {
      checkTensor(gradient, 'gradient', images.shape)
      return decodeGradient(this.firstStageModel, z, gradient, o)
    }
    return { images, backward }
  }

  // ---- conditions --------------------------------------------------------------------------------------------------

  /** The conditioning stage's `encode`, or `condStageForward`, of texts, labels or maps; a distribution's mode. */
  async getLearnedConditioning(c: unknown): Promise<Tensor> {
    const stage = this.condStageModel
    if (!stage) {
      throw new DiffusionError('not-configured', 'getLearnedConditioning: the model has no conditioning stage')
    }
    const name = this.condStageForward ?? 'encode'
    const method = (stage as unknown as Record<string, unknown>)[name]
    if (typeof method !== 'function') {
      throw invalidArgument('condStageForward', 'a method of the conditioning stage', name)
    }
    const encoded = (await method.call(stage, c)) as Tensor | Posterior
    return isPosterior(encoded) ? encoded.mode() : encoded
  }

  /** @internal */
  protected override async told(method: string, { cond, xc, ...rest }: TrainedCondOptions): Promise<Told> {
    return { ...(await super.told(method, rest)), ...(await this.conditionOf({ cond, xc })) }
  }

  /** @internal `cond`, or what the conditioning stage makes of `xc`, as the network takes it. */
  protected async conditionOf({ cond, xc }: TrainedCondOptions): Promise<Told> {
    if (xc === undefined) return cond === undefined ? {} : given(cond, this.conditioningKey)
    if (cond !== undefined) throw invalidArgument('xc', 'nothing with cond', xc)
    return this.#made(xc)
  }

  /** What the network is told by the conditioning stage: where that is trained, by the step's own graph. */
  async #made(xc: unknown): Promise<Told> {
    if (this.#trainedStage) return { made: await this.#trainedStage.condition(xc) }
    return given(await this.getLearnedConditioning(xc), this.conditioningKey)
  }

  /** @internal Latents have no range. */
  protected override async noticeRange(): Promise<void> {}

  override get sampleShape(): readonly [channels: number, height: number, width: number] {
    const { factor = 1, outChannels = this.channels } = this.firstStageModel
    return [outChannels, factor * this.imageSize, factor * this.imageWidth]
  }

  // ---- batches -----------------------------------------------------------------------------------------------------

  /** ddpm.py's on_train_batch_start: with scaleByStd, the first batch's latents say the scale factor. */
  async onTrainBatchStart(batch: Batch): Promise<void> {
    if (!this.scaleByStd || this.globalStep > 0) return
    if (this.scaleFactor !== 1) {
      throw invalidArgument('scaleFactor', '1 with scaleByStd', this.scaleFactor)
    }
    if (batch.z) throw invalidArgument('scaleByStd', 'false with latents that are ready', true)
    const x = await this.getInput(batch, this.firstStageKey)
    const z = await this.getFirstStageEncoding(await this.encodeFirstStage(x))
    this.scaleFactor = await scaleByStd(z)
  }

  /** @internal */
  protected override async modelInput(batch: Batch, stream: Partial<Stream> = {}): Promise<ModelInput> {
    const { z, xc } = batch.z instanceof Tensor ? await this.#ready(batch, batch.z) : await this.#latents(batch, stream)
    const y = this.network?.numClasses !== undefined && !this.conditioningKey && (batch[this.classKey] as Tensor)
    return { x: z, ...(this.conditioningKey && (await this.#made(xc))), ...(y && { y }) }
  }

  /**
   * ddpm.py's get_input of this class: of a batch's images (firstStageKey, NHWC) the latents z, a sample of their distribution, and of its
   * condition (condStageKey) c, as getLearnedConditioning makes it; undefined for an unconditional model.
   */
  async getLatentInput(batch: Batch, stream: EncodingOptions = {}): Promise<LatentInput> {
    const input = await this.#latents(batch, stream)
    return this.conditioningKey ? { ...input, c: await this.getLearnedConditioning(input.xc) } : input
  }

  /** Of a batch with latents. */
  async #ready(batch: Batch, z: Tensor): Promise<Pick<LatentInput, 'z' | 'xc'>> {
    return this.conditioningKey ? { z, xc: await this.#conditionInput(batch) } : { z }
  }

  async #latents(batch: Batch, stream: EncodingOptions): Promise<LatentInput> {
    const x = await this.getInput(batch, this.firstStageKey)
    const z = await this.getFirstStageEncoding(await this.encodeFirstStage(x), stream)
    return this.conditioningKey ? { x, z, xc: await this.#conditionInput(batch, x) } : { x, z }
  }

  /** What the conditioning stage is given: images NCHW, or labels, ids and texts as they are. */
  async #conditionInput(batch: Batch, x?: Tensor): Promise<unknown> {
    if (x && this.condStageKey === this.firstStageKey) return x
    const entry = batch[this.condStageKey]
    if (entry instanceof Tensor && entry.dtype === 'float32' && entry.shape.length >= 3) {
      return this.getInput(batch, this.condStageKey)
    }
    if (entry === undefined) throw invalidArgument(`batch.${this.condStageKey}`, 'what the model is told', entry)
    return entry
  }

  /**
   * The network as an ONNX model, as DDPM.exportOnnx writes it: height and width are those of latents, and contextLength is by default that
   * of the text encoder.
   */
  override async exportOnnx(path: string, options: OnnxOptions = {}): Promise<string[]> {
    const { maxLength } = (this.condStageModel ?? {}) as { maxLength?: number }
    const contextLength = options.contextLength ?? (this.network?.contextDim === undefined ? undefined : maxLength)
    return super.exportOnnx(path, { ...options, contextLength })
  }

  override async trainingStep(batch: Batch, options: TrainBatchOptions = {}): Promise<TrainResult> {
    this.requireTraining('training')
    await this.onTrainBatchStart(batch)
    return super.trainingStep(batch, options)
  }

  // ---- what is trained beside the network --------------------------------------------------------------------------

  /** @internal */
  protected override get learnedLogvar(): LearnedLogvar | undefined {
    return this.#learnedLogvar
  }

  /** @internal */
  protected override async optimize(...args: Parameters<DDPM['optimize']>): Promise<TrainResult> {
    this.requireTraining('training')
    await this.#trainedStage?.begin()
    const result = await super.optimize(...args)
    await this.#changed()
    return result
  }

  /** The stage and `logvar` are as the training has them. */
  async #changed(): Promise<void> {
    this.#trainedStage?.outdated()
    if (this.#learnedLogvar)
      this.logvar = await this.#logvarBank.read(this.#learnedLogvar.place.offset, this.logvar.length)
  }

  get #logvarBank() {
    return this[coreOf].denoiser.network!.weights.bank('weights')
  }

  /** The network's, and what is trained beside it. */
  override async trainingState(): Promise<TrainingState> {
    this.requireTraining('trainingState')
    await this.#trainedStage?.begin()
    return super.trainingState()
  }

  override async loadTrainingState(state: TrainingState): Promise<void> {
    this.requireTraining('loadTrainingState')
    await this.#trainedStage?.begin()
    await super.loadTrainingState(state)
    await this.#changed()
  }

  /** DDPM's. With learnLogvar there are as many timesteps as before. */
  override registerSchedule(options: ScheduleOptions = {}): void {
    const { length } = this.logvar
    if (this.#learnedLogvar && (options.givenBetas?.length ?? options.timesteps ?? 1000) !== length) {
      throw invalidArgument('timesteps', `${length}, the length of the learned logvar`, options.timesteps)
    }
    super.registerSchedule(options)
  }

  // ---- state -------------------------------------------------------------------------------------------------------

  /** By ddpm.py's names: DDPM's, first_stage_model.*, cond_stage_model.* and, with scaleByStd, scale_factor. */
  override async stateDict(): Promise<StateDict> {
    const dict = await super.stateDict()
    if (this.scaleByStd) dict.scale_factor = Tensor.wrap(Float32Array.of(this.scaleFactor), [])
    for (const [prefix, stage] of this.#stages) {
      const own = await stage.stateDict?.()
      for (const [name, tensor] of Object.entries(own ?? {})) dict[prefix + name] = tensor
    }
    return dict
  }

  /**
   * DDPM's, and what the dict has of the stages and of scale_factor; a stage that it has nothing of stays as it is. The stages' weights are
   * replaced first, each only if all of it fits. Throws `state-mismatch`.
   */
  override async loadStateDict(dict: StateDict, options: LoadStateDictOptions = {}): Promise<LoadReport> {
    const rest = { ...dict }
    const scale = rest.scale_factor && (await scaleOf(rest.scale_factor))
    this.#preview = undefined
    const missing: string[] = []
    const unexpected: string[] = []
    for (const [prefix, stage] of this.#stages) {
      const names = Object.keys(rest).filter((name) => name.startsWith(prefix))
      if (names.length === 0 || !stage.loadStateDict) continue
      const own = Object.fromEntries(names.map((name) => [name.slice(prefix.length), rest[name]]))
      const report = (await stage.loadStateDict(own, { strict: options.strict ?? true })) as LoadReport | undefined
      for (const name of report?.missing ?? []) missing.push(prefix + name)
      for (const name of report?.unexpected ?? []) unexpected.push(prefix + name)
      for (const name of names) delete rest[name]
    }
    if (scale !== undefined) this.scaleFactor = scale
    delete rest.scale_factor
    const report = await super.loadStateDict(rest, options)
    if (this.#learnedLogvar) this.#logvarBank.write(this.logvar, this.#learnedLogvar.place.offset)
    return { missing: [...report.missing, ...missing], unexpected: [...report.unexpected, ...unexpected] }
  }

  /**
   * The options that make this model again, as plain JSON with all defaults, its stages as their `config`; without `device`, `seed` and
   * `deterministic`. Throws `unsupported` for stages of the user's own classes.
   */
  override get config(): JsonObject {
    return { ...super.config, ...latentConfig(this.#options, this) }
  }

  get #stages(): [string, LatentStage][] {
    const first: [string, LatentStage] = ['first_stage_model.', this.firstStageModel]
    const cond = this.condStageModel
    return cond && cond !== (this.firstStageModel as unknown) ? [first, [condStagePrefix, cond]] : [first]
  }

  /** Gives the device's memory of the stages back; they take it again when they are next used. */
  async offload(): Promise<void> {
    for (const [, stage] of this.#stages) await stage.offload?.()
  }

  override dispose(): void {
    super.dispose()
    this.firstStageModel.dispose?.()
    this.condStageModel?.dispose?.()
  }
}
