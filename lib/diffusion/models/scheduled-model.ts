/** What every method of a diffusion model works with: its schedule, network and device, and what there is to say of them. */
import { type InspectOptions, inspect } from 'node:util'
import { Device } from '../../device'
import type { Network } from '../../nn/network'
import { parseOptions, type Seed } from '../../options'
import { sizeOf } from '../../tensor'
import { Core, coreOf } from '../process/core'
import { denoiserOf } from '../process/denoiser-of'
import { type ModelSettings, type ScheduleOptions, scheduleSchema } from '../process/model-options'
import { type Parameterization, predictionOf } from '../process/prediction'
import type { Schedule } from '../process/schedule'
import { betasOf, scheduleOf } from '../process/schedule-of'
import type { TrainedBeside } from '../process/trained-beside'
import { noTimestepZero, Warnings } from './warnings'

export abstract class ScheduledModel implements Schedule {
  /** The schedule's buffers, [T] each; not to be written to (see registerSchedule). */
  declare readonly betas: Float32Array
  declare readonly alphasCumprod: Float32Array
  declare readonly alphasCumprodPrev: Float32Array
  declare readonly sqrtAlphasCumprod: Float32Array
  declare readonly sqrtOneMinusAlphasCumprod: Float32Array
  declare readonly logOneMinusAlphasCumprod: Float32Array
  declare readonly sqrtRecipAlphasCumprod: Float32Array
  declare readonly sqrtRecipm1AlphasCumprod: Float32Array
  declare readonly posteriorVariance: Float32Array
  declare readonly posteriorLogVarianceClipped: Float32Array
  declare readonly posteriorMeanCoef1: Float32Array
  declare readonly posteriorMeanCoef2: Float32Array
  declare readonly lvlbWeights: Float32Array
  /**
   * log of each timestep's variance, [T]; a parameter of the state dict with learnLogvar. LatentDiffusion's loss uses it, and with
   * learnLogvar trains it: then this is a copy. DDPM's does not.
   */
  logvar: Float32Array

  readonly seed: Seed

  #core: Core
  /** @internal */
  protected readonly settings: ModelSettings
  /** @internal */
  protected readonly notices = new Warnings()

  protected constructor(options: ModelSettings, beside?: readonly TrainedBeside[]) {
    this.settings = options
    this.seed = options.seed
    const schedule = scheduleOf(options, options)
    const settings = { ...options, parameterization: predictionOf(options) }
    const device = Device.open(options.device, { memoryLimit: options.memoryLimit })
    this.#core = Core.create(device, denoiserOf(options, device, beside), settings, schedule, options.seed)
    if (this.network?.positiveTimesteps) this.notices.add([noTimestepZero])
    this.logvar = new Float32Array(this.numTimesteps).fill(options.logvarInit)
    Object.assign(this, schedule)
  }

  // ---- schedule ----------------------------------------------------------------------------------------------------

  /** ddpm.py's register_schedule, with its defaults for what is left out. Calls that are on their way keep the schedule they began with. */
  registerSchedule(options: ScheduleOptions = {}): void {
    this.#core.alive()
    const schedule = scheduleOf(parseOptions('registerSchedule', options, scheduleSchema), this.settings)
    if (schedule.betas.length !== this.numTimesteps) {
      this.logvar = new Float32Array(schedule.betas.length).fill(this.settings.logvarInit)
    }
    this.publish(schedule)
  }

  /** The betas in float64, before they are rescaled to zero terminal SNR: with these the schedule is made again to the bit. */
  protected exactBetas(): Partial<ScheduleOptions> & { betas: Float32Array | Float64Array } {
    const { givenBetas } = this.ownBetas()
    const { linearStart, linearEnd, zeroTerminalSnr } = this.settings
    if (givenBetas) return { betas: this.betas, linearStart: undefined, linearEnd: undefined, zeroTerminalSnr: false }
    return { betas: betasOf(this.settings, this.settings), linearStart, linearEnd, zeroTerminalSnr }
  }

  /** The betas as an option, where a loaded state dict or registerSchedule made them other than those of the options. */
  protected ownBetas(): { givenBetas?: number[]; timesteps?: number } {
    const { betas } = scheduleOf(this.settings, this.settings)
    const same = betas.length === this.betas.length && betas.every((b, t) => Math.abs(b - this.betas[t]) <= 1e-6 * b)
    return same ? {} : { givenBetas: [...this.betas], timesteps: this.betas.length }
  }

  /** @internal */
  protected publish(schedule: Schedule): void {
    this.#core = this.#core.withSchedule(schedule)
    Object.assign(this, schedule)
  }

  /** @internal Runs `fn` with the schedule of now, which it keeps whatever is registered meanwhile. */
  protected call<T>(fn: (core: Core) => T | Promise<T>): Promise<T> {
    return this.#core.call(fn)
  }

  /** @internal */
  get [coreOf](): Core {
    return this.#core
  }

  get numTimesteps(): number {
    return this.#core.numTimesteps
  }

  get parameterization(): Parameterization {
    return this.settings.parameterization
  }

  /** The option's value. */
  get monitor(): string {
    return this.settings.monitor
  }

  get logEveryT(): number {
    return this.settings.logEveryT
  }

  get device(): Device {
    return this.#core.device
  }

  /** The network; undefined where the denoiser is a function. */
  get network(): Network | undefined {
    return this.#core.denoiser.network?.module
  }

  /** How many numbers are trained; 0 for a function. */
  get parameterCount(): number {
    const trained = (this.#core.denoiser.network?.weights.table.slots ?? []).filter(({ frozen }) => !frozen)
    return trained.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  }

  /** Bytes in use on the device, and by each compiled program of this model and its weights, as its weightFormat has them. */
  memoryInfo(): ReturnType<Core['memoryInfo']> {
    return this.#core.memoryInfo()
  }

  /**
   * What the user should know, each once; [] where there is nothing to say: fields of a file or of a scheduler that were ignored,
   * and what went another way on the model's device, although results are right (a program that can't be recorded as a CUDA
   * graph, and is slower).
   */
  warnings(): string[] {
    return [...this.notices.all, ...this.#core.device.warnings()]
  }

  /** @internal */
  warn(warnings: readonly string[]): void {
    this.notices.add(warnings)
  }

  /** What console.log shows: a few lines, without weights and buffers. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `${this.constructor.name} ${inspect(this.summary(), options)}`
  }

  /** @internal */
  protected summary(): Record<string, unknown> {
    const { parameterCount, numTimesteps, parameterization } = this
    const network = this.network?.constructor.name ?? 'a function'
    const { precision, weightFormat } = this.settings
    const held = weightFormat === 'fp32' ? '' : `, weights in ${weightFormat}`
    const computed = `${precision} on ${this.device.name}${held}`
    return { network, parameterCount, numTimesteps, parameterization, computed }
  }

  /** Gives all memory back. Using the model afterwards throws `disposed`; disposing of it again does nothing. */
  dispose(): void {
    this.#core.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
