/** Diffusion of an autoencoder's latents: Rombach et al. 2022, by the names of CompVis' ddpm.py LatentDiffusion. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { StateDict } from '../../nn/weights'
import { type Parsed, parseOptions, type Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import { checkShape, type Shape, sizeOf, Tensor } from '../../tensor'
import { readLatentPipeline } from '../formats/latent-pipeline'
import { pretrainedFolder } from '../formats/pretrained'
import type { LoadReport } from '../formats/state'
import { type Cond, type ConditioningKey, forBatch, given, withConcat } from '../latent/conditioning'
import { decodeFirstStage, encodeFirstStage, scaled, standardDeviation } from '../latent/first-stage'
import { smallerMask } from '../latent/smaller-mask'
import { cut, cutsCondition } from '../latent/split-condition'
import { type ParsedSplit, Patches, parseSplit } from '../latent/split-input'
import { type CondStage, type FirstStage, isPosterior, type LatentStage, type Posterior } from '../latent/stages'
import { ddpmSchema, type InterpolateOptions, type PretrainedOptions } from '../options/ddpm-options'
import {
  type CondOptions,
  type DecodeOptions,
  decodeSchema,
  type LatentDiffusionOptions,
  type LatentLoopOptions,
  type LatentLossOptions,
  type LatentSampleOptions,
  latentLoopSchema,
  latentSampleSchema,
  latentSchema,
} from '../options/latent-options'
import type {
  LoadStateDictOptions,
  PMeanVarianceOptions,
  PSampleOptions,
  TrainBatchOptions,
} from '../options/method-options'
import type { Intermediates } from '../options/sampling-options'
import type { LossResult } from '../process/losses'
import type { Stream } from '../process/process'
import type { Timesteps } from '../process/timesteps'
import type { LoopResult } from '../sampling/loop'
import type { TrainResult } from '../training/training-step'
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

/**
 * What differs from DDPM: images are encoded by a first stage and the network's samples decoded by it; conditions are made by a
 * conditioning stage; `logvar` is a part of the loss; the model's clipDenoised is false, whatever it is given. With a mask the image is
 * mixed in before each step, as DDPM does; ddpm.py's class does it after them.
 */
