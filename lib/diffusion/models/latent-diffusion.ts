/** Diffusion of an autoencoder's latents: Rombach et al. 2022, by the names of CompVis' ddpm.py LatentDiffusion. */
import type { JsonObject } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import { LoraNetwork } from '../../nn/lora/lora'
import type { StateDict } from '../../nn/weights'
import { definedOnly, type Parsed, parseOptions } from '../../options'
import { Stage } from '../../stages/stage'
import { TextStage } from '../../stages/text/text-stage'
import { checkShape, checkTensor, type Shape, Tensor } from '../../tensor'
import { readCompVisConfig } from '../formats/compvis-config'
import { optionsOfConfig, stageOptions } from '../formats/latent-config'
import { type LatentConfigOptions, optionsFromConfig } from '../formats/latent-from-config'
import { readLatentPipeline } from '../formats/latent-pipeline'
import { pretrainedFolder, whichWeights } from '../formats/pretrained'
import { readSingleFile, type SingleFileOptions } from '../formats/single-file'
import { writeLatent } from '../formats/write-latent'
import { type Cond, firstRows, given } from '../latent/conditioning'
import { quantizing } from '../latent/first-stage'
import { latentLoop } from '../latent/latent-loop'
import { checkOwnImage, smallerMask } from '../latent/own-image'
import { corrected } from '../latent/score-corrector'
import { updatedText } from '../latent/text-updates'
import type { DDPMOptions, PretrainedOptions } from '../options/ddpm-options'
import {
  type LatentDiffusionOptions,
  type LatentInterpolateOptions,
  type LatentLoggedImages,
  type LatentLogImagesOptions,
  type LatentLoopOptions,
  type LatentLossOptions,
  type LatentPMeanVarianceOptions,
  type LatentPSampleOptions,
  type LatentSampleOptions,
  type LatentTrainOptions,
  latentInterpolateSchema,
  latentLogImagesSchema,
  latentLoopSchema,
  latentMeanSchema,
  latentSampleSchema,
  latentStepSchema,
  type ProgressiveOptions,
  type PromptOptions,
  progressiveSchema,
  type ReturnX0,
  type SampleLogOptions,
  type SaveLatentOptions,
  sampleLogSchema,
  saveLatentSchema,
} from '../options/latent-options'
import type { Intermediates } from '../options/sampling-options'
import type { Core } from '../process/core'
import { conditionOf } from '../process/given-condition'
import type { LossResult } from '../process/losses'
import { drawNoise, predictEpsFromXstart } from '../process/process'
import type { Timesteps } from '../process/timesteps'
import { priorBpd } from '../sampling/bits-per-dim'
import type { LoopResult } from '../sampling/loop'
import type { TrainResult } from '../training/training-step'
import type { Batch } from './batch'
import { LatentModel } from './latent-model'
import { latentPictures } from './latent-pictures'
import type { LoraSource, UpdatedText, WithLorasOptions } from './lora'

/** Of pMeanVariance: mean, variance and its logarithm; [n, 1, ...] but for a learned variance. */
export interface MeanVariance {
  modelMean: Tensor
  posteriorVariance: Tensor
  posteriorLogVariance: Tensor
  /** With returnX0. */
  x0?: Tensor
}

/** Of progressiveDenoising. */
export interface ProgressiveResult {
  samples: Tensor
  /** Predictions of x_0. */
  intermediates: Tensor[]
}

/**
 * What differs from DDPM: images are encoded by a first stage and the network's samples decoded by it; conditions are made by a
 * conditioning stage; `logvar` is a part of the loss; the model's clipDenoised is false, whatever it is given; with 'ddpm' a
 * mask's image is mixed in after each step (see pSampleLoop).
 */
