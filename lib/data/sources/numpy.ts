/**
 * NumPy's arrays of images: .npy, and .npz with labels beside them (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
 */
import { type Source, withSource } from '../../checkpoint/source'
import { quote } from '../../errors'
import { type ClassLabelling, labellingOfWords } from '../class-labels'
import { type Npy, readArrays, readHeader } from '../npy'
import { bytesOfType, checkExtent, layoutOf, rawSource, rawTypes } from './raw'
import type { ImageSource, SourceOptions } from './source'

/** Throws `bad-file`, `not-found` and `io`, and `invalid-argument` for channels and floats that options don't fit. */
export async function npySource(file: string, o: SourceOptions): Promise<ImageSource> {
  const raw = await withSource(
    file,
    'NumPy array of images (.npy)',
    async (source) => imagesOf(source, await readHeader(source, 0, source.size, source.name), o),
    { argument: 'data' },
  )
  return rawSource({ ...raw, file }, o)
}

/** The same of an archive, whose integers of one dimension, if there are any of that length, are the labels. */
export async function npzSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const read = async (source: Source) => {
    const arrays = [...(await readArrays(source))].map(([name, array]) => ({ name, array }))
    const images = pick(
      arrays.filter(({ array }) => array.shape.length >= 3),
      imageNames,
    )
    if (!images) throw source.bad(`none of its ${arrays.length} arrays is of three or four dimensions`)
    const raw = imagesOf(source, images.array, o)
    const fits = ({ array }: { array: Npy }) =>
      /^[<>]?[iu]\d$/.test(array.type) && array.shape[0] === raw.count && array.shape.slice(1).every((n) => n === 1)
    const labels = pick(arrays.filter(fits), labelNames)
    return { ...raw, ...(labels && { classes: await readLabels(source, labels.array) }) }
  }
  return rawSource(
    { ...(await withSource(file, 'NumPy archive of images (.npz)', read, { argument: 'data' })), file },
    o,
  )
}

/** Of several arrays, the one of these names that comes first: this package's and guided-diffusion's, Keras', MedMNIST's. */
const imageNames = ['arr_0', 'images', 'x_train', 'train_images', 'x', 'data']
const labelNames = ['arr_1', 'labels', 'y_train', 'train_labels', 'y', 'label']

function pick<T extends { readonly name: string }>(arrays: readonly T[], names: readonly string[]): T | undefined {
  const rank = ({ name }: T) => (names.includes(name) ? names.indexOf(name) : names.length)
  return arrays.toSorted((a, b) => rank(a) - rank(b))[0]
}

function imagesOf(source: Source, array: Npy, o: SourceOptions) {
  const bad = (problem: string) => source.bad(problem)
  const type = rawTypes.find((known) => known === array.type)
  if (!type) throw bad(`its numbers are ${quote(array.type)}: read are ${rawTypes.join(', ')}`)
  const layout = layoutOf(array.shape, o.channels, bad)
  checkExtent(layout, bad)
  const stride = layout.height * layout.width * layout.channels * bytesOfType(type)
  const { begin, unpacked } = array
  return { ...layout, type, begin, stride, ...(unpacked && { unpacked }) }
}

async function readLabels(source: Source, { shape: [count], type, begin, unpacked }: Npy): Promise<ClassLabelling> {
  const width = Number(type.at(-1))
  source.budget.memory(count * (width + 64))
  source.budget.items(count)
  const bytes = unpacked ? unpacked.slice(begin, begin + count * width) : new Uint8Array(count * width)
  if (!unpacked) await source.read(bytes, begin)
  const view = Buffer.from(bytes.buffer)
  const little = !type.startsWith('>')
  const read = (at: number): number => {
    if (width === 8) return Number(little ? view.readBigInt64LE(at) : view.readBigInt64BE(at))
    return type.includes('i')
      ? view[little ? 'readIntLE' : 'readIntBE'](at, width)
      : view[little ? 'readUIntLE' : 'readUIntBE'](at, width)
  }
  const labels = Array.from({ length: count }, (_, i) => read(i * width))
  const wrong = labels.findIndex((label) => label < 0)
  if (wrong >= 0) throw source.bad(`the label of image ${wrong} is ${labels[wrong]}, which is out of range`)
  return labellingOfWords(labels.map(String))
}
