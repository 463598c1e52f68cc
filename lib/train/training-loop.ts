/** The loop of a training, with everything open: steps, checkpoints, and what is left whole when one fails. */
import path from 'node:path'
import type { ImageBatch, TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/ddpm'
import { DiffusionError } from '../errors'
import { pauses } from '../pause'
import { type Checkpoint, type RunState, saveCheckpoint } from '../run/checkpoint'
import { learningRate } from '../run/lr-schedule'
import { saveModel } from '../run/model-file'
import type { ResolvedTrainOptions } from '../run/options'
import { Tensor } from '../tensor'
import type { RunResult, TrainHooks } from './hooks'
import type { Journal } from './journal'
import type { StepMetrics } from './metrics'
import { drawPictures, isPictureStep } from './pictures'

export class TrainingLoop {
  #checkpoint: string | undefined
  #savedStep = -1
  /** False while a step is under way, and after one that failed: what is in memory then is no state to go on from. */
  #whole = true
  /** Of the model's warnings, those that were told. */
  readonly #warned = new Set<string>()

  constructor(
    readonly ddpm: DDPM,
    readonly data: TrainingData,
    readonly options: ResolvedTrainOptions,
    readonly hooks: TrainHooks,
    readonly journal: Journal,
  ) {}

  async run(from: Checkpoint | undefined): Promise<RunResult> {
    const { options, hooks, journal } = this
    const { steps, batchSize, accumulate } = options
    let step = from?.state.step ?? 0
    this.#checkpoint = from?.folder
    this.#savedStep = from?.state.step ?? -1
    const batches = this.data.batches(step * accumulate * batchSize, batchSize, options.prefetch)
    let metrics: StepMetrics | undefined
    try {
      while (step < steps && !hooks.signal?.aborted) {
        metrics = await this.#step(step, () => batches.next())
        step++
        await journal.step(metrics)
        await hooks.onStep?.(metrics)
        if (step % options.checkpointEvery === 0) await this.#save(step)
        if (isPictureStep(step, options)) await this.#draw(step)
        for (const warning of this.#newWarnings()) await journal.warn(new DiffusionError('unsupported', warning))
      }
      await this.#save(step)
    } catch (error) {
      await this.#rescue(step)
      throw error
    } finally {
      await batches.stop()
    }
    const model = step >= steps ? path.join(await journal.folder(), 'model.safetensors') : undefined
    if (model) await saveModel(model, this.ddpm, { config: options.model, training: this.#summary(step, metrics) })
    return { step, stopped: step < steps, checkpoint: this.#checkpoint!, model, metrics }
  }

  /** One optimizer step: `accumulate` batches forward and backward, then the update. */
  async #step(step: number, nextBatch: () => Promise<ImageBatch>): Promise<StepMetrics> {
    const { batchSize, accumulate } = this.options
    const start = performance.now()
    const lr = learningRate(step, this.options)
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
    for (const [i, { images, shape, labels }] of batches.entries()) {
      using x = Tensor.wrap(images, shape)
      const result = await this.ddpm.trainBatch(x, {
        y: labels,
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

  async #save(step: number): Promise<void> {
    if (step === this.#savedStep) return
    this.journal.sync() // so that no checkpoint is ahead of its metrics, not even after a power failure
    const folder = await this.#write(step)
    await this.hooks.onCheckpoint?.({ step, folder })
  }

  async #write(step: number): Promise<string> {
    const { ddpm, data, options, hooks, journal } = this
    const out = await journal.folder()
    const training = await ddpm.trainingState()
    const state: RunState = {
      format: 'ddpm-native checkpoint',
      version: 1,
      step,
      samples: step * options.accumulate * options.batchSize,
      optimizerStep: training.optimizerStep,
      emaUpdates: training.emaUpdates,
      draws: training.draws ?? 0,
      ...(training.lossScale && { lossScale: training.lossScale }),
      data: { fingerprint: data.fingerprint, images: data.length },
      options: { ...options, out, data: savedData(options.data) },
      time: new Date().toISOString(),
    }
    const { keep } = options
    const folder = await saveCheckpoint(out, state, training, { keep, onWarning: (w) => hooks.onWarning?.(w) })
    this.#checkpoint = folder
    this.#savedStep = step
    return folder
  }

  /** After an error, whichever: the steps since the last checkpoint, where they are whole. The error is what is reported. */
  async #rescue(step: number): Promise<void> {
    if (!this.#whole || step === this.#savedStep || step === 0) return
    try {
      const folder = await this.#write(step)
      await this.hooks.onCheckpoint?.({ step, folder })
    } catch {
      // as much as could be done
    }
    try {
      this.journal.sync()
    } catch {
      // the line of this step is lost, which the error that is reported says
    }
  }

  /** Of the model. */
  #newWarnings(): string[] {
    const fresh = this.ddpm.warnings().filter((warning) => !this.#warned.has(warning))
    for (const warning of fresh) this.#warned.add(warning)
    return fresh
  }

  /** Sampling changes nothing in the training. */
  async #draw(step: number): Promise<void> {
    const { ddpm, data, options, hooks, journal } = this
    await journal.pictures(step, () => drawPictures(ddpm, data, options, hooks.signal))
  }

  #summary(step: number, metrics: StepMetrics | undefined): Record<string, unknown> {
    const { batchSize, accumulate, lr, warmup, lrSchedule, seed, flip } = this.options
    return {
      step,
      images: this.data.length,
      batchSize,
      accumulate,
      lr,
      warmup,
      lrSchedule,
      seed,
      flip,
      loss: metrics?.loss,
    }
  }
}

/** An object of the caller's is no option that could be saved: a resume is given it again. */
function savedData(data: ResolvedTrainOptions['data']): string {
  return typeof data === 'string' ? data : ''
}
