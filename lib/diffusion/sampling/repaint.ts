/** RePaint's resampling for inpainting: Lugmayr et al. 2022, section 4.2. */
import type { NativeBuffer } from '../../native'
import { Purpose } from '../../rng'
import type { RunQueue } from '../../run-queue'
import type { Shape } from '../../tensor'
import { type Core, extentOf } from '../process/core'
import { noiseInputs } from '../process/process'
import type { Schedule } from '../process/schedule'
import type { Clock } from './image'
import type { Evaluation, SamplingPlan } from './plan'

/**
 * Each part of `length` steps `times` times (the paper's get_schedule_jump, appendix B): from its end a jump leads back to its
 * beginning, by as much noise as lies between (Ho et al. 2020, eq. 2, for several steps at once).
 */
export function resampledEvaluations(
  evaluations: readonly Evaluation[],
  o: { readonly length: number; readonly times: number; readonly schedule: Schedule },
): Evaluation[] {
  const count = evaluations.length
  const bar = (place: number) => o.schedule.alphasCumprod[evaluations[place].t]
  /** By how many steps are left after the next one. */
  const jumps = new Map<number, number>()
  for (let left = 0; left < count - o.length; left += o.length) jumps.set(left, o.times - 1)
  const path: Evaluation[] = []
  for (let place = 0; place < count; place++) {
    const left = count - 1 - place
    const more = jumps.get(left) ?? 0
    if (more === 0) {
      path.push(evaluations[place])
      continue
    }
    jumps.set(left, more - 1)
    const from = bar(place)
    place -= o.length
    const kept = bar(place) / from
    path.push({ ...evaluations[place], jump: [Math.sqrt(kept), Math.sqrt(1 - kept)] })
  }
  return path
}

/** The jumps of a plan on the device. */
export class Jumps {
  readonly #tables: Readonly<Record<'state' | 'noise', NativeBuffer>>

  constructor(
    readonly core: Core,
    readonly shape: Shape,
    readonly plan: SamplingPlan,
  ) {
    const column = (of: 0 | 1) => {
      const values = new Float32Array(plan.rows)
      for (const [row, { jump }] of plan.evaluations.entries()) values[row] = jump?.[of] ?? 0
      return core.device.upload(values)
    }
    this.#tables = { state: column(0), noise: column(1) }
  }

  /** Asks for x with the noise of this step's jump in y. The first states have row 0 of the same stream, where no jump is. */
  addNoise(queue: RunQueue, { x, y, clock }: { x: NativeBuffer; y: NativeBuffer; clock: Clock }): void {
    const { n, d } = extentOf(this.shape, 'shape')
    const { rows } = this.plan
    const program = this.core.program('jump', { n, d, rows }, (g) => {
      const { rng, sample, step } = noiseInputs(g, n)
      const z = g.gaussianNoise(rng, sample, step, { d, purpose: Purpose.initial })
      const [a, b] = ['state', 'noise'].map((name) => g.input(name, [rows, 1, 1, 1]))
      return { y: g.timestepAffine(g.input('x', [n, 1, 1, d]), a, step, z, b) }
    })
    const { row, rng, sample } = clock
    queue.add(program, { x, ...this.#tables, rng, sample, step: row, y })
  }

  release(): void {
    for (const buffer of Object.values(this.#tables)) buffer.release()
  }
}
