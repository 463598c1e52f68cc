/**
 * The loop of a training, whatever is trained, with everything open: steps, evaluations, checkpoints, and what is left whole when one
 * fails.
 */
import { Prefetcher } from '../data/prefetch'
import type { ImageBatch, TrainingData } from '../data/training-data'
import { DiffusionError } from '../errors'
import { pauses } from '../pause'
import { bestFolder, type FolderState, type SaveOptions } from '../train/checkpoint-folder'
import type { CommonMetrics } from '../train/metrics'
import { type Best, Monitor, type MonitorState } from '../train/monitor'
import type { DataState } from '../train/run-state'
import { isEvaluated, type Scalars } from '../train/scalars'
import type { RunResult, TrainHooks } from './hooks'
import type { Journal, Pictures } from './journal'
import { isPictureStep } from './picture-steps'
import type { Ranks } from './ranks'

/** What of a training's options concerns the loop. */
export interface LoopOptions {
  readonly steps: number
  readonly batchSize: number
  readonly accumulate: number
  readonly prefetch: number
  readonly checkpointEvery: number
  readonly keep: number
  readonly sampleEvery: number
  readonly validationEvery: number
  readonly monitor?: string
  readonly patience?: number
  readonly minDelta: number
}

/** What a training works with. */
export interface OpenRun<Options, Metrics> {
  readonly data: TrainingData
  readonly heldOut: TrainingData | undefined
  readonly options: Options
  readonly hooks: Pick<
    TrainHooks<never, Metrics>,
    'onStep' | 'onEvaluation' | 'onCheckpoint' | 'onWarning' | 'onProgress' | 'signal'
  >
  /** Of the process that leads. */
  readonly journal?: Journal
  readonly ranks: Ranks
}

/** What every training's state.json has. Random numbers and the data's order follow from the seed and the position. */
export interface LoopState extends FolderState {
  /** Samples drawn from the data so far: the position in its order. */
  readonly samples: number
  readonly data: DataState
  /** The images of a validation folder or fraction. */
  readonly heldOut?: DataState
  /** The step after which there was the last evaluation. */
  readonly evaluated?: number
  /** ISO 8601. */
  readonly time: string
}

export abstract class RunLoop<Options extends LoopOptions, Metrics extends CommonMetrics> {
  protected readonly o: OpenRun<Options, Metrics>
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

  constructor(
    opened: OpenRun<Options, Metrics>,
    from?: { readonly folder: string; readonly state: Pick<LoopState, 'step' | 'monitor' | 'evaluated'> },
  ) {
    this.o = opened
    const { monitor: name, patience, minDelta } = opened.options
    this.#monitor = name === undefined ? undefined : new Monitor({ name, patience, minDelta }, from?.state.monitor)
    this.#done = from?.state.step ?? 0
    this.#evaluated = from?.state.evaluated ?? 0
    this.#checkpoint = from?.folder
    this.#saved = from && { step: this.#done, evaluated: this.#evaluated }
  }

  /**
   * Step number `step`, counted from 0, of those of its batches that are this process': forward, backward, update. `start`: when the
   * waiting for the batches began, by performance.now().
   */
  protected abstract takeStep(step: number, batches: readonly ImageBatch[], start: number): Promise<Metrics>
  protected abstract scalarsOf(metrics: Metrics): Scalars
  /** Of images that are held out. */
  protected abstract losses(heldOut: TrainingData): Promise<Scalars>
  protected abstract drawPictures(): Promise<Pictures>
  /** Of the model, all so far. */
  protected abstract warnings(): readonly string[]
  /** Saves a checkpoint in the run folder; returns its folder. */
  protected abstract write(run: string): Promise<string>
  /** Saves the state of the checkpoint `folder` again, whose weights and steps are those of now. */
  protected abstract rewriteState(run: string, folder: string): Promise<void>
  /** Writes the trained model into the run folder, as it is, or as it was at its best. Returns where. */
  protected abstract export(run: string, best: RunResult['best'], metrics: Metrics | undefined): Promise<string>

  /** After a step, on all ranks: what they share is to be whole on one that `needs` it. */
  protected async gather(_needs: boolean): Promise<void> {}

