/** Timesteps and class labels as the user gives them. */
import { DiffusionError, invalidArgument } from '../../errors'
import { Tensor } from '../../tensor'

/** One for all samples, or one for each. */
export type Integers = number | readonly number[] | Int32Array | Tensor
export type Timesteps = Integers

/** What a function is told, of each sample: int32 where all are whole. */
export type Times = Int32Array | Float32Array

export function timesOf(n: number, t: number): Times {
  return Number.isInteger(t) ? new Int32Array(n).fill(t) : new Float32Array(n).fill(t)
}

/** One timestep for each of `n` samples. Throws unless all are integers from 0 to `numTimesteps` - 1. */
export async function parseTimesteps(t: Timesteps, n: number, numTimesteps: number): Promise<Int32Array> {
  return parseIntegers(t, n, { argument: 't', noun: 'timesteps', count: numTimesteps })
}

/** One integer for each of `n` samples. Throws unless all are integers from 0 to `count` - 1. */
export async function parseIntegers(
  given: Integers,
  n: number,
  { argument, noun, count }: { argument: string; noun: string; count: number },
): Promise<Int32Array> {
  const expected = `integers from 0 to ${count - 1}`
  let list: ArrayLike<number>
  if (typeof given === 'number') list = [given]
  else if (given instanceof Tensor) list = await given.values()
  else if (Array.isArray(given) || given instanceof Int32Array) list = given
  else throw invalidArgument(argument, `a number, an array, an Int32Array or a Tensor of ${expected}`, given)
  if (list.length !== n && list.length !== 1) {
    const message = `${argument}: expected ${n} ${noun}, one for each sample, got ${list.length}`
    const received = String(list.length)
    throw new DiffusionError('invalid-argument', message, { argument, expected: `${n} ${noun}`, received })
  }
  const parsed = new Int32Array(n)
  for (let i = 0; i < n; i++) {
    const value = list[list.length === 1 ? 0 : i]
    if (!Number.isInteger(value) || value < 0 || value >= count) throw invalidArgument(argument, expected, value)
    parsed[i] = value
  }
  return parsed
}
