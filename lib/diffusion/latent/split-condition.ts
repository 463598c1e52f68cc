/** Conditions of patches. */
import { invalidArgument } from '../../errors'
import { type Cond, type ConditioningKey, condDict } from './conditioning'
import type { Patches } from './split-input'

/** Conditions that lie on the map as x does, by their names in a batch. */
export const cutsCondition = ['image', 'LR_image', 'segmentation', 'bbox_img']

/** The one map of a condition, by patches. */
export async function cut(cond: Cond | undefined, key: ConditioningKey, patches: Patches): Promise<Cond[] | undefined> {
  if (cond === undefined) return undefined
  const lists = Object.entries(condDict(cond, key))
  const [[name, maps]] = lists
  if (lists.length !== 1 || maps?.length !== 1) throw invalidArgument('cond', 'one map, with splitInputParams', cond)
  return (await patches.unfold(maps[0])).map((map) => ({ [name]: [map] }))
}