export class LatentDiffusion extends LatentModel {
  /**
   * A model from a folder of a diffusers pipeline with a first stage (StableDiffusionPipeline, LDMTextToImagePipeline, LDMPipeline), or by its name on the Hugging
   * Face hub, as DDPM.fromPretrained. The stages' weights are read when they are first used. `sample` then takes the folder's
   * scheduler and 50 steps unless it is told others. Throws `not-found`, `io`, `bad-file`, `state-mismatch` and `unsupported`.
   */
  static override async fromPretrained(source: string, options: PretrainedOptions = {}): Promise<LatentDiffusion> {
    const { variant, weights: which, revision, onDownload, ...own } = options
    if (which !== undefined)
      throw invalidArgument('weights', 'nothing for a latent pipeline', whichWeights.check(which, 'weights'))
    const folder = await pretrainedFolder(source, variant, { revision, onDownload })
    const found = await readLatentPipeline(folder, { variant, stage: stageOptions(own) })
    const { options: said, weights, schedulerConfig, warnings } = found
    const model = new LatentDiffusion({ ...said, useEma: false, ...definedOnly(own) })
    model.schedulerConfig = schedulerConfig
    model.warn(warnings)
    return orDisposed(model, () => model.loadStateDict(weights))
  }

  /**
   * A model from a configuration of latent-diffusion or Stable Diffusion, a YAML file or what it holds: LatentDiffusion and its stages
   * by their `target`, their options by `params`. A ckpt_path is loaded as by initFromCkpt; that of a first stage when it is first used.
   * A frozen text encoder has no weights until a checkpoint brings them, or `condStage` is given. `options` override. Throws
   * `not-found`, `io`, `bad-file`, and `unknown-option` or `unsupported` with the field's name.
   */
  static override async fromConfig(
    source: string | JsonObject,
    options: LatentConfigOptions = {},
  ): Promise<LatentDiffusion> {
    return LatentDiffusion.openConfig(source, options, (said) => new LatentDiffusion(said))
  }

  /** @internal fromConfig of a class that `make` makes. */
  protected static async openConfig<M extends LatentDiffusion>(
    source: string | JsonObject,
    options: LatentConfigOptions,
    make: (options: LatentDiffusionOptions) => M,
  ): Promise<M> {
    const said = await readCompVisConfig(source)
    const model = make(optionsFromConfig(said, options))
    model.lrSchedule = said.lrSchedule
    model.warn(said.warnings)
    if (!said.checkpoint) return model
    const { path, ...init } = said.checkpoint
    return orDisposed(model, () => model.initFromCkpt(path, init))
  }

  /**
   * A model from one file by CompVis' names (.ckpt, .safetensors), as Stable Diffusion comes: with its YAML as `config`, or by names and
   * shapes alone, which do not say what Stable Diffusion 2 predicts (`parameterization`: 'v' unless given, which is among `warnings()`).
   * `weights`: averages in place of the weights; default: the averages where there are any and useEma (false) is not set. Stages are read
   * from the file when they are first used. Throws `not-found`, `io`, `bad-file`, `state-mismatch`, and `unsupported` where the configuration
   * does not follow.
   */
  static async fromSingleFile(file: string, options: SingleFileOptions = {}): Promise<LatentDiffusion> {
    const { options: said, init, warnings, lrSchedule } = await readSingleFile(file, options)
    const model = new LatentDiffusion(said)
    model.lrSchedule = lrSchedule
    model.warn(warnings)
    return orDisposed(model, () => model.initFromCkpt(file, init))
  }

  /** What the network says of x_t, by patches with splitInputParams: ddpm.py's apply_model. */
  async applyModel(xNoisy: Tensor, t: Timesteps, cond?: Cond): Promise<Tensor> {
    return this.predict(xNoisy, t, await given(cond, this.conditioningKey))
  }

  /** ddpm.py's _predict_eps_from_xstart: the noise of x_t and its x_0. */
  async predictEpsFromXstart(xT: Tensor, t: Timesteps, predXstart: Tensor): Promise<Tensor> {
    return this.call((core) => predictEpsFromXstart(core, xT, t, predXstart))
  }

