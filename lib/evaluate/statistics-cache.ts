/** Statistics that are computed once and kept on the disk. */
import { createHash } from 'node:crypto'
import path from 'node:path'
import { cacheFolder } from '../cache-folder'
import { DiffusionError } from '../errors'
import { makeFolder } from '../make-folder'
import type { ImageStatistics } from './statistics'
import { readStatistics, writeStatistics } from './statistics-file'

/** What they are computed of, all that they depend on included. */
export type StatisticsKey = readonly unknown[]

export interface StatisticsCacheOptions {
  /** Features of an image. */
  readonly features: number
  readonly keepFeatures: boolean
  /** What could not be read or written: the statistics are then computed, or not kept. */
  readonly onWarning?: (warning: DiffusionError) => unknown
}

/** Of the numbers that another version of this package computes. */
const version = 1

/** From the cache, or computed and put there. A damaged file is computed again, and told of. */
export async function cachedStatistics(
  key: StatisticsKey,
  { features, keepFeatures, onWarning }: StatisticsCacheOptions,
  compute: () => Promise<ImageStatistics>,
): Promise<ImageStatistics> {
  const name = createHash('sha256')
    .update(JSON.stringify([version, ...key]))
    .digest('hex')
  const folder = path.join(cacheFolder(), 'statistics')
  const file = path.join(folder, `${name.slice(0, 32)}.npz`)
  try {
    const kept = await readStatistics(file)
    if (kept.mean.length === features && (kept.features || !keepFeatures)) return kept
  } catch (error) {
    if (!(error instanceof DiffusionError)) throw error
    if (error.code !== 'not-found') await onWarning?.(error)
  }
  const statistics = await compute()
  try {
    await makeFolder(folder)
    await writeStatistics(file, statistics)
  } catch (error) {
    // They are there, and only the next evaluation is slower.
    if (!(error instanceof DiffusionError)) throw error
    await onWarning?.(error)
  }
  return statistics
}
