/** A training run: images in, checkpoints, metrics and pictures out. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { type ImageBatch, ImageFolder, type UnreadableFile } from '../data/image-folder'
import { encodeImage } from '../data/image-format'
import { DDPM } from '../diffusion/ddpm'
import type { DDPMOptions } from '../diffusion/ddpm-options'
import { DiffusionError, invalidArgument } from '../errors'
import { ioError } from '../file-errors'
import { pauses } from '../pause'
import { Tensor } from '../tensor'
import {
  type Checkpoint,
  listCheckpoints,
  openCheckpoint,
  type RunState,
  readTrainingState,
  removeLeftovers,
  saveCheckpoint,
} from './checkpoint'
import { EventFile, type EventImage } from './event-file'
import { learningRate } from './lr-schedule'
import { MetricsLog, type StepMetrics } from './metrics'
import { saveModel } from './model-file'
import { type ResolvedTrainOptions, resolveTrainOptions, type TrainOptions, withClasses } from './options'
import { drawPictures, isPictureStep, nextPictureStep } from './pictures'
import { RunFolder } from './run-folder'

export interface TrainStart {
  /** Steps that are done already: not 0 after a resume. */
  readonly step: number
  readonly options: ResolvedTrainOptions
  readonly images: number
  readonly unreadable: readonly UnreadableFile[]
  /** Numbers that are trained. */
  readonly parameters: number
  readonly device: string
  /** The step after which there are the next pictures; undefined without any. */
  readonly firstPicture: number | undefined
}

/** Called in order, between two steps; the training waits for what they return. */
export interface TrainHooks {
  /** Once, before the first step: what is trained on what, and where. */
  onStart?(start: TrainStart): unknown
  /** After each step, with its loss and how long it took. */
  onStep?(metrics: StepMetrics): unknown
  /** After each checkpoint that is complete. */
  onCheckpoint?(o: { step: number; folder: string }): unknown
  /** After each picture of samples that was written. */
  onSamples?(o: { step: number; file: string }): unknown
  /** At once for each file that is no readable image; the training goes on without it. */
  onUnreadable?(file: UnreadableFile): unknown
  /**
   * Something went wrong that does not end the training: a picture or events that could not be written, an old checkpoint that can't
   * be removed, a run folder that was renamed, steps that the device can't record.
   */
  onWarning?(warning: DiffusionError): unknown
  /** Ends the training after the step under way, with a checkpoint. Default: none. */
  signal?: AbortSignal
}

export interface RunResult {
  readonly step: number
  /** True where the signal ended it before the last step. */
  readonly stopped: boolean
  /** Folder of the newest checkpoint. */
  readonly checkpoint: string
  /** The exported model, once all steps are done. */
  readonly model?: string
  /** The last step's; undefined where no step was left to do. */
  readonly metrics?: StepMetrics
}

/**
 * new Trainer({ data: 'photos', out: 'runs/photos' }).run()
 *
 * A resumed run computes what an unstopped one would have, to the bit, on one backend and machine. Only one training at a time
 * may use a run folder.
 */
export class Trainer {
  readonly #given: TrainOptions

  /** Paths are those of now, wherever the working directory is later. Throws `unknown-option` and `invalid-argument`. */
  constructor(options: TrainOptions) {
    this.#given = withAbsolutePaths(options)
    if (!options.resume) resolveTrainOptions(options)
    else if (typeof options.out !== 'string') resolveTrainOptions(options)
  }