  /** ddpm.py's _prior_bpd: KL(q(x_T | x_0) || N(0, 1)) of each sample in bits per dimension, [n]. */
  async priorBpd(xStart: Tensor): Promise<Tensor> {
    return this.call((core) => priorBpd(core, xStart))
  }

  // ---- losses ------------------------------------------------------------------------------------------------------

  /** @internal loss / exp(logvar[t]) + logvar[t]. */
  protected override get logvarInLoss(): boolean {
    return true
  }

  /** p_losses of latents. The order of the arguments is DDPM's; the condition is the option `cond` or `xc`. */
  override async pLosses(
    xStart: Tensor,
    t: Timesteps,
    noise?: Tensor,
    options: LatentLossOptions = {},
  ): Promise<LossResult> {
    return super.pLosses(xStart, t, noise, options)
  }

  override async lossAndGradients(
    xStart: Tensor,
    t: Timesteps,
    noise?: Tensor,
    options: LatentLossOptions = {},
  ): Promise<LossResult & { gradients: StateDict }> {
    return super.lossAndGradients(xStart, t, noise, options)
  }

  override async forward(x: Tensor, options: LatentLossOptions = {}): Promise<LossResult> {
    return super.forward(x, options)
  }

  /** trainBatch of latents: `x` are scaled ones, as getFirstStageEncoding gives them; the condition is the option `cond` or `xc`. */
  override async trainBatch(x: Tensor | Float32Array, options: LatentTrainOptions = {}): Promise<TrainResult> {
    const { cond, xc, ...rest } = options
    return this.call(async (core) => {
      const { made, ...told } = await this.conditionOf({ cond, xc })
      return this.optimize(core, x, { ...rest, ...told }, { ema: true, made })
    })
  }

  // ---- sampling ----------------------------------------------------------------------------------------------------

  /**
   * Images [n, c, height, width] in [-1, 1] of a prompt, of `cond`, or unconditional ones; with outputType 'latent' ddpm.py's sample.
   * `image` and `mask` are encoded, too. Intermediates and `onStep`'s states are latents; see previewLatents. Throws `invalid-argument`, and what pSampleLoop throws.
   */
  override async sample(options?: LatentSampleOptions & Intermediates<false>): Promise<Tensor>
  override async sample(options: LatentSampleOptions & Required<Intermediates<true>>): Promise<LoopResult>
  override async sample(options?: LatentSampleOptions & Intermediates): Promise<Tensor | LoopResult>
  override async sample(options?: LatentSampleOptions & Intermediates): Promise<Tensor | LoopResult> {
    const o = parseOptions('sample', options, latentSampleSchema)
    const { prompt, negativePrompt, height, width, outputType, batchSize, ...rest } = o
    const n = batchSize ?? (Array.isArray(prompt) ? prompt.length : prompt === undefined ? 16 : 1)
    const shape = [n, this.channels, ...this.#latentSize(height, width)]
    if (outputType === 'image') await checkOwnImage(o, shape, this.sampleShape[0], this.firstStageModel.factor)
    const own = await this.#ownImage(o, shape)
    const told = await this.#ofPrompts(o, n)
    // What is wrong with its weights is known before the first step.
    if (outputType === 'image') await this.firstStageModel.prepare?.()
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

  /**
   * Latents of `shape`. `cond` and `uncond` are of as many samples, or of one for all. With 'ddpm' (and no scheduler or jumps), ddpm.py's
   * p_sample_loop, a mask's image is mixed in after each step, the last included, with the noise of the timestep just done; with all
   * others before it, and at the end as it is.
   */
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates<false>): Promise<Tensor>
  override async pSampleLoop(
    shape: Shape,
    options: LatentLoopOptions & Required<Intermediates<true>>,
  ): Promise<LoopResult>
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates): Promise<Tensor | LoopResult>
  override async pSampleLoop(shape: Shape, options?: LatentLoopOptions & Intermediates): Promise<Tensor | LoopResult> {
    checkShape(shape)
    const o = parseOptions('pSampleLoop', options, latentLoopSchema)
    return this.call((core) => this.#latentLoop(core, shape, o))
  }

  async #latentLoop(
    core: Core,
    shape: Shape,
    given: Parsed<typeof latentLoopSchema>,
    temperatures?: readonly number[],
  ): Promise<Tensor | LoopResult> {
    const o = { ...given, seed: given.seed ?? this.nextSeed() }
    const prepared = await latentLoop(core, this, shape, o)
    const { cond, uncond, quantizeDenoised, scoreCorrector, correctorKwargs, noiseDropout, condNoise, ...rest } = o
    return this.loop(prepared.core, shape, { ...rest, ...prepared.options }, { ...prepared.extras, temperatures })
  }

