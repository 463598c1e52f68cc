import type { Schedule } from '../../lib/diffusion/process/schedule'

/**
 * sqrt(alpha_bar) and sqrt(1 - alpha_bar) of a timestep; between two, log(sigma) is on the line between theirs, or with `line` the time
 * of flow matching.
 */
export function pointAt(
  { sqrtAlphasCumprod, sqrtOneMinusAlphasCumprod }: Pick<Schedule, 'sqrtAlphasCumprod' | 'sqrtOneMinusAlphasCumprod'>,
  t: number,
  { line = false } = {},
): readonly [a: number, b: number] {
  const low = Math.floor(t)
  const at = (i: number) => [sqrtAlphasCumprod[i], sqrtOneMinusAlphasCumprod[i]] as const
  if (t === low) return at(t)
  const mix = (from: number, to: number) => from + (t - low) * (to - from)
  const time = ([a, b]: readonly [number, number]) => b / (a + b)
  const s = line ? mix(time(at(low)), time(at(low + 1))) : 0
  const sigma = line
    ? s / (1 - s)
    : Math.exp(mix(...([low, low + 1].map((i) => Math.log(at(i)[1] / at(i)[0])) as [number, number])))
  return [1 / Math.hypot(1, sigma), sigma / Math.hypot(1, sigma)]
}
