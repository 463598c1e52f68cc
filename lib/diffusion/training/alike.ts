import { DiffusionError } from '../../errors'
import type { World } from '../../world'

/**
 * Throws `rank-failed`, on all ranks, for the first number that one has otherwise than rank 0: ranks that took other batches would add up
 * what does not belong together, or wait for one another for ever. A number that is NaN is not compared.
 */
export async function mustBeAlike(world: World, own: Readonly<Record<string, number>>): Promise<void> {
  const all = await world.gather(Object.values(own))
  const [first] = all
  const differs = (n: number, i: number) => n !== first[i] && !Number.isNaN(n) && !Number.isNaN(first[i])
  const wrong = all.findIndex((numbers) => numbers.some(differs))
  if (wrong < 0) return
  const i = all[wrong].findIndex(differs)
  const [name, expected, received] = [Object.keys(own)[i], first[i], all[wrong][i]]
  throw new DiffusionError('rank-failed', `rank ${wrong} has ${name} ${received}, rank 0 has ${expected}`, {
    argument: name,
    expected: String(expected),
    received: String(received),
  })
}