  /**
   * ddpm.py's progressive_denoising: latents of `shape`, and as intermediates what x_0 was predicted to be, in the first step and where
   * logEveryT divides the timestep. A mask's image is mixed in after each step, and is no part of them. Throws what pSampleLoop throws.
   */
  async progressiveDenoising(shape: Shape, options: ProgressiveOptions = {}): Promise<ProgressiveResult> {
    checkShape(shape)
    const { temperature = 1, ...o } = parseOptions('progressiveDenoising', options, progressiveSchema)
    const all = parseOptions('progressiveDenoising', { ...o, returnIntermediates: true }, latentLoopSchema)
    const temperatures = typeof temperature === 'number' ? new Array(this.numTimesteps).fill(temperature) : temperature
    const result = await this.call((core) => this.#latentLoop(core, shape, all, temperatures))
    const { samples, predX0 } = result as LoopResult
    return { samples, intermediates: predX0.slice(1) }
  }

  /**
   * ddpm.py's sample_log: latents with the states on the way, by DDIM, whose defaults ddim.py's are, or by pSampleLoop, which eta and
   * ddimSteps are nothing to. Throws what pSampleLoop throws.
   */
  async sampleLog(options: SampleLogOptions): Promise<LoopResult> {
    const { ddim, ddimSteps, eta, batchSize, ...o } = parseOptions('sampleLog', options, sampleLogSchema)
    const shape = [batchSize, this.channels, this.imageSize, this.imageWidth]
    const logEveryT = o.logEveryT ?? 100
    const sampler = { sampler: 'ddim', steps: ddimSteps, eta, ddimDiscretize: 'uniform', logEveryT } as const
    return this.pSampleLoop(shape, { ...o, ...(ddim && sampler), returnIntermediates: true })
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
    { prompt, negativePrompt, cond, context, uncond, guidanceScale = 1 }: PromptOptions,
    n: number,
  ): Promise<{ cond?: Tensor; uncond?: Tensor }> {
    if (prompt === undefined) {
      if (negativePrompt !== undefined) throw invalidArgument('prompt', 'a text, to go with negativePrompt', prompt)
      const isTold = cond !== undefined || context !== undefined || this.network?.contextDim === undefined
      if (!isTold) throw invalidArgument('prompt', 'a text, or cond', prompt)
      return {}
    }
    if (cond !== undefined) throw invalidArgument('cond', 'nothing with prompt', cond)
    if (guidanceScale === 1 && negativePrompt !== undefined) {
      throw invalidArgument('guidanceScale', 'another than 1, to go with negativePrompt', guidanceScale)
    }
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
    const mask = o.mask && { mask: await smallerMask(o.mask, shape) }
    const image = await this.getFirstStageEncoding(await this.encodeFirstStage(o.image), { seed, sampleOffset })
    return { image, ...mask }
  }

  /** p(x_{t-1} | x_t) by the network; with returnX0 the predicted x_0, clipped and quantized where that is asked for, too. */
  override async pMeanVariance(
    x: Tensor,
    t: Timesteps,
    options: LatentPMeanVarianceOptions & ReturnX0 = {},
  ): Promise<MeanVariance> {
    const o = parseOptions('pMeanVariance', options, latentMeanSchema)
    return this.call(async (core) => {
      const step = await this.#step(core, x, o)
      return this.meanVariance(step.core, x, t, step.options, step.extras)
    })
  }

  /** One step: x_{t-1} from x_t; with returnX0 the predicted x_0, too. */
  override async pSample(x: Tensor, t: Timesteps, options?: LatentPSampleOptions & ReturnX0<false>): Promise<Tensor>
  override async pSample(
    x: Tensor,
    t: Timesteps,
    options: LatentPSampleOptions & Required<ReturnX0<true>>,
  ): Promise<{ sample: Tensor; x0: Tensor }>
  override async pSample(
    x: Tensor,
    t: Timesteps,
    options: LatentPSampleOptions & ReturnX0 = {},
  ): Promise<Tensor | { sample: Tensor; x0?: Tensor }> {
    const { noiseDropout, ...o } = parseOptions('pSample', options, latentStepSchema)
    const made = await this.call(async (core) => {
      const step = await this.#step(core, x, o)
      return this.sampleStep(step.core, x, t, step.options, { ...step.extras, noiseDropout })
    })
    return o.returnX0 ? made : made.sample
  }

  /** A step's options in DDPM's terms, and what they have not. */
  async #step<O extends Parsed<typeof latentMeanSchema>>(core: Core, x: Tensor, o: O) {
    const { cond, quantizeDenoised, returnX0, returnCodebookIds, ...theirs } = o
    const { scoreCorrector: corrector, correctorKwargs: kwargs = {}, ...rest } = theirs
    if (returnCodebookIds) throw unsupported('returnCodebookIds')
    checkTensor(x, 'x')
    const options = cond ? { ...rest, ...(await given(cond, this.conditioningKey)) } : rest
    const extras = { returnX0, codebook: await quantizing(this.firstStageModel, quantizeDenoised) }
    if (!corrector) return { core, options, extras }
    const { y: labels, context, vector, concat, ...others } = options
    const condition = await conditionOf(core, x.shape, { labels, argument: 'y', context, vector, concat })
    return { core: corrected(core, { corrector, kwargs, model: this, cond, condition }), options: others, extras }
  }