  /** Steps from one evaluation of samples to the next; undefined where there is none. */
  protected get samplesEvery(): number | undefined {
    return undefined
  }

  /** That evaluation. */
  protected async sampleScalars(): Promise<Scalars> {
    return {}
  }

  protected get done(): number {
    return this.#done
  }

  async run(): Promise<RunResult<Metrics>> {
    const { ranks } = this.o
    const batches = this.#batches()
    let metrics: Metrics | undefined
    try {
      await this.#evaluate() // where a run was stopped in the middle of an evaluation
      while (!(await ranks.any(this.#ends))) {
        metrics = await this.#step(() => batches.next())
        this.#done++
        const long = this.#tellsLong
        await this.gather(long)
        if (ranks.leads) await this.#tellStep(metrics)
        await this.#evaluate()
        if (long) await this.#byLeader(() => this.#tell())
        else if (ranks.leads) await this.#tell()
      }
      await this.gather(ranks.leads)
      await this.#byLeader(() => this.#save())
    } catch (error) {
      if (ranks.leads) await this.#rescue()
      throw error
    } finally {
      await batches.stop()
    }
    return ranks.byLeader(() => this.#result(metrics))
  }

  /** What takes its time. */
  async #byLeader(work: () => Promise<void>): Promise<void> {
    const { ranks } = this.o
    await ranks.together(async () => {
      if (ranks.leads) await work()
    })
  }

  /** The batches of this process, in their order. */
  #batches(): Prefetcher<ImageBatch> {
    const { data, options, ranks } = this.o
    const { batchSize, accumulate, prefetch } = options
    const step = this.#done
    if (ranks.size === 1) return data.batches(step * accumulate * batchSize, batchSize, prefetch)
    return new Prefetcher((k) => data.batch(ranks.batchAt(step, k, accumulate) * batchSize, batchSize), 0, prefetch)
  }

  /** Whether this process wants no further step. */
  get #ends(): boolean {
    const { options, hooks } = this.o
    return this.#done >= options.steps || hooks.signal?.aborted === true || this.#monitor?.over !== undefined
  }

  /** Whether there is more to do after this step than to write a line. */
  get #tellsLong(): boolean {
    const { options } = this.o
    const every = [options.validationEvery, options.checkpointEvery, this.samplesEvery ?? 0]
    return isPictureStep(this.#done, options) || every.some((steps) => steps > 0 && this.#done % steps === 0)
  }

