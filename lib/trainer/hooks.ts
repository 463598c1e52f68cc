/** What a training tells while it runs, and what it gives at its end. */
import type { UnreadableFile } from '../data/sources/source'
import type { DiffusionError } from '../errors'
import type { StepMetrics } from '../train/metrics'
import type { Best } from '../train/monitor'
import type { ResolvedTrainOptions } from '../train/options'
import type { Scalars } from '../train/scalars'

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
  /** Images that are held out and evaluated; undefined without `validation`. */
  readonly heldOut: number | undefined
  /** The best evaluation so far: of a resumed run with a monitor. */
  readonly best: Best | undefined
}

/** Called in order, between two steps; the training waits for what they return. */
export interface TrainHooks<Start = TrainStart, Metrics = StepMetrics> {
  /** Once, before the first step: what is trained on what, and where. */
  onStart?(start: Start): unknown
  /** After each step, with its loss and how long it took. */
  onStep?(metrics: Metrics): unknown
  /**
   * The numbers that TensorBoard gets, as they are logged: of each step ('train/loss', 'lr_abs'), and of each evaluation ('val/loss_ema',
   * 'fid'). For Weights & Biases, MLflow and their like.
   */
  onScalars?(o: { step: number; scalars: Scalars }): unknown
  /** After each evaluation: its scalars, the best so far by the monitor, and whether it is this one. */
  onEvaluation?(o: { step: number; scalars: Scalars; best: Best | undefined; improved: boolean }): unknown
  /**
   * While FID is computed after a step: images of the data ('reference', once a run) and samples that are done; before the first step,
   * images whose latents are computed ('latents').
   */
  onProgress?(o: { step: number; what: 'reference' | 'samples' | 'latents'; done: number; total: number }): unknown
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

export interface RunResult<Metrics = StepMetrics> {
  readonly step: number
  /** What ended it before the last step: its signal, or its monitor; false where nothing did. */
  readonly stopped: false | 'signal' | 'early'
  /** Of 'early': what the monitor saw. */
  readonly why?: string
  /** With a monitor: the evaluation with the lowest value, and its checkpoint. */
  readonly best?: Best & { readonly checkpoint: string }
  /** Folder of the newest checkpoint. */
  readonly checkpoint: string
  /** The exported model, once all steps are done; of a training that was stopped early, the best checkpoint's. */
  readonly model?: string
  /** The last step's; undefined where no step was left to do. */
  readonly metrics?: Metrics
}
