/** Work on many items, some of them at once. */

/** Results in the order of the items. After the first error nothing more is begun. */
export async function mapConcurrently<T, R>(
  items: readonly T[],
  limit: number,
  fn: (item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length)
  let next = 0
  const work = async () => {
    while (next < items.length) {
      const i = next++
      try {
        results[i] = await fn(items[i])
      } catch (error) {
        next = items.length // nothing is begun any more
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, work))
  return results
}
