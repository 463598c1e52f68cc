/** A training run: images in, checkpoints, metrics and pictures out. */
import { mkdir, rmdir } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { type ImageBatch, ImageFolder, type UnreadableFile } from '../data/image-folder'
import { encodePng } from '../data/image-grid'
import { DDPM, type DDPMOptions } from '../diffusion/ddpm'
import { DiffusionError } from '../errors'
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
import { drawPictures } from './pictures'
import { RunLock } from './run-lock'

export interface TrainStart {
  /** Steps that are done already: not 0 after a resume. */
  readonly step: number
  readonly options: ResolvedTrainOptions
  readonly images: number
  readonly unreadable: readonly UnreadableFile[]
  /** Numbers that are trained. */
  readonly parameters: number
  readonly device: string
}

/** Called in order, between two steps; the training waits for what they return. */
export interface TrainHooks {
  onStart?(start: TrainStart): unknown
  onStep?(metrics: StepMetrics): unknown
  onCheckpoint?(o: { step: number; folder: string }): unknown
  onSamples?(o: { step: number; file: string }): unknown
  /** At once for each file that can't be read; the training goes on without it. */
  onUnreadable?(file: UnreadableFile): unknown
  /** Ends the training after the step under way, with a checkpoint. */
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

  /** Throws `unknown-option` and `invalid-argument`. */
  constructor(options: TrainOptions) {
    this.#given = { ...options }
    if (!options.resume) resolveTrainOptions(options)
    else if (typeof options.out !== 'string') resolveTrainOptions(options)
  }

  /**
   * Throws `busy` where another training uses the run folder, `io` and `bad-file` for files, `not-finite` when the loss is no
   * number any more. What was saved before stays.
   */
  async run(hooks: TrainHooks = {}): Promise<RunResult> {
    const { out } = this.#given
    const created = await mkdir(out, { recursive: true }).catch((error) => {
      throw new DiffusionError('io', `cannot create ${out}: ${error.message}`, { argument: 'out', cause: error })
    })
    const lock = RunLock.acquire(out)
    try {
      await removeLeftovers(out)
      return await this.#locked(hooks)
    } finally {
      lock.release()
      if (created !== undefined) await rmdir(out).catch(() => {}) // stays if anything was written
    }
  }

  async #locked(hooks: TrainHooks): Promise<RunResult> {
    const checkpoint = await this.#checkpointToResume()
    const resolved = resolveTrainOptions(this.#given, checkpoint?.state)
    const { unetConfig } = resolved.model
    const data = await ImageFolder.open(resolved.data, {
      size: Number(unetConfig.imageSize),
      channels: unetConfig.inChannels === 1 ? 1 : 3,
      background: resolved.background,
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
      await hooks.onStart?.({
        step: checkpoint?.state.step ?? 0,
        options,
        images: data.length,
        unreadable: data.unreadable,
        parameters: ddpm.parameterCount,
        device: ddpm.device.name,
      })
      return await new Run(ddpm, data, options, hooks).train(checkpoint)
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

function absoluteClasses(source: string | undefined): string | undefined {
  return source === undefined || source === 'folders' ? source : path.resolve(source)
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

  constructor(
    readonly ddpm: DDPM,
    readonly data: ImageFolder,
    readonly options: ResolvedTrainOptions,
    readonly hooks: TrainHooks,
  ) {}

  async train(from: Checkpoint | undefined): Promise<RunResult> {
    const { options, hooks } = this
    const { steps, batchSize, accumulate, out } = options
    let step = from?.state.step ?? 0
    this.#checkpoint = from?.folder
    this.#savedStep = from?.state.step ?? -1
    const batches = this.data.batches(step * accumulate * batchSize, batchSize, options.prefetch)
    const log = await MetricsLog.open(path.join(out, 'metrics.jsonl'), step)
    const events = EventFile.open(out, step)
    let metrics: StepMetrics | undefined
    try {
      while (step < steps && !hooks.signal?.aborted) {
        metrics = await this.#step(step, () => batches.next())
        step++
        log.write(metrics)
        events.scalars(step, scalarsOf(metrics))
        await hooks.onStep?.(metrics)
        if (step % options.checkpointEvery === 0) await this.#save(step)
        if (options.sampleEvery > 0 && (step % options.sampleEvery === 0 || step === steps))
          await this.#sample(step, events)
      }
      await this.#save(step)
    } finally {
      log.close()
      events.close()
      await batches.stop()
    }
    const model = step >= steps ? path.join(out, 'model.safetensors') : undefined
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
    for (let i = 0; i < accumulate; i++) {
      const { images, labels } = await nextBatch()
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
    const { ddpm, data, options } = this
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
      options: { ...options, data: path.resolve(options.data), classes: absoluteClasses(options.classes) },
      time: new Date().toISOString(),
    }
    const folder = await saveCheckpoint(options.out, state, training, { keep: options.keep })
    this.#checkpoint = folder
    this.#savedStep = step
    await this.hooks.onCheckpoint?.({ step, folder })
  }

  /** Pictures as files and as events; sampling changes nothing in the training. */
  async #sample(step: number, events: EventFile): Promise<void> {
    const { ddpm, data, options, hooks } = this
    const pictures = await drawPictures(ddpm, data, options, hooks.signal).catch((error) => {
      if (error instanceof DiffusionError && error.code === 'aborted') return undefined
      throw error
    })
    if (!pictures) return
    const file = path.join(options.out, 'samples', `step-${String(step).padStart(8, '0')}.png`)
    await mkdir(path.dirname(file), { recursive: true })
    const images: Record<string, EventImage> = {}
    for (const [name, pixels] of Object.entries(pictures)) {
      const png = await encodePng(pixels)
      images[name] = { png, width: pixels.width, height: pixels.height, channels: pixels.channels }
      await atomicWrite(name === 'samples' ? file : file.replace(/png$/, `${name}.png`), png)
    }
    events.images(step, images)
    await hooks.onSamples?.({ step, file })
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