  /** Images between those of two seeds, as DDPM.interpolate, of a prompt or a `context`. Throws what `sample` throws. */
  override async interpolate(options: LatentInterpolateOptions): Promise<Tensor> {
    const { prompt, negativePrompt, ...o } = parseOptions('interpolate', options, latentInterpolateSchema)
    const { cond, uncond } = await this.#ofPrompts({ ...o, prompt, negativePrompt }, o.count)
    const told = {
      ...(cond && { context: await firstRows(cond, o.count) }),
      ...(uncond && { negativeContext: await firstRows(uncond, o.count) }),
    }
    return this.decodeFirstStage(await super.interpolate({ ...o, ...told }))
  }

  /**
   * ddpm.py's log_images of this class: a batch's first `N` (8) images, their reconstructions and conditions, latents with noise, samples,
   * and pictures of how they come about. Texts are given as they are, not as pictures; samplesOutpainting draws what samplesInpainting
   * keeps, as Stability's ddpm.py has it, where CompVis' draws the same twice; samplesX0Quantized are quantized by DDIM, too. Throws `aborted`.
   */
  override async logImages(batch: Batch, options: LatentLogImagesOptions = {}): Promise<Partial<LatentLoggedImages>> {
    const o = parseOptions('logImages', options, latentLogImagesSchema)
    if (o.steps !== undefined && options.ddimSteps !== undefined)
      throw invalidArgument('steps', 'nothing with ddimSteps', o.steps)
    const { numTimesteps: T, logEveryT } = this
    const ddimSteps = o.steps ?? o.ddimSteps ?? Math.max(1, Math.min(200, Math.floor(T / 2)))
    const byDdim = { sampler: 'ddim', steps: ddimSteps, eta: o.ddimEta } as const
    const every = Math.max(1, Math.round((logEveryT * ddimSteps) / T))
    const way = options.ddimSteps === null ? { logEveryT } : { ...byDdim, logEveryT: every }
    const { seed, signal } = o
    const draw = (z: Tensor, own: LatentLoopOptions) =>
      this.pSampleLoop(z.shape, { ...way, seed, signal, ...own, returnIntermediates: true })
    const progress = async (z: Tensor, cond?: Cond) =>
      (await this.progressiveDenoising(z.shape, { seed, signal, ...(cond && { cond }) })).intermediates
    const noise = async ({ shape }: Tensor, t: number) =>
      seed === undefined ? undefined : this.call((core) => drawNoise(core, shape, { seed, sampleOffset: 0, step: t }))
    return latentPictures(this, batch, { ...o, draw, progress, noise })
  }

