/** The learning rate of each step of a training. */
import { type LrSchedulerConfig, lrFactorAt } from '../diffusion/training/lr-scheduler'

/**
 * How the rate goes on after the warm-up: 'constant'; 'cosine', down to zero at the last step (Loshchilov & Hutter 2017, eq. 5, one
 * cycle); 'trapezoid', constant and then linearly to zero over the last fifth of the steps (Hägele et al. 2024), so that the
 * length of a training can still be changed in its first four fifths.
 */
export const lrSchedules = ['constant', 'cosine', 'trapezoid'] as const
export type LrSchedule = (typeof lrSchedules)[number]

export interface LrScheduleOptions {
  /** The rate after the warm-up. */
  readonly lr: number
  /** Whether `lr` is that of one image: ldm's main.py's scale_lr. */
  readonly scaleLr?: boolean
  /** Images in a batch, and batches in a step. */
  readonly batchSize?: number
  readonly accumulate?: number
  /** Steps over which the rate rises linearly to `lr` (ddpm.py's LambdaLR warm-up; Ho et al. 2020, appendix B: 5000). */
  readonly warmup: number
  readonly lrSchedule: LrSchedule | LrSchedulerConfig
  /** Length of the whole training. */
  readonly steps: number
}

/** The learning rate of step `step`, counted from 0. */
export function learningRate(step: number, o: LrScheduleOptions): number {
  const lr = scaledRate(o)
  if (typeof o.lrSchedule === 'object') return lr * lrFactorAt(o.lrSchedule, step)
  if (step < o.warmup) return (lr * (step + 1)) / o.warmup
  const start = decayStart(o)
  if (step < start) return lr
  const progress = Math.min(1, (step - start) / Math.max(1, o.steps - start))
  return lr * (o.lrSchedule === 'cosine' ? 0.5 * (1 + Math.cos(Math.PI * progress)) : 1 - progress)
}

/** accumulate_grad_batches * batch_size * base_learning_rate, as main.py has it for one GPU (Goyal et al. 2017, section 2.1). */
function scaledRate({ lr, scaleLr, batchSize = 1, accumulate = 1 }: LrScheduleOptions): number {
  return scaleLr ? accumulate * batchSize * lr : lr
}

/** The first step whose rate depends on the length of the training. */
export function decayStart(o: Omit<LrScheduleOptions, 'lr'>): number {
  if (typeof o.lrSchedule === 'object') return Number.POSITIVE_INFINITY
  switch (o.lrSchedule) {
    case 'constant':
      return Number.POSITIVE_INFINITY
    case 'cosine':
      return o.warmup
    case 'trapezoid':
      return Math.max(o.warmup, Math.floor(0.8 * o.steps))
  }
}
