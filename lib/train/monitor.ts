/** The scalar by which a training keeps its best checkpoint and ends early: Lightning's ModelCheckpoint and EarlyStopping. */
import { isEvaluated, type Scalars } from './scalars'

export interface Best {
  /** Of the training. */
  readonly step: number
  /** Of the monitored scalar. */
  readonly value: number
}

/** What a resumed training needs to choose, and to stop, as an unbroken one. */
export interface MonitorState {
  readonly best?: Best
  /** What an evaluation has to be lower than by minDelta; undefined before the first. */
  readonly score?: number
  /** Evaluations since the last that was. */
  readonly wait: number
  /** Of a training scalar, over the steps since it was last looked at. */
  readonly sum: number
  readonly count: number
}

export interface MonitorOptions {
  readonly name: string
  /** How many evaluations without a lower value end the training; undefined: none do. */
  readonly patience?: number
  readonly minDelta: number
}

export class Monitor {
  #state: MonitorState

  constructor(
    readonly o: MonitorOptions,
    state: MonitorState = { wait: 0, sum: 0, count: 0 },
  ) {
    this.#state = state
  }

  get state(): MonitorState {
    return this.#state
  }

  get best(): Best | undefined {
    return this.#state.best
  }

  /** A step of the training. */
  add(scalars: Scalars): void {
    const value = scalars[this.o.name]
    if (value === undefined) return
    const { sum, count } = this.#state
    this.#state = { ...this.#state, sum: sum + value, count: count + 1 }
  }

  /**
   * An evaluation after `step`: of a held-out loss or FID its value, of a training scalar its mean since the last one. Returns whether it
   * is the lowest so far. What is no number is not.
   */
  look(step: number, evaluated: Scalars): boolean {
    const { sum, count, best, score, wait } = this.#state
    const value = isEvaluated(this.o.name) ? evaluated[this.o.name] : sum / count
    const lowest = Number.isFinite(value) && (best === undefined || value < best.value)
    const improved = Number.isFinite(value) && (score === undefined || value < score - this.o.minDelta)
    this.#state = {
      ...((lowest || best) && { best: lowest ? { step, value } : best }),
      ...((improved || score !== undefined) && { score: improved ? value : score }),
      wait: improved ? 0 : wait + 1,
      sum: 0,
      count: 0,
    }
    return lowest
  }

  /** Why the training is over; undefined while it is not. */
  get over(): string | undefined {
    const { name, patience, minDelta } = this.o
    const { wait, best } = this.#state
    if (patience === undefined || wait < patience) return undefined
    const by = minDelta > 0 ? ` by more than ${minDelta}` : ''
    const since = `${name} was not lower${by} in ${wait} evaluations`
    return best ? `${since} since it was ${best.value.toPrecision(5)} (the best: step ${best.step})` : since
  }
}
