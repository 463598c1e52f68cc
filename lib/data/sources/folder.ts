/** A folder of images. */
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { mapConcurrently } from '../concurrently'
import { checkImageHeader, decodeImage } from '../image-file'
import { imageExtensions, listImages } from '../list-images'
import type { ImageSource, SourceOptions, UnreadableFile } from './source'

/**
 * The images below `folder` (recursively, by file extension, without hidden ones, through symbolic links) whose headers are good.
 * Links that lead nowhere or in a circle are left out. Throws `not-found` and `io` for a folder or a file that cannot be read, and
 * `invalid-argument` for one without a readable image.
 */
export async function folderSource(folder: string, o: SourceOptions): Promise<ImageSource & { files: string[] }> {
  const { files: candidates, leftOut } = await listImages(folder)
  const { sizes, problems } = await checkFiles(candidates, (file) => path.join(folder, file), o)
  const files = candidates.filter((_, i) => sizes[i])
  const unreadable: UnreadableFile[] = [...leftOut, ...problems]
  if (files.length === 0) throw noImages(folder, unreadable)
  const readable = sizes.filter((size) => size !== undefined)
  return {
    name: folder,
    files,
    length: files.length,
    nameOf: (i) => files[i],
    identity: files,
    leftOut: unreadable,
    read: (i, look) => decodeImage(path.join(folder, files[i]), look, o),
    sizeOf: async (i) => readable[i],
  }
}

/** Height and width of each file that is an image, and what is wrong with the others. Throws where one can't be read now. */
export async function checkFiles(files: readonly string[], pathOf: (file: string) => string, o: SourceOptions) {
  const problems: UnreadableFile[] = []
  const sizes = await mapConcurrently(files, 8, async (file) => {
    try {
      return await checkImageHeader(pathOf(file), o)
    } catch (error) {
      return reasonOf(error)
    }
  })
  const good = sizes.map((size, i) => {
    if (typeof size !== 'string') return size
    problems.push({ file: files[i], reason: size })
    return undefined
  })
  return { sizes: good, problems }
}

/** What is wrong with an image; other errors are thrown on. */
export function reasonOf(error: unknown): string {
  if (error instanceof DiffusionError && error.code === 'bad-file') return error.message.split('\n')[0]
  throw error
}

export function noImages(folder: string, unreadable: readonly UnreadableFile[]): DiffusionError {
  const found = unreadable[0]
    ? `all ${unreadable.length} are unreadable, first ${unreadable[0].file}: ${unreadable[0].reason}`
    : `no file ends in ${[...imageExtensions].join(' ')}`
  return new DiffusionError('invalid-argument', `no readable image in ${folder} (${found})`, {
    argument: 'folder',
    expected: 'at least one readable image',
    received: folder,
  })
}
