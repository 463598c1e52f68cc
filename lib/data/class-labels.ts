/** Which class each image of a folder is of. */
import { readJsonFile } from '../checkpoint/json'
import { DiffusionError, describe, quote } from '../errors'

/** 'folders': the first folder of an image's path is its class. Otherwise a JSON file, { "path of an image": "class" }. */
export type ClassSource = 'folders' | (string & {})

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
  const classOf = source === 'folders' ? firstFolder : await readLabels(source)
  const classes = files.map(classOf)
  const without = files.filter((_, i) => classes[i] === undefined)
  if (without.length > 0) {
    const where = source === 'folders' ? 'lie in no sub-folder, which would be their class' : `are not in ${source}`
    throw new DiffusionError('invalid-argument', `${without.length} images ${where}, first ${without[0]}`, {
      argument: 'classes',
      expected: 'a class for every image',
      received: source,
    })
  }
  const names = [...new Set(classes as string[])].sort()
  const index = new Map(names.map((name, i) => [name, i]))
  return { names, labels: Int32Array.from(classes, (name) => index.get(name!)!) }
}

function firstFolder(file: string): string | undefined {
  const end = file.indexOf('/')
  return end < 0 ? undefined : file.slice(0, end)
}

async function readLabels(source: string): Promise<(file: string) => string | undefined> {
  const labels = await readJsonFile(source, { argument: 'classes', memoryOfByte })
  for (const file of Object.keys(labels)) {
    const name = labels[file]
    if (typeof name !== 'string' || name === '') throw badClass(source, file, name)
  }
  return (file) => (Object.hasOwn(labels, file) ? (labels[file] as string) : undefined)
}

/** A line for each image of a data set is much text, and a few times as much in memory. */
const memoryOfByte = 16

function badClass(source: string, file: string, name: unknown): DiffusionError {
  return new DiffusionError('bad-file', `${source}: the class of ${quote(file)} is ${describe(name)}`, {
    argument: 'classes',
    expected: '{ "path of an image": "class", ... }',
    received: source,
  })
}