  /**
   * Throws `busy` where another training uses the run folder, `io`, `not-found` and `bad-file` for files, `not-finite` when the loss
   * is no number any more, and what a hook throws. What was saved before stays; where the steps since then are whole, they are saved
   * before it throws.
   */
  async run(hooks: TrainHooks = {}): Promise<RunResult> {
    const folder = await RunFolder.open(this.#given.out)
    try {
      await removeLeftovers(folder.path)
      return await this.#locked(folder, hooks)
    } finally {
      await folder.close()
    }
  }

  async #locked(folder: RunFolder, hooks: TrainHooks): Promise<RunResult> {
    const checkpoint = await this.#checkpointToResume()
    const resolved = resolveTrainOptions(this.#given, checkpoint?.state)
    const { unetConfig } = resolved.model
    if (unetConfig.imageWidth !== undefined) {
      throw invalidArgument(
        'model.unetConfig.imageWidth',
        'nothing: trainings are of square images',
        unetConfig.imageWidth,
      )
    }
    const data = await ImageFolder.open(resolved.data, {
      size: Number(unetConfig.imageSize),
      channels: unetConfig.inChannels === 1 ? 1 : 3,
      background: resolved.background,
      svg: resolved.svg,
      flip: resolved.flip,
      classes: resolved.classes,
      seed: resolved.seed,
      cacheBytes: resolved.cacheBytes,
      onUnreadable: hooks.onUnreadable,
    })
    if (checkpoint) refuseOtherData(data, checkpoint.state)
    const named = data.classNames !== undefined && !checkpoint // a checkpoint's options have the names already
    const options = named ? withClasses(resolved, data.classNames!) : resolved

    const { seed, device, precision } = options
    const ddpm = new DDPM({ ...options.model, seed, device, precision } as unknown as DDPMOptions)
    try {
      const { lr, betas, eps, weightDecay, maxGradNorm } = options
      ddpm.configureOptimizers({ lr, betas, eps, weightDecay, maxGradNorm })
      if (checkpoint) await ddpm.loadTrainingState(await readTrainingState(checkpoint))
      const step = checkpoint?.state.step ?? 0
      await hooks.onStart?.({
        step,
        options,
        images: data.length,
        unreadable: data.unreadable,
        parameters: ddpm.parameterCount,
        device: ddpm.device.name,
        firstPicture: nextPictureStep(step, options),
      })
      return await new Run(ddpm, data, options, hooks, folder).train(checkpoint)
    } finally {
      ddpm.dispose()
    }
  }

  async #checkpointToResume(): Promise<Checkpoint | undefined> {
    const { out, resume } = this.#given
    const found = (await listCheckpoints(out)).length > 0
    if (!found) return undefined // killed before its first checkpoint, or new
    if (resume) return openCheckpoint(out)
    throw new DiffusionError(
      'invalid-argument',
      `${out} holds a training already: resume it, or choose another folder`,
      {
        argument: 'out',
        expected: 'a new run folder, or resume',
        received: out,
      },
    )
  }
}

function withAbsolutePaths(options: TrainOptions): TrainOptions {
  const absolute = (file: string) => (typeof file === 'string' ? path.resolve(file) : file) // others are refused later
  const given = { ...options }
  for (const name of ['data', 'out', 'classes'] as const) {
    if (given[name] !== undefined && given[name] !== 'folders') given[name] = absolute(given[name])
  }
  return given
}

function refuseOtherData(data: ImageFolder, state: RunState): void {
  if (data.fingerprint === state.data.fingerprint) return
  throw new DiffusionError(
    'invalid-argument',
    `${data.folder} is not what this run was trained on: ${state.data.images} readable images then, ${data.length} now, ` +
      'and not under the same names or not in the same classes; a resumed run would not continue the same training',
    { argument: 'data', expected: `${state.data.images} images`, received: `${data.length} images` },
  )
}

function isIo(error: unknown): error is DiffusionError {
  return error instanceof DiffusionError && error.code === 'io'
}

/** By ddpm.py's names, where it has one. */
function scalarsOf(metrics: StepMetrics): Record<string, number> {
  return {
    'train/loss': metrics.loss,
    'train/loss_simple': metrics.loss_simple,
    'train/loss_vlb': metrics.loss_vlb,
    ...(metrics.gradNorm !== null && { 'train/grad_norm': metrics.gradNorm }),
    lr_abs: metrics.lr,
    images_per_second: metrics.imagesPerSecond,
  }
}

/** The loop itself, with everything open. */
class Run {
  #checkpoint: string | undefined
  #savedStep = -1
  /** False while a step is under way, and after one that failed: what is in memory then is no state to go on from. */
  #whole = true
  #eventsFail = false
  /** Of the model's warnings, those that were told. */
  readonly #warned = new Set<string>()

  constructor(
    readonly ddpm: DDPM,
    readonly data: ImageFolder,
    readonly options: ResolvedTrainOptions,
    readonly hooks: TrainHooks,
    readonly folder: RunFolder,
  ) {}