  async #tellStep(metrics: Metrics): Promise<void> {
    const scalars = this.scalarsOf(metrics)
    this.#monitor?.add(scalars)
    await this.#journal.step(metrics, scalars)
    await this.o.hooks.onStep?.(metrics)
  }

  /** What a step leads to beside the next one. */
  async #tell(): Promise<void> {
    const { options } = this.o
    const journal = this.#journal
    if (this.#done % options.checkpointEvery === 0) await this.#save()
    if (isPictureStep(this.#done, options)) await journal.pictures(this.#done, () => this.drawPictures())
    for (const warning of this.#newWarnings()) await journal.warn(new DiffusionError('unsupported', warning))
  }

  get #journal(): Journal {
    return this.o.journal!
  }

  async #result(metrics: Metrics | undefined): Promise<RunResult<Metrics>> {
    const why = this.#done < this.o.options.steps ? this.#monitor?.over : undefined
    const stopped = this.#done >= this.o.options.steps ? false : why === undefined ? 'signal' : 'early'
    const run = await this.#journal.folder()
    const monitor = this.#monitor?.state
    const best = monitor?.best && { ...monitor.best, checkpoint: bestFolder(run, { monitor })! }
    const model =
      stopped === 'signal' ? undefined : await this.export(run, stopped === 'early' ? best : undefined, metrics)
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

  /** All batches of a step first: an image that can't be read then leaves the state as it was. */
  async #step(nextBatch: () => Promise<ImageBatch>): Promise<Metrics> {
    const start = performance.now()
    const batches: ImageBatch[] = []
    const pause = pauses() // batches that are in memory come without the event loop turning, which signals need
    const { own } = this.o.ranks.share(this.o.options.accumulate)
    while (batches.length < own) {
      batches.push(await nextBatch())
      await pause()
    }
    this.#whole = false
    const metrics = await this.takeStep(this.#done, batches, start)
    this.#whole = true
    return metrics
  }

  /**
   * Every validationEvery steps the held-out images, every samplesEvery steps samples, by all ranks, and what the monitor says. What is
   * aborted is done by the resumed run.
   */
  async #evaluate(): Promise<void> {
    const { heldOut, options } = this.o
    const { validationEvery, monitor = '' } = options
    const { samplesEvery } = this
    const step = this.#done
    const due = (every: number) => step > this.#evaluated && step % every === 0
    const ofHeldOut = due(validationEvery) && (heldOut !== undefined || this.#monitor !== undefined)
    const ofSamples = samplesEvery !== undefined && due(samplesEvery)
    if (!ofHeldOut && !ofSamples) return
    const losses = ofHeldOut && heldOut ? await this.#unlessAborted(() => this.losses(heldOut)) : {}
    const distance = losses && ofSamples ? await this.#unlessAborted(() => this.sampleScalars()) : {}
    if (!losses || !distance) return
    const scalars = { ...losses, ...distance }
    const asked = isEvaluated(monitor) ? monitor in scalars : ofHeldOut
    if (Object.keys(scalars).length === 0 && !asked) return
    this.#evaluated = step
    await this.#byLeader(() => this.#tellEvaluation(scalars, asked))
  }

  /** `asked`: whether the monitor looks at it. */
  async #tellEvaluation(scalars: Scalars, asked: boolean): Promise<void> {
    const step = this.#done
    const improved = (asked && this.#monitor?.look(step, scalars)) || false
    if (Object.keys(scalars).length > 0) await this.#journal.evaluation(step, scalars)
    await this.o.hooks.onEvaluation?.({ step, scalars, best: this.best, improved })
    if (improved || this.#saved?.step === step) await this.#save()
  }

  protected get best(): Best | undefined {
    return this.#monitor?.best
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

  async #save(): Promise<void> {
    const { hooks } = this.o
    const journal = this.#journal
    const [step, evaluated] = [this.#done, this.#evaluated]
    if (step === this.#saved?.step && evaluated === this.#saved.evaluated) return
    journal.sync() // so that no checkpoint is ahead of its metrics, not even after a power failure
    if (step === this.#saved?.step) {
      await this.rewriteState(await journal.folder(), this.#checkpoint!)
      this.#saved = { step, evaluated }
      return
    }
    const folder = await this.#write()
    await hooks.onCheckpoint?.({ step, folder })
  }

  async #write(): Promise<string> {
    const saved = { step: this.#done, evaluated: this.#evaluated }
    const folder = await this.write(await this.#journal.folder())
    this.#checkpoint = folder
    this.#saved = saved
    return folder
  }

  protected get saving(): SaveOptions {
    return { keep: this.o.options.keep, onWarning: (warning) => this.o.hooks.onWarning?.(warning) }
  }

  /** What all trainings' states have. */
  protected get state(): LoopState & { readonly monitor?: MonitorState } {
    const { data, heldOut, options } = this.o
    const dataState = ({ fingerprint, length }: TrainingData) => ({ fingerprint, images: length })
    return {
      step: this.#done,
      samples: this.#done * options.accumulate * options.batchSize,
      data: dataState(data),
      ...(heldOut && { heldOut: dataState(heldOut) }),
      ...(this.#evaluated > 0 && { evaluated: this.#evaluated }),
      ...(this.#monitor && { monitor: this.#monitor.state }),
      time: new Date().toISOString(),
    }
  }

  /** After an error, whichever: the steps since the last checkpoint, where they are whole. The error is what is reported. */
  async #rescue(): Promise<void> {
    const { hooks } = this.o
    const journal = this.#journal
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

  #newWarnings(): string[] {
    const fresh = this.warnings().filter((warning) => !this.#warned.has(warning))
    for (const warning of fresh) this.#warned.add(warning)
    return fresh
  }
}
