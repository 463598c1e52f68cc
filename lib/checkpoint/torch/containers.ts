/** Dicts and sets of a pickle, charged as they grow. */
import type { Budget } from '../budget'

/** Bytes of an item in V8's Map and Set, roughly. */
const itemCost = 96

export function setItem(dict: Map<unknown, unknown>, key: unknown, value: unknown, budget: Budget): void {
  chargeItem(dict.size, key, budget)
  dict.set(key, value)
}

export function addItem(set: Set<unknown>, item: unknown, budget: Budget): void {
  chargeItem(set.size, item, budget)
  set.add(item)
}

/**
 * V8's hashes of numbers are no secret: a file can have those that fall into one bucket, in which finding one means looking at all
 * of them. Strings and objects have hashes that nobody knows.
 */
function chargeItem(size: number, key: unknown, budget: Budget): void {
  // Comparing takes a bigint much longer.
  budget.items(1 + (typeof key === 'bigint' ? size : typeof key === 'number' ? size >>> 6 : 0))
  budget.memory(itemCost)
}
