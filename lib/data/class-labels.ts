/** Which class each image of a folder is of. */
import { DiffusionError } from '../errors'
import { readLabelFile } from './label-file'

/**
 * 'folders': the first folder of an image's path is its class. 'labels': those that the file of the images has itself. Otherwise a
 * JSON file, { "path of an image": "class" }.
 */
export type ClassSource = 'folders' | 'labels' | (string & {})

export interface ClassLabelling {
  /** In the order of their code units; label i is the class names[i]. */
  readonly names: readonly string[]
  /** One for each file. */
  readonly labels: Int32Array
}

/**
 * Throws `not-found`, `io` and `bad-file` for the JSON file, and `invalid-argument` for images without a class. Paths are relative
 * to the folder of images, with '/'.
 */
export async function classLabels(files: readonly string[], source: ClassSource): Promise<ClassLabelling> {
  const labels = source === 'folders' ? undefined : await readLabelFile(source, files)
  const classes = files.map((file) => (labels ? labels.get(file) : firstFolder(file)))
  const without = files.filter((_, i) => classes[i] === undefined)
  if (without.length > 0) {
    const where = source === 'folders' ? 'lie in no sub-folder, which would be their class' : `are not in ${source}`
    throw new DiffusionError('invalid-argument', `${without.length} images ${where}, first ${without[0]}`, {
      argument: 'classes',
      expected: 'a class for every image',
      received: source,
    })
  }
  return labelling(classes as string[])
}

/** Of the class of each image. */
export function labelling(classes: readonly string[]): ClassLabelling {
  const names = [...new Set(classes)].sort()
  const index = new Map(names.map((name, i) => [name, i]))
  return { names, labels: Int32Array.from(classes, (name) => index.get(name)!) }
}

function firstFolder(file: string): string | undefined {
  const end = file.indexOf('/')
  return end < 0 ? undefined : file.slice(0, end)
}

/** Of the class of each image, as files of labels have them: in the order of the numbers where all are numbers. */
export function labellingOfWords(classes: readonly string[]): ClassLabelling {
  const found = labelling(classes)
  if (!found.names.every((name) => /^\d{1,15}$/.test(name))) return found
  const order = found.names.map((_, label) => label).sort((a, b) => Number(found.names[a]) - Number(found.names[b]))
  const placeOf = order.reduce((places, label, place) => places.set(label, place), new Map<number, number>())
  return {
    names: order.map((label) => found.names[label]),
    labels: found.labels.map((label) => placeOf.get(label)!),
  }
}
