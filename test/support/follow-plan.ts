import type { Evaluation } from '../../lib/diffusion/sampling/plan'

/**
 * The formula of sampling/plan.ts for one number; `out` is the denoiser, which is told the number of the evaluation, and `noise` the
 * noise of one.
 */
export function follow(
  evaluations: readonly Evaluation[],
  x: number,
  out: (x: number, index: number) => number,
  noise: (index: number) => number = () => 0,
): number {
  let [point, base] = [x, 0]
  let memory: number[] = []
  for (const [i, { prediction, correct, next, forget }] of evaluations.entries()) {
    const output = out(point, i)
    const m = [prediction[0] * point + prediction[1] * output, ...memory]
    const sum = (weights: readonly number[]) => weights.reduce((total, w, k) => total + (w === 0 ? 0 : w * m[k]), 0)
    base = correct ? correct.point * point + correct.base * base + sum(correct.m) : point
    point = next.state * base + (next.out ?? 0) * output + sum(next.m) + (next.noise ?? 0) * noise(i)
    if (!forget) memory = m
  }
  return point
}
