/**
 * Parquet files of encoded images, as data sets of the hub have them (https://huggingface.co/docs/datasets/image_dataset): a column of
 * images, { bytes, path } or plain binary, with one of labels or of texts.
 */
import { isObject } from '../../checkpoint/json'
import { type Source, withSource } from '../../checkpoint/source'
import { DiffusionError, quote } from '../../errors'
import { type ClassLabelling, labellingOfWords } from '../class-labels'
import { readColumn, type Value } from '../parquet/column'
import { ImageColumn } from '../parquet/image-column'
import { type Column, type Metadata, readMetadata } from '../parquet/metadata'
import { encodedSource } from './encoded'
import { captionColumns, labelColumns } from './manifest'
import { numberedClasses } from './raw'
import type { ImageSource, SourceOptions } from './source'

/** The first that is there, where the file's features don't say which column is of images. */
const imageColumns = ['image', 'img', 'jpg', 'png', 'webp']

/** Of a label in our lists, with the text that it is. */
const labelCost = 64

/**
 * Items are called by the numbers of their rows. Throws `bad-file` for a file that is damaged or truncated, has no column of images, or
 * has a label that is none; an image that is damaged is left out.
 */
export async function parquetSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const read = async (source: Source) => {
    const metadata = await readMetadata(source)
    const features = featuresOf(metadata)
    const find = (names: readonly string[]) => columnOf(metadata, names)
    const images = imagesOf(source, metadata, features)
    const [ofClass] = features.filter(({ type }) => type === 'ClassLabel')
    const label = find(labelColumns) ?? (ofClass && find([ofClass.name]))
    const caption = find(captionColumns)
    if (metadata.rows === 0) {
      throw new DiffusionError('invalid-argument', `${file} has no images: it has no rows`, { argument: 'data' })
    }
    const named = features.find(({ name, type }) => name === label?.name && type === 'ClassLabel')
    const classes = label && classesOf(source, await readColumn(source, metadata, label), named?.classes)
    const captions = caption?.type === 'BYTE_ARRAY' ? await readColumn(source, metadata, caption) : undefined
    return { metadata, images: await ImageColumn.open(source, metadata, images), classes, captions }
  }
  const { metadata, images, classes, captions } = await withSource(file, 'Parquet file', read, { argument: 'data' })
  return encodedSource(
    file,
    {
      length: metadata.rows,
      nameOf: String,
      bytesOf: (i) => images.bytesOf(i),
      identity: ['parquet', metadata.rows, metadata.hash],
      leftOut: [],
      ...(classes && { classes }),
      ...(captions && { captionOf: (i: number) => captions[i] as string | undefined }),
    },
    o,
  )
}

/** What the hub's library says of a column. */
interface Feature {
  readonly name: string
  readonly type: string
  /** Of a ClassLabel, in the order of their numbers. */
  readonly classes: readonly string[] | undefined
}

function featuresOf({ texts }: Metadata): Feature[] {
  let json: unknown
  try {
    json = JSON.parse(texts.get('huggingface') ?? '')
  } catch {
    return [] // another tool's
  }
  const info = isObject(json) && isObject(json.info) ? json.info : {}
  const features = isObject(info.features) ? info.features : {}
  return Object.entries(features).flatMap(([name, feature]) => {
    if (!isObject(feature) || typeof feature._type !== 'string') return []
    const { names } = feature
    const classes = Array.isArray(names) && names.every((n) => typeof n === 'string') ? names : undefined
    return [{ name, type: feature._type, classes }]
  })
}

/** The first of the names that is a column of single values. */
function columnOf({ columns }: Metadata, names: readonly string[]): Column | undefined {
  return names
    .map((name) => columns.find((column) => column.name === name && !column.repeated && column.type !== 'other'))
    .find(Boolean)
}

function imagesOf({ bad }: Source, metadata: Metadata, features: readonly Feature[]): Column {
  const names = [...features.filter(({ type }) => type === 'Image').map(({ name }) => name), ...imageColumns]
  const found = columnOf(
    metadata,
    names.flatMap((name) => [`${name}.bytes`, name]),
  )
  if (found?.type === 'BYTE_ARRAY') return found
  const has = metadata.columns.map(({ name }) => name).join(', ')
  throw bad(`it has no column of images, such as 'image' or 'image.bytes' in binary: it has ${has}`)
}

function classesOf(
  { bad, budget }: Source,
  labels: readonly (Value | undefined)[],
  names: readonly string[] | undefined,
): ClassLabelling {
  budget.memory(labelCost * labels.length)
  const without = labels.indexOf(undefined)
  if (without >= 0) throw bad(`row ${without} has no label`)
  if (names && typeof labels[0] === 'number') return numberedClasses(labels as number[], names, bad)
  const wrong = labels.findIndex((label) => typeof label === 'number' && !(label >= 0 && Number.isSafeInteger(label)))
  if (wrong >= 0) throw bad(`the label of row ${wrong} is ${quote(String(labels[wrong]))}, which is out of range`)
  return labellingOfWords(labels.map(String))
}
