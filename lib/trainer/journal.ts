/** What a run folder is told while a training runs: metrics.jsonl, TensorBoard's events, pictures. */
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { encodeImage, type Pixels } from '../data/image-format'
import { DiffusionError } from '../errors'
import { ioError } from '../file-errors'
import { type CommonMetrics, MetricsLog } from '../train/metrics'
import type { RunFolder } from '../train/run-folder'
import type { Scalars } from '../train/scalars'
import { EventFile, type EventImage } from './event-file'
import type { TrainHooks } from './hooks'

/** By the names that upstream's log_images gives them; with `samples`, which is in the file of the step's name. */
export type Pictures = Readonly<Record<string, Pixels>>

/** What of the hooks it calls. */
type JournalHooks = Pick<TrainHooks, 'onWarning' | 'onScalars' | 'onSamples'>

export class Journal {
  readonly #run: RunFolder
  readonly #hooks: JournalHooks
  readonly #log: MetricsLog
  readonly #events: EventFile
  #eventsFail = false

  /** What earlier processes wrote beyond `step` no longer counts. Throws `io`. */
  constructor(run: RunFolder, hooks: JournalHooks, step: number) {
    this.#run = run
    this.#hooks = hooks
    this.#log = MetricsLog.open(path.join(run.path, 'metrics.jsonl'), step)
    try {
      this.#events = EventFile.open(run.path, step)
    } catch (error) {
      this.#log.close()
      throw error
    }
  }

  /** The run folder, wherever it is now. Throws `io` where it is gone. */
  async folder(): Promise<string> {
    const before = this.#run.path
    const now = this.#run.locate()
    if (now !== before)
      await this.warn(new DiffusionError('io', `${before} was renamed: the training goes on in ${now}`))
    return now
  }

  async warn(warning: DiffusionError): Promise<void> {
    await this.#hooks.onWarning?.(warning)
  }

  /** A step's metrics. Throws `io`. */
  async step(metrics: CommonMetrics, scalars: Scalars): Promise<void> {
    this.#log.write(metrics)
    await this.#scalars(metrics.step, scalars)
  }

  /** Of an evaluation after a step. Throws `io`. */
  async evaluation(step: number, scalars: Scalars): Promise<void> {
    this.#log.write({ step, ...scalars, time: new Date().toISOString() })
    await this.#scalars(step, scalars)
  }

  async #scalars(step: number, scalars: Scalars): Promise<void> {
    await this.#writeEvents(() => this.#events.scalars(step, scalars))
    await this.#hooks.onScalars?.({ step, scalars })
  }

  /** Makes the metrics durable. Throws `io`. */
  sync(): void {
    this.#log.sync()
  }

  /** Pictures as files and as events. What can't be written is a warning, and what is aborted is not there. */
  async pictures(step: number, draw: () => Promise<Pictures>): Promise<void> {
    const folder = path.join(await this.folder(), 'samples')
    const file = path.join(folder, `step-${String(step).padStart(8, '0')}.png`)
    try {
      await this.#writePictures(step, await draw(), file)
    } catch (error) {
      if (error instanceof DiffusionError && error.code === 'aborted') return
      if (!isIo(error)) throw error
      return await this.warn(error)
    }
    await this.#hooks.onSamples?.({ step, file })
  }

  async #writePictures(step: number, pictures: Pictures, file: string): Promise<void> {
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
    await this.#writeEvents(() => this.#events.images(step, images))
  }

  /** What is in TensorBoard's events is in metrics.jsonl and samples/, too: where they can't be written, that is told once. */
  async #writeEvents(write: () => void): Promise<void> {
    try {
      write()
      this.#eventsFail = false
    } catch (error) {
      if (!isIo(error)) throw error
      if (!this.#eventsFail) await this.warn(error)
      this.#eventsFail = true
    }
  }

  close(): void {
    this.#log.close()
    this.#events.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function isIo(error: unknown): error is DiffusionError {
  return error instanceof DiffusionError && error.code === 'io'
}
