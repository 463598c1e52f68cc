/** The optimizer's options, and the numbers of a step of it. */
import { isObject } from '../../checkpoint/json'
import { DiffusionError } from '../../errors'
import { array, number, type Parsed, parseOptions, required, type SchemaOf, value } from '../../options'
import { hyperLength } from './ema'
import { type LrSchedulerConfig, lrFactor, lrFactorAt } from './lr-scheduler'

/** AdamW (Loshchilov & Hutter 2019) with torch.optim.AdamW's defaults. */
export interface OptimizerOptions {
  /** Learning rate; ddpm.py's self.learning_rate. */
  lr: number
  /** ddpm.py's scheduler_config: what the rate of each update is multiplied by. Default: that of the model's configuration, or none. */
  lrSchedule?: LrSchedulerConfig
  /** Decay of the averages of the gradient and of its square, each below 1. Default [0.9, 0.999]. */
  betas?: readonly number[]
  /** Added to the root of the averaged squares. Default 1e-8. */
  eps?: number
  /** Part of each weight, times lr, that is taken off in an update (decoupled). Default 0.01. */
  weightDecay?: number
  /** Gradients are scaled down to this global L2 norm; 0 (default): no clipping. */
  maxGradNorm?: number
}

const optimizerSchema = {
  lr: required(number(undefined, { min: 0 })),
  lrSchedule: value<LrSchedulerConfig>('{ target, params }', isObject),
  betas: array(number(undefined, { min: 0, max: 1 }), [0.9, 0.999]),
  eps: number(1e-8, { min: 0 }),
  weightDecay: number(0.01, { min: 0 }),
  maxGradNorm: number(0, { min: 0 }),
} satisfies SchemaOf<OptimizerOptions>

export type OptimizerSettings = Parsed<typeof optimizerSchema>

/** With defaults. Throws `unknown-option` and `invalid-argument`. */
export function parseOptimizer(options: OptimizerOptions): OptimizerSettings {
  const parsed = parseOptions('configureOptimizers', options, optimizerSchema)
  if (parsed.lrSchedule) lrFactor(parsed.lrSchedule)
  if (parsed.betas.length === 2) return parsed
  throw new DiffusionError('invalid-argument', `betas: expected 2 numbers, got ${parsed.betas.length}`, {
    argument: 'betas',
    expected: '2 numbers',
    received: String(parsed.betas.length),
  })
}

/** The learning rate after so many updates. */
export function rateOf({ lr, lrSchedule }: OptimizerSettings, updates: number): number {
  return lrSchedule ? lr * lrFactorAt(lrSchedule, updates) : lr
}

/** kernels/ops.h Hyper of update `step`, counted from 1. `gradScale` multiplies the gradients; `emaDecay` 1: no average. */
export function hyperOf(
  o: OptimizerSettings,
  { step, gradScale, emaDecay = 1 }: { step: number; gradScale: number; emaDecay?: number },
): Float32Array {
  const [beta1, beta2] = o.betas
  const hyper = new Float32Array(hyperLength)
  const corrections = [1 - beta1 ** step, 1 - beta2 ** step]
  hyper.set([o.lr, 1 - beta1, 1 - beta2, o.eps, o.weightDecay, ...corrections, o.maxGradNorm, gradScale, emaDecay])
  return hyper
}
