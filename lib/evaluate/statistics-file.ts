/** Statistics in .npz files: mu and sigma, as pytorch-fid, guided-diffusion and clean-fid name them, and what is ours beside them. */
import { createHash } from 'node:crypto'
import { type Source, withSource } from '../checkpoint/source'
import { type Npy, readArrays, readFloats, readNumbers } from '../data/npy'
import { type NpyArray, writeNpz } from '../data/npz'
import { describe } from '../errors'
import type { ImageStatistics } from './statistics'

const names = ['mu', 'sigma', 'count', 'features', 'sha256']
/** [d, d] float64 of more would not fit into memory. */
const maxFeatures = 2 ** 14

/** Writes them for this package and, as mu and sigma, for other tools. Throws `io`. */
export async function writeStatistics(
  file: string,
  { mean, covariance, count, features }: ImageStatistics,
): Promise<void> {
  const d = mean.length
  const arrays: Record<string, NpyArray> = {
    mu: { data: mean, shape: [d] },
    sigma: { data: covariance, shape: [d, d] },
    ...(count !== undefined && { count: { data: Float64Array.of(count), shape: [1] } }),
    ...(features && { features: { data: features, shape: [features.length / d, d] } }),
  }
  const digest = digestOf({ mean, covariance, count, features })
  await writeNpz(file, { ...arrays, sha256: { data: new Uint8Array(digest), shape: [digest.length] } })
}

/** Whether the .npz file has statistics rather than images alone. Throws as `readStatistics` does. */
export function hasStatistics(file: string): Promise<boolean> {
  return withSource(file, format, async (source) => (await readArrays(source, isName)).has('mu'), { argument: 'path' })
}

/**
 * Reads mu and sigma of any tool's .npz, and features and the number of images where this package wrote it. Throws `not-found`, `io`,
 * and `bad-file` for a damaged file, one without mu and sigma, and numbers that are not finite.
 */
export function readStatistics(file: string): Promise<ImageStatistics> {
  return withSource(file, format, read, { argument: 'path' })
}

const format = "file of statistics (.npz with 'mu' and 'sigma')"
const isName = (name: string) => names.includes(name)

async function read(source: Source): Promise<ImageStatistics> {
  const arrays = await readArrays(source, isName)
  const { mu, sigma, count, features, sha256 } = Object.fromEntries(arrays) as Record<string, Npy | undefined>
  if (!mu || !sigma) throw source.bad("it has no 'mu' and 'sigma'")
  const [d] = mu.shape
  const square = sigma.shape.length === 2 && sigma.shape.every((extent) => extent === d)
  if (mu.shape.length !== 1 || !square || d < 1 || d > maxFeatures)
    throw source.bad(`mu is of shape ${describe(mu.shape)}, sigma of ${describe(sigma.shape)}`)
  if (features && (features.shape.length !== 2 || features.shape[1] !== d))
    throw source.bad(`features are of shape ${describe(features.shape)}`)
  const statistics: ImageStatistics = {
    mean: await readNumbers(source, mu),
    covariance: await readNumbers(source, sigma),
    ...(count && { count: await readCount(source, count) }),
    ...(features && { features: await readFloats(source, features) }),
  }
  for (const [name, values] of Object.entries({ mu: statistics.mean, sigma: statistics.covariance })) {
    if (!values.every(Number.isFinite)) throw source.bad(`${name} is not finite`)
  }
  if (sha256 && !Buffer.from(await readNumbers(source, sha256)).equals(digestOf(statistics)))
    throw source.bad('its numbers are not those that were written')
  return statistics
}

async function readCount(source: Source, array: Npy): Promise<number> {
  const [count, ...more] = array.shape.length === 1 ? await readNumbers(source, array) : []
  if (Number.isSafeInteger(count) && count >= 0 && more.length === 0) return count
  throw source.bad('count is no number of images')
}

function digestOf({ mean, covariance, count, features }: ImageStatistics): Buffer {
  const hash = createHash('sha256').update(mean).update(covariance)
  if (count !== undefined) hash.update(Float64Array.of(count))
  if (features) hash.update(features)
  return hash.digest()
}
