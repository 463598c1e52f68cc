/** What the methods of Graph give, and the options that some of them take. */
import type { Dims, ValueId } from './native'

/** A value of a graph. */
export interface Value {
  readonly id: ValueId
  readonly dims: Dims
}

/** kernels/ops.h, Losses, in the order of LossType. */
export const lossTypes = ['l1', 'l2', 'huber', 'smooth_l1', 'pseudo_huber'] as const
export type LossType = (typeof lossTypes)[number]

/** What a loss measures an element's difference by. */
export interface ElementLoss {
  readonly type: LossType
  /** Where a Huber loss becomes straight, above 0. Default 1. */
  readonly delta?: number
}

export interface PoolOptions {
  readonly kernel: number
  readonly stride: number
  /** [top, left, bottom, right], at most half of the kernel each. */
  readonly padding: readonly number[]
}

export interface FirOptions {
  readonly taps: readonly number[]
  /** Default 1. */
  readonly up?: number
  /** Default 1. */
  readonly down?: number
  readonly padding: readonly number[]
}
