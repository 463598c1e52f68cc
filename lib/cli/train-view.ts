/** What is shown of a training. */

import type { StepMetrics } from '../train/metrics'
import { imagesOf } from '../train/network-options'
import { fidScalar, isEvaluated } from '../train/scalars'
import type { TrainHooks, TrainStart } from '../trainer/hooks'
import { drawnNote, LossTrend, writtenNote } from './loss-trend'
import { note, type Output, stderr } from './output'
import { duration, Progress } from './progress'

/** A line of progress every so often where there is no bar. */
const lineMs = 10_000
/** Steps from which the whole is estimated, without the first, which prepares what all share. */
const estimateSteps = 5

export class TrainView {
  #bar: Progress | undefined
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

  constructor(readonly output: Output) {}

  readonly hooks: TrainHooks = {
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
        ...looksOf(start),
      })
      const skipped = unreadable.length > 0 ? ` (${unreadable.length} unreadable, skipped)` : ''
      const heldOut = start.heldOut === undefined ? '' : `, ${start.heldOut} held out`
      this.output.say(
        `${images} images${skipped}${heldOut}, ${(parameters / 1e6).toFixed(2)} M parameters, on ${device}` +
          `${step > 0 ? `, from step ${step}` : ''}; ${looks(start)}`,
      )
    },
    onStep: (metrics) => {
      this.output.event('step', { ...metrics })
      this.#losses.add(metrics.loss)
      const { loss, imagesPerSecond } = metrics
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
      const first = monitor in scalars ? monitor : 'val/loss'
      this.#heldOut = scalars[first] ?? this.#heldOut
      this.#best = best?.value
      if (this.output.json) return
      const names = new Set([first, ...(first === fidScalar ? ['val/loss'] : [fidScalar])])
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

  #line(metrics: StepMetrics, note: string): void {
    const now = performance.now()
    if (now - this.#lastLine < lineMs && metrics.step < this.#total) return
    this.#lastLine = now
    this.output.say(`step ${metrics.step}/${this.#total}  ${note}  ETA ${this.#bar!.eta}`)
  }
}

function shown(loss: number): string {
  return loss.toFixed(4)
}

/** What the images become, for machines. */
function looksOf({ options: { model, flip, augment } }: TrainStart) {
  const classes = model.classNames ?? []
  return { ...imagesOf(model.unetConfig), flip, ...(augment !== undefined && { augment }), classes }
}

/** The same in words. */
function looks(start: TrainStart): string {
  const { size, width, channels, flip, augment, classes } = looksOf(start)
  const names = classes as readonly string[]
  const shown = names.length > 8 ? `${names.slice(0, 8).join(', ')}, ...` : names.join(', ')
  const mirrored = flip ? 'mirrored at random (--no-flip: as they are)' : 'not mirrored'
  const augmented = augment === undefined ? '' : `, augmented (each kind ${100 * augment}%)`
  const kinds = names.length > 0 ? `${names.length} classes (${shown})` : 'no classes'
  const colours = { 1: 'grey', 3: 'RGB' }[Number(channels)] ?? `in ${channels} channels`
  return `${size}x${width} ${colours}, ${mirrored}${augmented}, ${kinds}`
}
