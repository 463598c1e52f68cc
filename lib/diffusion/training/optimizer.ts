/** The optimizer's options, and the numbers of a step of it. */
import { isObject } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import { array, number, oneOf, parseOptions, required, type SchemaOf, value } from '../../options'
import { hyperLength } from './ema'
import { type LrSchedulerConfig, lrFactor, lrFactorAt } from './lr-scheduler'

/** AdamW (Loshchilov & Hutter 2019) with torch.optim.AdamW's defaults, or Lion (Chen et al. 2023) with its authors'. */
export interface OptimizerOptions {
  /** Learning rate; ddpm.py's self.learning_rate. Lion's is a third to a tenth of AdamW's. */
  lr: number
  /**
   * 'adamw' (default), or 'lion': each weight goes lr towards the sign of an average of its gradients, of which alone it keeps one.
   */
  optimizer?: Optimizer
  /** ddpm.py's scheduler_config: what the rate of each update is multiplied by. Default: that of the model's configuration, or none. */
  lrSchedule?: LrSchedulerConfig
  /**
   * Each below 1. AdamW's are the decay of the averages of the gradient and of its square (default [0.9, 0.999]); of Lion's the first
   * is that of the average that it takes the sign of, the second of the one that it keeps (default [0.9, 0.99]).
   */
  betas?: readonly number[]
  /** Added by AdamW to the root of the averaged squares (default 1e-8). Lion has none. */
  eps?: number
  /**
   * Part of each weight, times lr, that is taken off in an update (decoupled). Default 0.01, of Lion 0; its is three to ten times AdamW's.
   */
  weightDecay?: number
  /** Gradients are scaled down to this global L2 norm; 0 (default): no clipping. */
  maxGradNorm?: number
}

export const optimizers = ['adamw', 'lion'] as const
export type Optimizer = (typeof optimizers)[number]

const optimizerSchema = {
  lr: required(number(undefined, { min: 0 })),
  optimizer: oneOf(optimizers, 'adamw'),
  lrSchedule: value<LrSchedulerConfig>('{ target, params }', isObject),
  betas: array(number(undefined, { min: 0, max: 1 })),
  eps: number(undefined, { min: 0 }),
  weightDecay: number(undefined, { min: 0 }),
  maxGradNorm: number(0, { min: 0 }),
} satisfies SchemaOf<OptimizerOptions>

const defaults = {
  adamw: { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 },
  lion: { betas: [0.9, 0.99], eps: 0, weightDecay: 0 },
} as const

/** With defaults. */
export interface OptimizerSettings extends Required<Omit<OptimizerOptions, 'lrSchedule'>> {
  readonly lrSchedule?: LrSchedulerConfig
}

/** With defaults. Throws `unknown-option` and `invalid-argument`. */
export function parseOptimizer(options: OptimizerOptions): OptimizerSettings {
  const parsed = parseOptions('configureOptimizers', options, optimizerSchema)
  const own = defaults[parsed.optimizer]
  const { betas = own.betas, eps = own.eps, weightDecay = own.weightDecay } = parsed
  if (parsed.lrSchedule) lrFactor(parsed.lrSchedule)
  if (parsed.optimizer === 'lion' && parsed.eps !== undefined) {
    throw invalidArgument('eps', 'none with lion, which divides by nothing', parsed.eps)
  }
  if (betas.length === 2) return { ...parsed, betas, eps, weightDecay }
  throw new DiffusionError('invalid-argument', `betas: expected 2 numbers, got ${betas.length}`, {
    argument: 'betas',
    expected: '2 numbers',
    received: String(betas.length),
  })
}

/** Averages of the gradient, and of its square, that it keeps: banks of the weights' layout. */
export function momentsOf({ optimizer }: Pick<OptimizerSettings, 'optimizer'>): readonly ('m' | 'v')[] {
  return optimizer === 'lion' ? ['m'] : ['m', 'v']
}

/** This process among those that train together, each of which has `share` batches a step. */
export interface Place {
  readonly rank: number
  readonly ranks: number
  readonly share: number
}

interface UpdateNodes {
  readonly optimizer: Optimizer
  readonly count: number
  readonly ema: boolean
  readonly place?: Place
  /** Whether ranks share the optimizer's state. Default false. */
  readonly isSharded?: boolean
}

/**
 * The update of the bank 'weights', and with `ema` of the bank 'ema', by the bank 'grads', which is zero afterwards: with `place` by
 * that of all ranks, and where it `isSharded` each rank's own parts alone, of which it has the optimizer's state.
 */
export function appendUpdate(graph: Graph, o: UpdateNodes): { sumSquares: Value } {
  const { optimizer, count, ema, place, isSharded = false } = o
  if (place) graph.sumRanks({ count, ...place, keepsParts: isSharded })
  const shard = isSharded && place ? { rank: place.rank, ranks: place.ranks } : undefined
  const hyper = graph.input('hyper', [1, 1, 1, hyperLength])
  const sumSquares = graph.gradSumSquares(count, shard)
  graph[optimizer](hyper, sumSquares, { count, ema, shard })
  graph.zeroGrads({ count })
  return { sumSquares }
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