export class LatentDiffusion extends DDPM {
  readonly firstStageModel: FirstStage
  /** Undefined for an unconditional model. */
  readonly condStageModel?: CondStage
  readonly condStageKey: string
  readonly condStageForward?: string
  readonly concatMode: boolean
  /** Undefined for an unconditional model. */
  readonly conditioningKey?: ConditioningKey
  readonly scaleByStd: boolean
  /** ddpm.py's split_input_params, parsed. */
  readonly splitInputParams?: ParsedSplit
  /** What latents are multiplied by. */
  scaleFactor: number

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: LatentDiffusionOptions) {
    const o = parseOptions('LatentDiffusion', options, { ...ddpmSchema, ...latentSchema })
    const { firstStage, condStage = '__is_unconditional__' } = o
    if (!firstStage) throw invalidArgument('firstStage', 'a first stage, such as an AutoencoderKL', undefined)
    if (o.learnLogvar) throw unsupported('learnLogvar')
    const split = o.splitInputParams && parseSplit(o.splitInputParams)
    const key =
      condStage === '__is_unconditional__' ? undefined : (o.conditioningKey ?? (o.concatMode ? 'concat' : 'crossattn'))
    const own = Object.fromEntries(Object.keys(ddpmSchema).map((name) => [name, options[name as never]]))
    super({ ...own, unetConfig: withConcat(o.unetConfig, key, o.varianceType !== 'fixed'), clipDenoised: false })
    if (options.clipDenoised)
      this.warn(['clipDenoised is false in LatentDiffusion whatever it is given, as in ddpm.py'])
    this.firstStageModel = firstStage
    if (condStage === '__is_first_stage__') this.condStageModel = firstStage as CondStage
    else if (condStage !== '__is_unconditional__') this.condStageModel = condStage
    this.condStageKey = o.condStageKey
    this.condStageForward = o.condStageForward
    this.concatMode = o.concatMode
    this.scaleByStd = o.scaleByStd
    this.scaleFactor = o.scaleFactor
    this.splitInputParams = split
    this.conditioningKey = key
  }

  /**
   * A model from a folder of a diffusers pipeline with a first stage (StableDiffusionPipeline, LDMPipeline), or by its name on the Hugging
   * Face hub, as DDPM.fromPretrained. The stages' weights are read when they are first used. `sample` then takes the folder's
   * scheduler and 50 steps unless it is told others. Throws `not-found`, `io`, `bad-file`, `state-mismatch` and `unsupported`.
   */
  static override async fromPretrained(source: string, options: PretrainedOptions = {}): Promise<LatentDiffusion> {
    const { variant, weights: _, revision, onDownload, ...own } = options
    const folder = await pretrainedFolder(source, variant, { revision, onDownload })
    const { device, precision, seed, deterministic } = own
    const stage = { device, precision, seed, deterministic }
    const found = await readLatentPipeline(folder, { variant, stage })
    const { settings, weights, schedulerConfig, warnings, firstStage, condStage, conditioningKey, scaleFactor } = found
    const told = condStage && { condStage, conditioningKey, condStageKey: 'caption' }
    const { clipDenoised: _clip, ...process } = settings
    const model = new LatentDiffusion({ ...process, firstStage, ...told, scaleFactor, useEma: false, ...own })
    model.schedulerConfig = schedulerConfig
    model.warn(warnings)
    try {
      await model.loadStateDict(weights)
      return model
    } catch (error) {
      model.dispose()
      throw error
    }
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

  /** What the network says of x_t: applyModel of ddpm.py, by patches with splitInputParams. */
  async applyModel(xNoisy: Tensor, t: Timesteps, cond?: Cond): Promise<Tensor> {
    const { splitInputParams: split, conditioningKey: key } = this
    if (!split) return this.predict(xNoisy, t, await given(cond, key))
    const patches = new Patches([xNoisy.shape[2], xNoisy.shape[3]], split)
    const parts = key && cutsCondition.includes(this.condStageKey) ? await cut(cond, key, patches) : undefined
    const outputs: Tensor[] = []
    for (const [i, patch] of (await patches.unfold(xNoisy)).entries()) {
      outputs.push(await this.predict(patch, t, await given(parts?.[i] ?? cond, key)))
    }
    return patches.fold(outputs)
  }

  // ---- losses ------------------------------------------------------------------------------------------------------

  /** @internal loss / exp(logvar[t]) + logvar[t]. */
  protected override get logvarInLoss(): boolean {
    return true
  }

  /** p_losses of latents. The order of the arguments is DDPM's; the condition is the option `cond`. */
  override async pLosses(
    xStart: Tensor,
    t: Timesteps,
    noise?: Tensor,
    options: LatentLossOptions = {},
  ): Promise<LossResult> {
    return super.pLosses(xStart, t, noise, await this.#told(options))
  }

  override async lossAndGradients(
    xStart: Tensor,
    t: Timesteps,
    noise?: Tensor,
    options: LatentLossOptions = {},
  ): Promise<LossResult & { gradients: StateDict }> {
    return super.lossAndGradients(xStart, t, noise, await this.#told(options))
  }

  override async forward(x: Tensor, options: LatentLossOptions = {}): Promise<LossResult> {
    return super.forward(x, await this.#told(options))
  }

  /** Throws `unsupported`: only applyModel and the first stage go by patches. */
  #whole(): void {
    if (this.splitInputParams)
      throw unsupported('splitInputParams, but in applyModel, encodeFirstStage and decodeFirstStage,')
  }

  /** With `cond` as the network takes it. */
  async #told<O extends CondOptions>({ cond, ...rest }: O): Promise<Omit<O, 'cond'>> {
    this.#whole()
    return cond === undefined ? rest : { ...rest, ...(await given(cond, this.conditioningKey)) }
  }

  // ---- sampling ----------------------------------------------------------------------------------------------------

  /**
   * Images [n, c, height, width] in [-1, 1] of a prompt, of `cond`, or unconditional ones; with outputType 'latent' ddpm.py's sample.
   * `image` and `mask` are encoded, too. Intermediates are latents. Throws `invalid-argument`, and what pSampleLoop throws.
   */
  override async sample(options?: LatentSampleOptions & Intermediates<false>): Promise<Tensor>
  override async sample(options: LatentSampleOptions & Required<Intermediates<true>>): Promise<LoopResult>
  override async sample(options?: LatentSampleOptions & Intermediates): Promise<Tensor | LoopResult>
  override async sample(options?: LatentSampleOptions & Intermediates): Promise<Tensor | LoopResult> {
    const o = parseOptions('sample', options, latentSampleSchema)
    const { prompt, negativePrompt, height, width, outputType, batchSize, ...rest } = o
    const n = batchSize ?? (Array.isArray(prompt) ? prompt.length : prompt === undefined ? 16 : 1)
    const shape = [n, this.channels, ...this.#latentSize(height, width)]
    const told = await this.#ofPrompts(o, n)
    const own = await this.#ownImage(o, shape)
    const drawn = await this.pSampleLoop(shape, { ...rest, ...this.#usual(o), ...told, ...own })
    if (outputType === 'latent') return drawn
    if (drawn instanceof Tensor) return this.decodeFirstStage(drawn)
    return { ...drawn, samples: await this.decodeFirstStage(drawn.samples) }
  }

  /** The folder's scheduler, as its pipeline has it, where nothing else is asked for. */
  #usual({ sampler, scheduler, steps, timesteps, startT }: Parsed<typeof latentSampleSchema>) {
    const { schedulerConfig } = this
    if (!schedulerConfig || sampler || scheduler || startT !== undefined) return {}
    return { scheduler: schedulerConfig, ...(steps === undefined && timesteps === undefined && { steps: 50 }) }
  }

  /** Latents of `shape`. `cond` and `uncond` are of as many samples, or of one for all. */
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates<false>): Promise<Tensor>
  override async pSampleLoop(
    shape: Shape,
    options: LatentLoopOptions & Required<Intermediates<true>>,
  ): Promise<LoopResult>
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates): Promise<Tensor | LoopResult>
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates): Promise<Tensor | LoopResult> {
    checkShape(shape)
    this.#whole()
    const { cond, uncond, ...rest } = parseOptions('pSampleLoop', options, latentLoopSchema)
    const of = async (condition: Cond) => given(await forBatch(condition, shape[0]), this.conditioningKey)
    const { y, ...told } = cond ? await of(cond) : {}
    const labels = y && { classLabels: y }
    const { y: others, context, concat } = uncond ? await of(uncond) : {}
    if (others)
      throw invalidArgument('uncond', "nothing with conditioningKey 'adm': nullClass is gone away from", uncond)
    const negative = { ...(context && { negativeContext: context }), ...(concat && { negativeConcat: concat }) }
    return super.pSampleLoop(shape, { ...rest, ...told, ...labels, ...negative })
  }

  override get sampleShape(): readonly [channels: number, height: number, width: number] {
    const { factor = 1, outChannels = this.channels } = this.firstStageModel
    return [outChannels, factor * this.imageSize, factor * this.imageWidth]
  }

  #latentSize(height?: number, width?: number): [number, number] {
    const { factor = 1 } = this.firstStageModel
    const side = (pixels: number | undefined, latent: number, argument: string) => {
      if (pixels === undefined) return latent
      const { divisor = 1 } = this.network ?? {}
      if (pixels % (factor * divisor) === 0) return pixels / factor
      throw invalidArgument(argument, `a multiple of ${factor * divisor}`, pixels)
    }
    return [side(height, this.imageSize, 'height'), side(width, this.imageWidth, 'width')]
  }

  /** Conditions of prompts; with guidance, of what to go away from, too. */
  async #ofPrompts(
    { prompt, negativePrompt, cond, uncond, guidanceScale = 1 }: Parsed<typeof latentSampleSchema>,
    n: number,
  ) {
    if (prompt === undefined) {
      if (negativePrompt === undefined) return {}
      throw invalidArgument('prompt', 'a text, to go with negativePrompt', undefined)
    }
    if (cond !== undefined) throw invalidArgument('cond', 'nothing with prompt', cond)
    const told = { cond: await this.#ofText(prompt, n, 'prompt') }
    if (guidanceScale === 1 || uncond !== undefined) return told
    return { ...told, uncond: await this.#ofText(negativePrompt ?? '', n, 'negativePrompt') }
  }

  async #ofText(text: string | readonly string[], n: number, argument: string): Promise<Tensor> {
    const texts = typeof text === 'string' ? [text] : text
    if (texts.length !== 1 && texts.length !== n) throw invalidArgument(argument, `one text, or ${n}`, text)
    return this.getLearnedConditioning(texts)
  }

  /** The image to begin with as latents, and the mask in their size: a latent is kept where all of its pixels are. */
  async #ownImage(o: Parsed<typeof latentSampleSchema>, shape: readonly number[]) {
    if (o.outputType === 'latent' || !o.image) return {}
    const { seed, sampleOffset } = o
    const image = await this.getFirstStageEncoding(await this.encodeFirstStage(o.image), { seed, sampleOffset })
    return { image, ...(o.mask && { mask: await smallerMask(o.mask, shape) }) }
  }

  /** p(x_{t-1} | x_t) by the network. */
  override async pMeanVariance(x: Tensor, t: Timesteps, options: CondOptions & PMeanVarianceOptions = {}) {
    return super.pMeanVariance(x, t, await this.#told(options))
  }

  /** One step: x_{t-1} from x_t. */
  override async pSample(x: Tensor, t: Timesteps, options: CondOptions & PSampleOptions = {}): Promise<Tensor> {
    return super.pSample(x, t, await this.#told(options))
  }

  /** Images between those of two seeds, as DDPM.interpolate. */
  override async interpolate(options: InterpolateOptions): Promise<Tensor> {
    return this.decodeFirstStage(await super.interpolate(options))
  }

  // ---- batches -----------------------------------------------------------------------------------------------------

  /** ddpm.py's on_train_batch_start: with scaleByStd, the first batch's latents say the scale factor. */
  async onTrainBatchStart(batch: Batch): Promise<void> {
    if (!this.scaleByStd || this.globalStep > 0) return
    if (this.scaleFactor !== 1) {
      throw invalidArgument('scaleFactor', '1 with scaleByStd', this.scaleFactor)
    }
    const x = await this.getInput(batch, this.firstStageKey)
    const z = await this.getFirstStageEncoding(await this.encodeFirstStage(x))
    this.scaleFactor = 1 / (await standardDeviation(z))
  }

  /** @internal */
  protected override async modelInput(batch: Batch, stream: Partial<Stream> = {}): Promise<ModelInput> {
    const { z, c } = await this.getLatentInput(batch, stream)
    return { x: z, ...(await given(c, this.conditioningKey)) }
  }

  /**
   * ddpm.py's get_input of this class: of a batch's images (firstStageKey, NHWC) the latents z, a sample of their distribution, and of its
   * condition (condStageKey) c, as getLearnedConditioning makes it; undefined for an unconditional model.
   */
  async getLatentInput(batch: Batch, stream: EncodingOptions = {}): Promise<LatentInput> {
    const x = await this.getInput(batch, this.firstStageKey)
    const z = await this.getFirstStageEncoding(await this.encodeFirstStage(x), stream)
    if (this.conditioningKey === undefined) return { x, z }
    const xc = await this.#conditionInput(batch, x)
    return { x, z, xc, c: await this.getLearnedConditioning(xc) }
  }

  /** What the conditioning stage is given: images NCHW, or labels, ids and texts as they are. */
  async #conditionInput(batch: Batch, x: Tensor): Promise<unknown> {
    if (this.condStageKey === this.firstStageKey) return x
    const entry = batch[this.condStageKey]
    if (entry instanceof Tensor && entry.dtype === 'float32' && entry.shape.length >= 3) {
      return this.getInput(batch, this.condStageKey)
    }
    if (entry === undefined) throw invalidArgument(`batch.${this.condStageKey}`, 'what the model is told', entry)
    return entry
  }

  override async trainingStep(batch: Batch, options: TrainBatchOptions = {}): Promise<TrainResult> {
    await this.onTrainBatchStart(batch)
    return super.trainingStep(batch, options)
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
    for (const [prefix, stage] of this.#stages) {
      const names = Object.keys(rest).filter((name) => name.startsWith(prefix))
      if (names.length === 0 || !stage.loadStateDict) continue
      await stage.loadStateDict(Object.fromEntries(names.map((name) => [name.slice(prefix.length), rest[name]])))
      for (const name of names) delete rest[name]
    }
    if (rest.scale_factor) {
      this.scaleFactor = (await rest.scale_factor.data())[0]
      delete rest.scale_factor
    }
    return super.loadStateDict(rest, options)
  }

  /** Throws `unsupported`: files of latent models are read, not written. `stateDict` has all weights. */
  override async savePretrained(): Promise<never> {
    throw unsupported('savePretrained')
  }

  /** Throws `unsupported`: it would not say what the stages are. */
  override get config(): never {
    throw unsupported('config')
  }

  /** Throws `unsupported`. */
  override async withLoras(): Promise<never> {
    throw unsupported('withLoras')
  }

  /** Throws `unsupported`. */
  override async merged(): Promise<never> {
    throw unsupported('merged')
  }

  /** Throws `unsupported`. */
  override async logImages(): Promise<never> {
    throw unsupported('logImages')
  }

  get #stages(): [string, LatentStage][] {
    const first: [string, LatentStage] = ['first_stage_model.', this.firstStageModel]
    const cond = this.condStageModel
    return cond && cond !== (this.firstStageModel as unknown) ? [first, ['cond_stage_model.', cond]] : [first]
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

function unsupported(method: string): DiffusionError {
  return new DiffusionError('unsupported', `${method} is not there for latent models`, { argument: method })
}
