/** The guidance of one sampling: its parts, at the steps in which each is active. */
import type { RunQueue } from '../../../run-queue'
import type { Condition } from '../../process/condition'
import type { Evaluation } from '../plan'
import type { GuidanceKind } from './nodes'
import type { Buffers, GuidancePart, Moment } from './part'

/** What a step has of it. */
export interface ActiveGuidance {
  readonly kind?: GuidanceKind
  /** Of the step's graph. */
  readonly bindings: Buffers
  prepare(queue: RunQueue, at: Moment): Promise<void>
}

export class Guidance {
  constructor(readonly parts: readonly GuidancePart[]) {}

  /** True where JavaScript has a part in the steps. */
  get external(): boolean {
    return this.parts.some(({ external }) => external)
  }

  /** The condition that is gone away from. */
  get negative(): Condition | undefined {
    return this.parts.find(({ negative }) => negative)?.negative
  }

  at(evaluation: Evaluation): ActiveGuidance {
    const active = this.parts.filter((part) => part.isActive(evaluation))
    return {
      kind: active.length > 0 ? Object.assign({}, ...active.map(({ kind }) => kind)) : undefined,
      bindings: Object.assign({}, ...active.map(({ bindings }) => bindings)),
      async prepare(queue, at) {
        for (const part of active) await part.prepare(queue, at)
      },
    }
  }

  release(): void {
    for (const part of this.parts) part.release()
  }
}
