/** What guidance is made of: each part knows its inputs of a step's graph, and what has to be computed for it before. */
import type { NativeBuffer } from '../../../native'
import type { RunQueue } from '../../../run-queue'
import type { Condition } from '../../process/condition'
import type { Evaluation } from '../plan'
import type { GuidanceKind } from './nodes'

export type Buffers = Readonly<Record<string, NativeBuffer>>

/** Where a sampling stands: x_t, t and the plan's row of each sample on the device, and the evaluation of all. */
export interface Moment {
  readonly x: NativeBuffer
  readonly t: NativeBuffer
  readonly row: NativeBuffer
  readonly at: Evaluation
}

export interface GuidancePart {
  readonly kind: GuidanceKind
  /** True where JavaScript has a part in it, so that x has to be computed first. */
  readonly external: boolean
  /** Of the same network in the step's graph, beside the given one. */
  readonly negative?: Condition
  /** Whether it has one in the step of this evaluation. */
  isActive(at: Evaluation): boolean
  /** Of the step's graph. */
  readonly bindings: Buffers
  /** Asks for what its bindings have to hold. */
  prepare(queue: RunQueue, at: Moment): Promise<void>
  release(): void
}
