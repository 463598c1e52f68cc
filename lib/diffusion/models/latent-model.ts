/** A DDPM with stages: what LatentDiffusion encodes, tells and keeps. */
import type { JsonObject } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import type { StateDict } from '../../nn/weights'
import { parseOptions, type Seed } from '../../options'
import { normal, Purpose } from '../../rng'
import { sizeOf, Tensor } from '../../tensor'
import { latentConfig } from '../formats/latent-config'
import type { LoadReport } from '../formats/state'
import { checkCondSchedule, condSchedule } from '../latent/cond-schedule'
import { type ConditioningKey, given, withConcat } from '../latent/conditioning'
import { decodeFirstStage, encodeFirstStage, scaled, standardDeviation } from '../latent/first-stage'
import { type ParsedSplit, parseSplit } from '../latent/split-input'
import { type CondStage, type FirstStage, isPosterior, type LatentStage, type Posterior } from '../latent/stages'
import { ddpmSchema } from '../options/ddpm-options'
import { type DecodeOptions, decodeSchema, type LatentDiffusionOptions, latentSchema } from '../options/latent-options'
import type { LoadStateDictOptions, TrainBatchOptions } from '../options/method-options'
import type { Stream } from '../process/process'
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

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: LatentDiffusionOptions) {
    const o = parseOptions('LatentDiffusion', options, { ...ddpmSchema, ...latentSchema })
    const { firstStage, condStage = '__is_unconditional__' } = o
    if (!firstStage) throw invalidArgument('firstStage', 'a first stage, such as an AutoencoderKL', undefined)
    if (o.learnLogvar)
      throw new DiffusionError('unsupported', 'learnLogvar is not there for latent models', { argument: 'learnLogvar' })
    const split = o.splitInputParams && parseSplit(o.splitInputParams)
    const key =
      condStage === '__is_unconditional__' ? undefined : (o.conditioningKey ?? (o.concatMode ? 'concat' : 'crossattn'))
    checkCondSchedule(o.numTimestepsCond, o.givenBetas?.length ?? o.timesteps, key)
    const own = Object.fromEntries(Object.keys(ddpmSchema).map((name) => [name, options[name as never]]))
    super({ ...own, unetConfig: withConcat(o.unetConfig, key, o.varianceType !== 'fixed'), clipDenoised: false })
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
