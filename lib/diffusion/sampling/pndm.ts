/**
 * PNDM: Liu et al. 2022, with and without the Runge-Kutta steps at the beginning, as diffusers' PNDMScheduler has it: where the output is
 * v, sums are of v, and become noise by the state that the step begins with. Multistep in the output, never clipped.
 */
import { noiseRow, type Prediction, startRow } from '../process/prediction'
import type { Evaluation } from './plan'
import { adamsBashforth } from './plms'

export interface PndmOptions {
  /** alpha_bar by timestep; below 0 the images'. */
  readonly bar: (t: number) => number
  /** How far a step leads: T / steps. */
  readonly stride: number
  readonly parameterization: Prediction
}

/** From the point of the evaluation before. */
const before = { point: 0, base: 1, m: [] } as const

/**
 * Of the timesteps that the network is evaluated at, descending, at least 2. The first two are of one step (improved Euler), which is
 * taken to lead to the second one: of a whole sampling that is there twice.
 */
export function plmsEvaluations([first, second, ...later]: readonly number[], o: PndmOptions): Evaluation[] {
  return [
    { ...move(first, first, first - o.stride, [1], o), partial: true },
    { ...move(second, second + o.stride, second, [1 / 2, 1 / 2], o), correct: before, forget: true },
    ...later.map((t, i) => move(t, t, t - o.stride, adamsBashforth[Math.min(i + 1, 3)], o)),
  ]
}

/** Descending timesteps, at least 4. The first three steps are of order 4 by Runge and Kutta, with four evaluations each. */
export function prkEvaluations(timesteps: readonly number[], o: PndmOptions): Evaluation[] {
  const half = Math.floor(o.stride / 2)
  const early = timesteps.slice(0, 3).flatMap((from, i): Evaluation[] => {
    const to = timesteps[i + 1]
    return [
      { ...move(from, from, from - half, [1], o), partial: true },
      { ...move(to + half, from, to + half, [1], o), correct: before, partial: true },
      { ...move(to + half, from, to, [1], o), correct: before, partial: true },
      { ...move(to, from, to, [1 / 6, 1 / 3, 1 / 3, 1 / 6], o), correct: before, forget: true },
    ]
  })
  const later = timesteps.slice(3).map((t, i) => {
    // Of each of the early steps three evaluations are remembered, and the first of them counts.
    const m: number[] = []
    for (const [k, weight] of adamsBashforth[3].entries()) m[k <= i ? k : i + 3 * (k - i)] = weight
    return move(
      t,
      t,
      t - o.stride,
      Array.from(m, (weight) => weight ?? 0),
      o,
    )
  })
  return [...early, ...later]
}

/** DDIM's step without noise by a sum of outputs, evaluated at `t`. */
function move(t: number, from: number, to: number, weights: readonly number[], o: PndmOptions): Evaluation {
  const [bar, previous] = [o.bar(from), o.bar(to)]
  const [x, eps] = startRow('eps', bar)
  const [own, out] = noiseRow(o.parameterization, bar)
  const signal = Math.sqrt(previous)
  const direction = signal * eps + Math.sqrt(1 - previous)
  return {
    t,
    prediction: [0, 1],
    next: { state: signal * x + direction * own, m: weights.map((w) => w * direction * out) },
    start: { state: x + eps * own, m: weights.map((w) => w * eps * out) },
  }
}