  // ---- files -------------------------------------------------------------------------------------------------------

  /**
   * Writes a folder that fromPretrained opens: a pipeline of diffusers, where these have such a model, else a layout of our own; see
   * `layout`. Stages are written as they are, the network's averaged weights where there are any (`weights`). A model from no folder gets
   * the scheduler of ddim.py. `maxShardSize`, `variant`: as of DDPM.savePretrained. Throws `io`, and `unsupported` with the option's name
   * for what the layout can't express, and with a weightFormat of the model or a stage.
   */
  override async savePretrained(folder: string, options: SaveLatentOptions = {}): Promise<void> {
    const { weights, ...o } = parseOptions('savePretrained', options, saveLatentSchema)
    this.network?.parameters.requireWide('savePretrained')
    for (const stage of [this.firstStageModel, this.condStageModel])
      if (stage instanceof Stage) stage.parameters.requireWide('savePretrained')
    if (this.network instanceof LoraNetwork) {
      using plain = await this.merged()
      return await plain.savePretrained(folder, options)
    }
    const { network, firstStageModel: firstStage, condStageModel, conditioningKey, scaleFactor } = this
    const written = {
      ...{ network, firstStage, conditioningKey, scaleFactor, schedulerConfig: this.schedulerConfig },
      condStage: condStageModel === (firstStage as unknown) ? undefined : condStageModel,
      weights: await this.networkWeights(this.written(weights)),
      scheduler: this.writtenScheduler(),
      own: [...(this.splitInputParams ? ['splitInputParams'] : []), ...(this.condIds ? ['numTimestepsCond'] : [])],
      config: () => this.config,
    }
    this.warn(await writeLatent(folder, written, o))
  }

  /**
   * As DDPM's, of the UNet, by diffusers' names, too, and of CLIP, whose are always made part of its weights. The new model has stages of
   * its own.
   */
  override async withLoras(loras: readonly LoraSource[], options: WithLorasOptions = {}): Promise<LatentDiffusion> {
    return (await super.withLoras(loras, options)) as LatentDiffusion
  }

  override async merged(): Promise<LatentDiffusion> {
    return (await super.merged()) as LatentDiffusion
  }

  /** @internal */
  protected override async again(options: DDPMOptions): Promise<LatentDiffusion> {
    const { condStageModel: stage } = this
    const tokenizer = stage instanceof TextStage ? await stage.tokenizerFolder() : undefined
    const settings = { ...stageOptions(options), tokenizer }
    return new LatentDiffusion(optionsOfConfig(options as unknown as JsonObject, settings))
  }

  /** @internal */
  protected override get updatedText(): UpdatedText | undefined {
    return updatedText(this.condStageModel)
  }
}

/** The model after it was loaded. */
async function orDisposed<M extends LatentModel>(model: M, load: () => Promise<unknown>): Promise<M> {
  try {
    await load()
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}

function unsupported(method: string): DiffusionError {
  return new DiffusionError('unsupported', `${method} is not there for latent models`, { argument: method })
}
