/** ddpm.py's shortened schedule of conditions, num_timesteps_cond. */
import { invalidArgument } from '../../errors'
import type { Shape, Tensor } from '../../tensor'
import type { Condition } from '../process/condition'
import type { Core } from '../process/core'
import { conditionNoise, noisyCondition } from '../process/noisy-condition'
import type { Stream } from '../process/process'
import { roundToEven } from '../process/schedule'

/** make_cond_schedule's cond_ids, [T]: the first `count` go evenly from 0 to T - 1, all others are T - 1. */
export function condSchedule(timesteps: number, count: number): Int32Array {
  const ids = new Int32Array(timesteps).fill(timesteps - 1)
  const step = Math.fround((timesteps - 1) / (count - 1))
  // torch's linspace counts from both ends.
  for (let i = 0; i < count; i++) {
    const at = i < count / 2 ? step * i : timesteps - 1 - step * (count - 1 - i)
    ids[i] = roundToEven(Math.fround(at))
  }
  return ids
}

/** Throws `invalid-argument` for a model whose conditions can have no noise. */
export function checkCondSchedule(count: number, timesteps: number, key: string | undefined): void {
  if (count === 1) return
  if (count > timesteps) throw invalidArgument('numTimestepsCond', `at most ${timesteps}, the timesteps`, count)
  if (key === 'crossattn' || key === 'concat') return
  throw invalidArgument('numTimestepsCond', `1 with conditioningKey ${key ? `'${key}'` : 'undefined'}`, count)
}

/** What the network is told in the steps of a sampling: each adds noise to what the last one was told, as in ddpm.py. */
export function pilingNoise(
  core: Core,
  ids: Int32Array,
  condition: Condition,
  o: Omit<Stream, 'step'> & { noise?: (i: number) => Tensor | Promise<Tensor> },
): (i: number, t: number) => Promise<Condition> {
  let told = condition
  return async (i, t) => {
    const tc = (condition.context ?? condition.concat)!.shape[0]
    const noise = (shape: Shape) => o.noise?.(i) ?? conditionNoise(shape, { ...o, step: i })
    told = await noisyCondition(core, told, new Int32Array(tc).fill(ids[t]), noise)
    return told
  }
}
