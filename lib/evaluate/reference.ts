/** The images that samples are compared with: a data set, or what a file says of one. */
import { Dataset, type DatasetOptions } from '../data/dataset'
import { openSource } from '../data/sources/open'
import type { TrainingData } from '../data/training-data'
import { DiffusionError, invalidArgument } from '../errors'
import { boolean, func, integer, oneOf, parseOptions, type SchemaOf, string, value } from '../options'
import { dataStamp } from './data-stamp'
import { imagesOf } from './images'
import { type ImageStatistics, type ImageStatisticsOptions, imageStatistics, statisticsSchema } from './statistics'
import { cachedStatistics } from './statistics-cache'
import { hasStatistics, readStatistics } from './statistics-file'

/** Of referenceStatistics. */
export interface ReferenceOptions extends ImageStatisticsOptions {
  /** Height and width that images are scaled and cropped to. Default: those of the first image. */
  size?: DatasetOptions['size']
  /** Of the images: 3 for RGB, 1 for grey. Default 3. */
  channels?: number
  /** Images of the data: the first of its order by seed 0. Default: all. */
  limit?: number
  /** Images in a batch. Default 16. */
  batchSize?: number
  /** What shows through transparent pixels: a CSS colour. Default 'white'. */
  background?: string
  /** Of images of another shape: cut out their middle, or scale each side by itself ('none'). Default 'centre'. */
  crop?: 'centre' | 'none'
  /** Black and white of images and arrays of floats, such as [0, 1]. Default: floats are refused. */
  range?: DatasetOptions['range']
  /** Read SVGs, too; what they do is not bounded. Default false. */
  svg?: boolean
  /** Called once for each item that turns out to be unreadable. Default: none. */
  onUnreadable?: DatasetOptions['onUnreadable']
  /** Called where what is kept on the disk can't be read or written; then it is computed, or not kept. Default: none. */
  onWarning?: (warning: DiffusionError) => unknown
}

const isSize = (v: unknown) => Number.isInteger(v) || (Array.isArray(v) && v.length === 2 && v.every(Number.isInteger))

const schema = {
  ...statisticsSchema,
  size: value<ReferenceOptions['size']>('an integer, or height and width', isSize),
  channels: integer(3, { min: 1 }),
  limit: integer(undefined, { min: 1 }),
  batchSize: integer(16, { min: 1 }),
  background: string('white'),
  crop: oneOf(['centre', 'none'], 'centre'),
  range: value<ReferenceOptions['range']>(
    'black, then white',
    (v) => Array.isArray(v) && v.length === 2 && v[0] < v[1],
  ),
  svg: boolean(false),
  onUnreadable: func<DatasetOptions['onUnreadable']>(),
  onWarning: func<(warning: DiffusionError) => unknown>(),
} satisfies SchemaOf<ReferenceOptions>

/**
 * Of a .npz file with mu and sigma, as pytorch-fid, guided-diffusion and clean-fid write them; or of any data that a training takes,
 * which are gone through once and kept in `~/.cache/ddpm-native/statistics` (DDPM_CACHE is another folder), by the names, sizes and
 * times of the files, the size of the images and the extractor's identity. Throws what Dataset.open, readStatistics and
 * imageStatistics throw.
 */
export async function referenceStatistics(data: string, options: ReferenceOptions): Promise<ImageStatistics> {
  const o = parseOptions('referenceStatistics', options, schema)
  const { extractor, keepFeatures } = o
  if (/\.npz$/i.test(data) && (await hasStatistics(data))) {
    const known = await readStatistics(data)
    if (known.mean.length !== extractor.features) {
      const problem = `${data} has statistics of ${known.mean.length} features, and the extractor has ${extractor.features}`
      throw new DiffusionError('invalid-argument', problem, { argument: 'data' })
    }
    if (!keepFeatures || known.features) {
      if (o.limit === undefined) return known
      throw invalidArgument('limit', `none for ${data}, which has statistics of all its images`, o.limit)
    }
    return { ...(await ofImagesBeside(data, o)), mean: known.mean, covariance: known.covariance }
  }
  return dataStatistics(await openReference(data, o), o, data)
}

/** Of an .npz with images, as guided-diffusion's have them, beside their moments. */
async function ofImagesBeside(data: string, options: ReferenceOptions): Promise<ImageStatistics> {
  const images = await openReference(data, options).catch((error) => {
    if (!(error instanceof DiffusionError) || error.code !== 'bad-file') throw error
    const problem = `${data} has no images and no features, which KID, precision and recall need: name the data set`
    throw new DiffusionError('invalid-argument', problem, { argument: 'data', cause: error })
  })
  return dataStatistics(images, options, data)
}

/** The data set as samples are compared with it: nothing mirrored, nothing at random. */
export async function openReference(
  data: string,
  { size, channels = 3, background, crop, range, svg, onUnreadable }: Omit<ReferenceOptions, 'extractor'>,
): Promise<Dataset> {
  const source = await openSource(data, { channels, height: 1, width: 1, range, svg })
  const first = size === undefined ? await source.sizeOf(0) : undefined
  const own = first ? ([first.height, first.width] as const) : size!
  return Dataset.of(source, { size: own, channels, background, crop, range, svg, onUnreadable })
}

/**
 * Statistics of opened data. They are kept on the disk where their files are known by `path` and the extractor has an identity.
 */
export async function dataStatistics(
  data: TrainingData,
  { extractor, keepFeatures = false, limit, batchSize, onProgress, signal, onWarning }: ReferenceOptions,
  path?: string,
): Promise<ImageStatistics> {
  const images = imagesOf(data, { count: limit, batchSize })
  const compute = () => imageStatistics(images, { extractor, keepFeatures, onProgress, signal })
  if (path === undefined || extractor.identity === undefined || !(data instanceof Dataset)) return compute()
  const stamp = await dataStamp(path, data.source)
  const key = [data.fingerprint, stamp, images.count, extractor.identity]
  return cachedStatistics(key, { features: extractor.features, keepFeatures, onWarning }, compute)
}
