/** What is shown of a training. */
import type { CommonMetrics } from '../train/metrics'
import { fidScalar, isEvaluated } from '../train/scalars'
import type { TrainHooks, TrainStart } from '../trainer/hooks'
import { drawnNote, LossTrend, writtenNote } from './loss-trend'
import { note, type Output, stderr } from './output'
import { duration, Progress } from './progress'

/** A line of progress every so often where there is no bar. */
const lineMs = 10_000
/** Steps from which the whole is estimated, without the first, which prepares what all share. */
const estimateSteps = 5

/** What of a start every training shows. */
export interface ViewedStart extends Omit<TrainStart, 'options'> {
  readonly options: { readonly steps: number; readonly monitor?: string }
}

/** What is particular to a kind of training. */
export interface Viewed<Start, Metrics> {
  /** What the images become, for machines. */
  looksOf(start: Start): Readonly<Record<string, unknown>>
  /** The same in words. */
  looks(start: Start): string
  /** The loss that is shown of a step. */
  lossOf(metrics: Metrics): number
  /** The scalar that is shown of an evaluation, where there is no monitor. */
  readonly evaluated: string
}

export class TrainView<Start extends ViewedStart, Metrics extends CommonMetrics> {
  #bar: Progress | undefined
  /** Before the first step. */
  #latents: Progress | undefined
  #total = 0
  #lastLine = 0
  #firstPicture: number | undefined
  /** Of the steps since the start. */
  readonly #times: number[] = []
  readonly #losses = new LossTrend()
  #monitor: string | undefined
  /** Of the last evaluation, and of the best. */
  #heldOut: number | undefined
  #best: number | undefined

  constructor(
    readonly output: Output,
    private readonly viewed: Viewed<Start, Metrics>,
  ) {}

  readonly hooks: TrainHooks<Start, Metrics> = {
    onStart: (start) => {
      const { step, options, images, unreadable, parameters, device } = start
      this.#firstPicture = start.firstPicture
      this.#total = options.steps
      this.#monitor = options.monitor
      this.#best = start.best?.value
      this.#bar = new Progress(stderr, { label: 'train', total: options.steps, done: step, rate: false })
      this.output.event('start', {
        step,
        steps: options.steps,
        images,
        heldOut: start.heldOut,
        unreadable: unreadable.length,
        parameters,
        device,
        ...this.viewed.looksOf(start),
      })
      const skipped = unreadable.length > 0 ? ` (${unreadable.length} unreadable, skipped)` : ''
      const heldOut = start.heldOut === undefined ? '' : `, ${start.heldOut} held out`
      this.output.say(
        `${images} images${skipped}${heldOut}, ${(parameters / 1e6).toFixed(2)} M parameters, on ${device}` +
          `${step > 0 ? `, from step ${step}` : ''}; ${this.viewed.looks(start)}`,
      )
    },
    onStep: (metrics) => {
      this.output.event('step', { ...(metrics as CommonMetrics) })
      const loss = this.viewed.lossOf(metrics)
      this.#losses.add(loss)
      const { imagesPerSecond } = metrics
      const evaluated = this.#monitor === fidScalar ? 'fid' : 'val'
      const standing = {
        loss,
        losses: this.#losses,
        imagesPerSecond,
        evaluated,
        heldOut: this.#heldOut,
        best: this.#best,
      }
      this.#bar?.update(metrics.step, (room) => drawnNote(standing, room))
      this.#estimate(metrics.step)
      if (!stderr.isTTY) this.#line(metrics, writtenNote(standing))
    },
    onEvaluation: ({ step, scalars, best, improved }) => {
      this.output.event('evaluation', { step, scalars, best, improved })
      const monitor = this.#monitor ?? ''
      const first = monitor in scalars ? monitor : this.viewed.evaluated
      this.#heldOut = scalars[first] ?? this.#heldOut
      this.#best = best?.value
      if (this.output.json) return
      const names = new Set([first, ...(first === fidScalar ? [this.viewed.evaluated] : [fidScalar])])
      // The best is of the monitored scalar, which other evaluations don't have.
      const compared = best && (monitor in scalars || !isEvaluated(monitor))
      const standing = !compared
        ? ''
        : improved
          ? ', the best so far'
          : `, the best is ${shown(best.value)} of step ${best.step}`
      const told = [...names].filter((name) => name in scalars)
      const parts = told.map((name) => `${name} ${shown(scalars[name])}${name === first ? standing : ''}`)
      if (parts.length > 0) this.message(`step ${step}: ${parts.join('; ')}`)
    },
    onProgress: ({ step, what, done, total }) => {
      this.output.event('progress', { step, what, done, total })
      if (what === 'latents') {
        this.#latents ??= new Progress(stderr, { label: 'latents', total, lines: true })
        this.#latents.update(done)
        if (done < total) return
        this.#latents.clear()
        this.#latents = undefined
        return
      }
      this.#bar?.update(step, `fid: ${done} of ${total} ${what === 'samples' ? 'samples' : 'images'}`)
    },
    onCheckpoint: ({ step, folder }) => {
      this.output.event('checkpoint', { step, folder })
      if (!this.output.json) this.message(`checkpoint ${folder}`)
    },
    onSamples: ({ step, file }) => {
      this.output.event('samples', { step, file })
      if (!this.output.json) this.message(`samples ${file}`)
    },
    onUnreadable: ({ file, reason }) => {
      this.output.event('unreadable', { file, reason })
      if (!this.output.json) this.message(`skipped, can't be read: ${file} (${reason})`)
    },
    onWarning: ({ message }) => {
      this.output.event('warning', { message })
      if (!this.output.json) this.message(`warning: ${message}`)
    },
  }

  message(text: string): void {
    if (this.#bar) this.#bar.print(text)
    else note(text)
  }

  end(): void {
    this.#latents?.clear()
    this.#bar?.clear()
  }

  /** Once, of how long it will take. */
  #estimate(step: number): void {
    if (this.#times.length > estimateSteps) return
    this.#times.push(performance.now())
    if (this.#times.length <= estimateSteps || step >= this.#total) return
    const secondsPerStep = (this.#times.at(-1)! - this.#times[0]) / 1000 / estimateSteps
    const seconds = secondsPerStep * (this.#total - step)
    const first = this.#firstPicture
    const firstPictureSeconds = first === undefined ? undefined : secondsPerStep * Math.max(0, first - step)
    this.output.event('estimate', { step, seconds, firstPicture: first, firstPictureSeconds })
    const picture =
      first === undefined ? '' : `, the first picture (step ${first}) in ${duration(firstPictureSeconds!)}`
    if (!this.output.json) this.message(`about ${duration(seconds)} for ${this.#total - step} steps${picture}`)
  }

  #line(metrics: CommonMetrics, note: string): void {
    const now = performance.now()
    if (now - this.#lastLine < lineMs && metrics.step < this.#total) return
    this.#lastLine = now
    this.output.say(`step ${metrics.step}/${this.#total}  ${note}  ETA ${this.#bar!.eta}`)
  }
}

function shown(loss: number): string {
  return loss.toFixed(4)
}
