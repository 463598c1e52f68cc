export interface LrScheduleOptions {
  /** The rate after the warm-up. */
  readonly lr: number
  /** Steps over which the rate rises linearly to `lr` (ddpm.py's LambdaLR warm-up; Ho et al. 2020, appendix B: 5000). */
  readonly warmup: number
  /** 'constant', or 'cosine' down to zero at `steps` (Loshchilov & Hutter 2017, eq. 5, one cycle). */
  readonly lrSchedule: 'constant' | 'cosine'
  /** Length of the whole training. */
  readonly steps: number
}

/** The learning rate of step `step`, counted from 0. */
export function learningRate(step: number, o: LrScheduleOptions): number {
  if (step < o.warmup) return (o.lr * (step + 1)) / o.warmup
  if (o.lrSchedule === 'constant') return o.lr
  const progress = Math.min(1, (step - o.warmup) / Math.max(1, o.steps - o.warmup))
  return o.lr * 0.5 * (1 + Math.cos(Math.PI * progress))
}
