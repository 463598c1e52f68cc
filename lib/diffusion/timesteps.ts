/** Timesteps as the user gives them. */
import { DiffusionError, describe, invalidArgument } from '../errors'
import { Tensor } from '../tensor'

/** One for all samples, or one for each. */
export type Timesteps = number | readonly number[] | Int32Array | Tensor

/** One timestep for each of `n` samples. Throws unless all are integers from 0 to `numTimesteps` - 1. */
export async function parseTimesteps(t: Timesteps, n: number, numTimesteps: number): Promise<Int32Array> {
  const expected = `integers from 0 to ${numTimesteps - 1}`
  let list: ArrayLike<number>
  if (typeof t === 'number') list = [t]
  else if (t instanceof Tensor) list = await t.values()
  else if (Array.isArray(t) || t instanceof Int32Array) list = t
  else throw invalidArgument('t', `a number, an array, an Int32Array or a Tensor of ${expected}`, t)
  if (list.length !== n && list.length !== 1) {
    throw new DiffusionError(
      'invalid-argument',
      `t: expected ${n} timesteps, one for each sample, got ${list.length}`,
      {
        argument: 't',
        expected: `${n} timesteps`,
        received: String(list.length),
      },
    )
  }
  const parsed = new Int32Array(n)
  for (let i = 0; i < n; i++) {
    const value = list[list.length === 1 ? 0 : i]
    if (!Number.isInteger(value) || value < 0 || value >= numTimesteps) {
      throw new DiffusionError('invalid-argument', `t: expected ${expected}, got ${describe(value)}`, {
        argument: 't',
        expected,
        received: describe(value),
      })
    }
    parsed[i] = value
  }
  return parsed
}
