/** The loop of a training, with everything open: steps, checkpoints, and what is left whole when one fails. */
import path from 'node:path'
import type { ImageBatch, TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import type { TrainingState } from '../diffusion/training/training-step'
import { DiffusionError } from '../errors'
import { pauses } from '../pause'
import { Tensor } from '../tensor'
import {
  bestFolder,
  type Checkpoint,
  openCheckpoint,
  type RunState,
  readTrainingState,
  saveCheckpoint,
  saveState,
} from '../train/checkpoint'
import { learningRate } from '../train/lr-schedule'
import { type StepMetrics, scalarsOf } from '../train/metrics'
import { saveModel } from '../train/model-file'
import { Monitor } from '../train/monitor'
import type { ResolvedTrainOptions } from '../train/options'
import { isEvaluated, type Scalars } from '../train/scalars'
import type { Fid } from './fid'
import { heldOutLosses } from './held-out-losses'
import type { RunResult, TrainHooks } from './hooks'
import type { Journal } from './journal'
import { trainedLabels } from './labels'
import { drawPictures, isPictureStep } from './pictures'

/** What a training works with. */
export interface Opened {
  readonly data: TrainingData
  readonly heldOut: TrainingData | undefined
  readonly fid: Fid | undefined
  readonly ddpm: DDPM
  readonly options: ResolvedTrainOptions
  readonly hooks: TrainHooks
  readonly journal: Journal
}

export class TrainingLoop {
  readonly #o: Opened
  readonly #monitor: Monitor | undefined
  /** Completed steps. */
  #done: number
  /** Those of the last evaluation. */
  #evaluated: number
  #checkpoint: string | undefined
  #saved: { readonly step: number; readonly evaluated: number } | undefined
  /** False while a step is under way, and after one that failed: what is in memory then is no state to go on from. */
  #whole = true
  /** Of the model's warnings, those that were told. */
  readonly #warned = new Set<string>()

  readonly #labelOf: ReturnType<typeof trainedLabels>

  constructor(opened: Opened, from: Checkpoint | undefined) {
    this.#o = opened
    this.#labelOf = trainedLabels(opened.ddpm, opened.data)
    const { monitor: name, patience, minDelta } = opened.options
    this.#monitor = name === undefined ? undefined : new Monitor({ name, patience, minDelta }, from?.state.monitor)
    this.#done = from?.state.step ?? 0
    this.#evaluated = from?.state.evaluated ?? 0
    this.#checkpoint = from?.folder
    this.#saved = from && { step: this.#done, evaluated: this.#evaluated }
  }

  async run(): Promise<RunResult> {
    const { data, options, hooks, journal } = this.#o
    const { steps, batchSize, accumulate } = options
    const batches = data.batches(this.#done * accumulate * batchSize, batchSize, options.prefetch)
    let metrics: StepMetrics | undefined
    try {
      await this.#evaluate() // where a run was stopped in the middle of an evaluation
      while (this.#done < steps && !hooks.signal?.aborted && !this.#monitor?.over) {
        metrics = await this.#step(this.#done, () => batches.next())
        this.#done++
        this.#monitor?.add(scalarsOf(metrics))
        await journal.step(metrics)
        await hooks.onStep?.(metrics)
        await this.#evaluate()
        if (this.#done % options.checkpointEvery === 0) await this.#save()
        if (isPictureStep(this.#done, options)) await this.#draw()
        for (const warning of this.#newWarnings()) await journal.warn(new DiffusionError('unsupported', warning))
      }
      await this.#save()
    } catch (error) {
      await this.#rescue()
      throw error
    } finally {
      await batches.stop()
    }
    return this.#result(metrics)
  }

  async #result(metrics: StepMetrics | undefined): Promise<RunResult> {
    const why = this.#done < this.#o.options.steps ? this.#monitor?.over : undefined
    const stopped = this.#done >= this.#o.options.steps ? false : why === undefined ? 'signal' : 'early'
    const run = await this.#o.journal.folder()
    const monitor = this.#monitor?.state
    const best = monitor?.best && { ...monitor.best, checkpoint: bestFolder(run, { monitor })! }
    const model = stopped === 'signal' ? undefined : path.join(run, 'model.safetensors')
    if (model) await this.#export(model, stopped === 'early' ? best : undefined, metrics)
    return {
      step: this.#done,
      stopped,
      ...(why && { why }),
      ...(best && { best }),
      checkpoint: this.#checkpoint!,
      model,
      metrics,
    }
  }

  /** The model as it is, or as it was at its best. */
  async #export(file: string, best: RunResult['best'], metrics: StepMetrics | undefined): Promise<void> {
    const { ddpm, options } = this.#o
    if (best) await ddpm.loadTrainingState(await readTrainingState(await openCheckpoint(best.checkpoint)))
    const own = best ? { step: best.step, [String(options.monitor)]: best.value } : { loss: metrics?.loss }
    if (options.model.lora) await ddpm.saveLora(path.join(path.dirname(file), 'lora.safetensors'))
    const { freeze: _, lora, ...config } = options.model
    using merged = lora ? await ddpm.merged() : undefined
    await saveModel(file, merged ?? ddpm, { config, training: { ...this.#summary(), ...own } })
  }

  /**
   * Every validationEvery steps the held-out images, every fidEvery steps samples, and what the monitor says. What is aborted is done
   * by the resumed run.
   */
  async #evaluate(): Promise<void> {
    const { heldOut, fid, options, hooks, journal } = this.#o
    const { validationEvery, fidEvery = 0, monitor = '' } = options
    const step = this.#done
    const due = (every: number) => step > this.#evaluated && step % every === 0
    const ofHeldOut = due(validationEvery) && (heldOut !== undefined || this.#monitor !== undefined)
    const ofSamples = due(fidEvery) && fid !== undefined
    if (!ofHeldOut && !ofSamples) return
    const losses = ofHeldOut && heldOut ? await this.#unlessAborted(() => this.#losses(heldOut)) : {}
    const distance = losses && ofSamples ? await this.#unlessAborted(() => fid.evaluate(this.#o.ddpm, step, hooks)) : {}
    if (!losses || !distance) return
    const scalars = { ...losses, ...distance }
    const asked = isEvaluated(monitor) ? monitor in scalars : ofHeldOut
    if (Object.keys(scalars).length === 0 && !asked) return
    this.#evaluated = step
    const improved = (asked && this.#monitor?.look(step, scalars)) || false
    if (Object.keys(scalars).length > 0) await journal.evaluation(step, scalars)
    await hooks.onEvaluation?.({ step, scalars, best: this.#monitor?.best, improved })
    if (improved || this.#saved?.step === step) await this.#save()
  }

  async #losses(heldOut: TrainingData): Promise<Scalars> {
    const { ddpm, options, hooks } = this.#o
    const { batchSize, seed, validationCount: limit } = options
    return heldOutLosses(ddpm, heldOut, { limit, batchSize, seed, signal: hooks.signal })
  }

  /** Undefined where the signal ended it. */
  async #unlessAborted(evaluate: () => Promise<Scalars>): Promise<Scalars | undefined> {
    try {
      return await evaluate()
    } catch (error) {
      if (error instanceof DiffusionError && error.code === 'aborted') return undefined
      throw error
    }
  }

  /** One optimizer step: `accumulate` batches forward and backward, then the update. */
  async #step(step: number, nextBatch: () => Promise<ImageBatch>): Promise<StepMetrics> {
    const { ddpm, options } = this.#o
    const { batchSize, accumulate } = options
    const start = performance.now()
    const lr = learningRate(step, options)
    const sums = { loss: 0, loss_simple: 0, loss_vlb: 0 }
    let gradNorm: number | null = null
    let lossScale: number | undefined
    // All of them first: an image that can't be read then leaves the state as it was.
    const batches: ImageBatch[] = []
    const pause = pauses() // batches that are in memory come without the event loop turning, which signals need
    while (batches.length < accumulate) {
      batches.push(await nextBatch())
      await pause()
    }
    this.#whole = false
    for (const [i, { images, shape, labels, augmentation }] of batches.entries()) {
      using x = Tensor.wrap(images, shape)
      const result = await ddpm.trainBatch(x, {
        y: this.#labelOf(shape[0], labels),
        vector: augmentation && Tensor.wrap(augmentation, [shape[0], augmentation.length / shape[0]]),
        step: step * accumulate + i, // names the noise, so each batch must have its own
        update: i === accumulate - 1,
        accumulate,
        lr,
      })
      sums.loss += result.loss / accumulate
      sums.loss_simple += result.lossDict['train/loss_simple'] / accumulate
      sums.loss_vlb += result.lossDict['train/loss_vlb'] / accumulate
      gradNorm = result.gradNorm ?? null
      lossScale = result.lossScale
    }
    this.#whole = true
    const seconds = (performance.now() - start) / 1000
    return {
      step: step + 1,
      ...sums,
      gradNorm,
      ...(lossScale !== undefined && { lossScale }),
      lr,
      imagesPerSecond: (batchSize * accumulate) / seconds,
      time: new Date().toISOString(),
    }
  }

  async #save(): Promise<void> {
    const { journal, hooks } = this.#o
    const [step, evaluated] = [this.#done, this.#evaluated]
    if (step === this.#saved?.step && evaluated === this.#saved.evaluated) return
    journal.sync() // so that no checkpoint is ahead of its metrics, not even after a power failure
    if (step === this.#saved?.step) {
      const { draws, emaUpdates, optimizerStep, lossScale } = (await openCheckpoint(this.#checkpoint!)).state
      const out = await journal.folder()
      await saveState(out, this.#state(out, { draws, emaUpdates, optimizerStep, lossScale }))
      this.#saved = { step, evaluated }
      return
    }
    const folder = await this.#write()
    await hooks.onCheckpoint?.({ step, folder })
  }

  async #write(): Promise<string> {
    const { ddpm, options, hooks, journal } = this.#o
    const out = await journal.folder()
    const training = await ddpm.trainingState()
    const state = this.#state(out, training)
    const folder = await saveCheckpoint(out, state, training, {
      keep: options.keep,
      onWarning: (w) => hooks.onWarning?.(w),
    })
    this.#checkpoint = folder
    this.#saved = { step: state.step, evaluated: this.#evaluated }
    return folder
  }

  /** `of`: the model's own counters. */
  #state(out: string, of: Pick<TrainingState, 'optimizerStep' | 'emaUpdates' | 'draws' | 'lossScale'>): RunState {
    const { data, heldOut, fid, options } = this.#o
    const { identity: extractor } = fid?.extractor ?? {}
    const dataState = ({ fingerprint, length }: TrainingData) => ({ fingerprint, images: length })
    return {
      format: 'ddpm-native checkpoint',
      version: 1,
      step: this.#done,
      samples: this.#done * options.accumulate * options.batchSize,
      optimizerStep: of.optimizerStep,
      emaUpdates: of.emaUpdates,
      draws: of.draws ?? 0,
      ...(of.lossScale && { lossScale: of.lossScale }),
      data: dataState(data),
      ...(heldOut && { heldOut: dataState(heldOut) }),
      ...(extractor !== undefined && { extractor }),
      ...(this.#evaluated > 0 && { evaluated: this.#evaluated }),
      ...(this.#monitor && { monitor: this.#monitor.state }),
      options: { ...options, out, ...withoutObjects(options) },
      time: new Date().toISOString(),
    }
  }

  /** After an error, whichever: the steps since the last checkpoint, where they are whole. The error is what is reported. */
  async #rescue(): Promise<void> {
    const { hooks, journal } = this.#o
    const step = this.#done
    if (!this.#whole || step === this.#saved?.step || step === 0) return
    try {
      const folder = await this.#write()
      await hooks.onCheckpoint?.({ step, folder })
    } catch {
      // as much as could be done
    }
    try {
      journal.sync()
    } catch {
      // the line of this step is lost, which the error that is reported says
    }
  }

  /** Of the model. */
  #newWarnings(): string[] {
    const fresh = this.#o.ddpm.warnings().filter((warning) => !this.#warned.has(warning))
    for (const warning of fresh) this.#warned.add(warning)
    return fresh
  }

  /** Sampling changes nothing in the training. */
  async #draw(): Promise<void> {
    const { ddpm, data, options, hooks, journal } = this.#o
    await journal.pictures(this.#done, () => drawPictures(ddpm, data, options, hooks.signal))
  }

  #summary(): Record<string, unknown> {
    const { data, options } = this.#o
    const { batchSize, accumulate, lr, scaleLr, warmup, lrSchedule, seed, flip, augment } = options
    const own = { batchSize, accumulate, lr, scaleLr, warmup, lrSchedule, seed, flip, augment }
    return { step: this.#done, images: data.length, ...own }
  }
}

/** An object of the caller's is no option that could be saved: a resume is given it again. */
function withoutObjects({ data, validation, inception }: ResolvedTrainOptions) {
  const saved = <T>(value: T) => (typeof value === 'object' ? '' : (value as Exclude<T, object>))
  return { data: saved(data), validation: saved(validation), inception: saved(inception) }
}