  async train(from: Checkpoint | undefined): Promise<RunResult> {
    const { options, hooks, folder } = this
    const { steps, batchSize, accumulate } = options
    let step = from?.state.step ?? 0
    this.#checkpoint = from?.folder
    this.#savedStep = from?.state.step ?? -1
    using log = MetricsLog.open(path.join(folder.path, 'metrics.jsonl'), step)
    using events = EventFile.open(folder.path, step)
    const batches = this.data.batches(step * accumulate * batchSize, batchSize, options.prefetch)
    let metrics: StepMetrics | undefined
    try {
      while (step < steps && !hooks.signal?.aborted) {
        metrics = await this.#step(step, () => batches.next())
        step++
        log.write(metrics)
        await this.#writeEvents(() => events.scalars(step, scalarsOf(metrics!)))
        await hooks.onStep?.(metrics)
        if (step % options.checkpointEvery === 0) await this.#save(step, log)
        if (isPictureStep(step, options)) await this.#sample(step, events)
        for (const warning of this.#newWarnings()) await this.#warn(new DiffusionError('unsupported', warning))
      }
      await this.#save(step, log)
    } catch (error) {
      await this.#rescue(step, log)
      throw error
    } finally {
      await batches.stop()
    }
    const model = step >= steps ? path.join(await this.#here(), 'model.safetensors') : undefined
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
    for (const [i, { images, labels }] of batches.entries()) {
      using x = Tensor.wrap(images, [batchSize, this.data.channels, this.data.size, this.data.size])
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

  async #save(step: number, log: MetricsLog): Promise<void> {
    if (step === this.#savedStep) return
    log.sync() // so that no checkpoint is ahead of its metrics, not even after a power failure
    const folder = await this.#write(step)
    await this.hooks.onCheckpoint?.({ step, folder })
  }

  async #write(step: number): Promise<string> {
    const { ddpm, data, options, hooks } = this
    const out = await this.#here()
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
      options: { ...options, out },
      time: new Date().toISOString(),
    }
    const { keep } = options
    const folder = await saveCheckpoint(out, state, training, { keep, onWarning: (w) => hooks.onWarning?.(w) })
    this.#checkpoint = folder
    this.#savedStep = step
    return folder
  }

  /** After an error, whichever: the steps since the last checkpoint, where they are whole. The error is what is reported. */
  async #rescue(step: number, log: MetricsLog): Promise<void> {
    if (!this.#whole || step === this.#savedStep || step === 0) return
    try {
      const folder = await this.#write(step)
      await this.hooks.onCheckpoint?.({ step, folder })
    } catch {
      // as much as could be done
    }
    try {
      log.sync()
    } catch {
      // the line of this step is lost, which the error that is reported says
    }
  }

  /** The run folder, wherever it is now. */
  async #here(): Promise<string> {
    const before = this.folder.path
    const now = this.folder.locate()
    if (now !== before)
      await this.#warn(new DiffusionError('io', `${before} was renamed: the training goes on in ${now}`))
    return now
  }

  /** Of the model. */
  #newWarnings(): string[] {
    const fresh = this.ddpm.warnings().filter((warning) => !this.#warned.has(warning))
    for (const warning of fresh) this.#warned.add(warning)
    return fresh
  }

  async #warn(warning: DiffusionError): Promise<void> {
    await this.hooks.onWarning?.(warning)
  }

  /** What is in TensorBoard's events is in metrics.jsonl and samples/, too: where they can't be written, that is told once. */
  async #writeEvents(write: () => void): Promise<void> {
    try {
      write()
      this.#eventsFail = false
    } catch (error) {
      if (!isIo(error)) throw error
      if (!this.#eventsFail) await this.#warn(error)
      this.#eventsFail = true
    }
  }

  /** Pictures as files and as events. Sampling changes nothing in the training, and neither does a picture that can't be written. */
  async #sample(step: number, events: EventFile): Promise<void> {
    const folder = path.join(await this.#here(), 'samples')
    const file = path.join(folder, `step-${String(step).padStart(8, '0')}.png`)
    try {
      await this.#writePictures(step, file, events)
    } catch (error) {
      if (error instanceof DiffusionError && error.code === 'aborted') return
      if (!isIo(error)) throw error
      return await this.#warn(error)
    }
    await this.hooks.onSamples?.({ step, file })
  }

  async #writePictures(step: number, file: string, events: EventFile): Promise<void> {
    const { ddpm, data, options, hooks } = this
    const pictures = await drawPictures(ddpm, data, options, hooks.signal)
    const folder = path.dirname(file)
    await mkdir(folder).catch((error) => {
      if (error.code !== 'EEXIST') throw ioError(`cannot make the folder ${folder}`, error, { path: folder })
    })
    const images: Record<string, EventImage> = {}
    for (const [name, pixels] of Object.entries(pictures)) {
      const png = await encodeImage(pixels)
      images[name] = { png, width: pixels.width, height: pixels.height, channels: pixels.channels }
      await atomicWrite(name === 'samples' ? file : file.replace(/png$/, `${name}.png`), png)
    }
    await this.#writeEvents(() => events.images(step, images))
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
