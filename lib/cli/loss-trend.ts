/** How the loss of a training goes: a sparkline of all of it, and whether it falls. */

const blocks = '▁▂▃▄▅▆▇█'
/** Means that are kept; when there are as many, neighbours become one. */
const mostMeans = 64
/** Steps of which the last are compared with those before them. */
const windowSteps = 100

export interface Trend {
  /** Of the last steps. */
  readonly mean: number
  /** What became of the mean of the steps before: -0.1 where the loss is a tenth lower. */
  readonly change: number
  /** Whether that is more than the steps' own scatter: twice its standard error. */
  readonly clear: boolean
}

export class LossTrend {
  /** Of `#steps` losses each. */
  #means: number[] = []
  #steps = 1
  #sum = 0
  #count = 0
  /** The last of them. */
  #recent: number[] = []

  add(loss: number): void {
    this.#recent.push(loss)
    if (this.#recent.length > 2 * windowSteps) this.#recent.shift()
    this.#sum += loss
    if (++this.#count < this.#steps) return
    this.#means.push(this.#sum / this.#count)
    this.#sum = this.#count = 0
    if (this.#means.length < mostMeans) return
    this.#means = Array.from({ length: mostMeans / 2 }, (_, i) => (this.#means[2 * i] + this.#means[2 * i + 1]) / 2)
    this.#steps *= 2
  }

  /** Of up to `width` characters, from the first step to the last; heights are by the logarithm, or all but the start would be flat. */
  sparkline(width: number): string {
    const n = Math.min(width, this.#means.length)
    const at = (i: number) => Math.round((i * this.#means.length) / n)
    const parts = Array.from({ length: n }, (_, i) => Math.log(mean(this.#means.slice(at(i), at(i + 1)))))
    const [low, high] = [Math.min(...parts), Math.max(...parts)]
    const height = (v: number) => (high > low ? Math.round(((v - low) / (high - low)) * (blocks.length - 1)) || 0 : 0)
    return parts.map((v) => blocks[height(v)]).join('')
  }

  /** Of the last half of the recent steps beside the half before; undefined before there are some. */
  get trend(): Trend | undefined {
    const half = Math.floor(this.#recent.length / 2)
    if (half < 5) return undefined
    const [before, last] = [this.#recent.slice(-2 * half, -half), this.#recent.slice(-half)]
    const [a, b] = [mean(before), mean(last)]
    const error = Math.sqrt((variance(before, a) + variance(last, b)) / half)
    return { mean: b, change: (b - a) / a, clear: Math.abs(b - a) > 2 * error }
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, v) => sum + v, 0) / values.length
}

function variance(values: readonly number[], around: number): number {
  return values.reduce((sum, v) => sum + (v - around) ** 2, 0) / (values.length - 1)
}

/** What there is to say of a step. */
export interface Standing {
  readonly loss: number
  readonly losses: LossTrend
  readonly imagesPerSecond: number
  /** The last evaluation, of held-out images ('val') or samples ('fid'), and the best. */
  readonly evaluated?: string
  readonly heldOut?: number
  readonly best?: number
}

/** For a terminal: as much of it as fits into `room` characters, what matters most first. */
export function drawnNote(
  { loss, losses, imagesPerSecond, evaluated = 'val', heldOut, best }: Standing,
  room: number,
): string {
  const { trend } = losses
  const arrow = !trend?.clear ? '→' : trend.change < 0 ? '↘' : '↗'
  const line = losses.sparkline(8) + arrow
  const parts = [
    { text: `loss ${loss.toFixed(4)}`, rank: 0 },
    { text: line, rank: 1 },
    ...(heldOut === undefined ? [] : [{ text: `${evaluated} ${heldOut.toFixed(4)}`, rank: 2 }]),
    ...(best === undefined ? [] : [{ text: `best ${best.toFixed(4)}`, rank: 3 }]),
    { text: `${imagesPerSecond.toFixed(1)} images/s`, rank: 4 },
  ]
  const join = (most: number) =>
    parts
      .filter(({ rank }) => rank <= most)
      .map(({ text }) => text)
      .join(' ')
  return [4, 3, 2, 1].map(join).find((text) => text.length <= room) ?? join(0)
}

/** For a log: the same in numbers. */
export function writtenNote({ loss, losses, imagesPerSecond, evaluated = 'val', heldOut, best }: Standing): string {
  const { trend } = losses
  const change = trend && `${trend.change < 0 ? '' : '+'}${(100 * trend.change).toFixed(1)}%`
  return [
    `loss ${loss.toFixed(4)}${trend ? ` (mean ${trend.mean.toFixed(4)}, ${change})` : ''}`,
    ...(heldOut === undefined ? [] : [`${evaluated} ${heldOut.toFixed(4)}`]),
    ...(best === undefined ? [] : [`best ${best.toFixed(4)}`]),
    `${imagesPerSecond.toFixed(1)} images/s`,
  ].join('  ')
}
