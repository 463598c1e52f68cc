/** Which kind of source it is: by what it is, and by its name. */
import type { Dirent } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError, invalidArgument } from '../../errors'
import { imageExtensions } from '../list-images'
import { cifarSource } from './cifar'
import { concat } from './concat'
import { folderSource } from './folder'
import { idxSource } from './idx'
import { manifestSource } from './manifest'
import { npySource, npzSource } from './numpy'
import type { ImageSource, SourceOptions } from './source'
import { tarSource } from './tar'
import { isUserData, type UserItems, userSource } from './user'

type Open = (file: string, o: SourceOptions) => Promise<ImageSource>

/** Files of many images, by what their names end in. */
const kinds: readonly (readonly [ending: RegExp, open: Open])[] = [
  [/\.npy$/i, npySource],
  [/\.npz$/i, npzSource],
  [/\.bin$/i, cifarSource],
  [/[.-]idx\d-ubyte(\.gz)?$|\.idx(\.gz)?$/i, idxSource],
  [/\.tar$/i, tarSource],
  [/\.(csv|tsv|jsonl)$/i, manifestSource],
]

/** A folder with one or several of these is their data set, not a folder of images: WebDataset's, CIFAR's. */
const shards = [/\.tar$/i, /^data_batch_\d+\.bin$/]

/** Throws what the source's kind throws, and `invalid-argument` for what is no source. */
export async function openSource(data: string | UserItems, o: SourceOptions): Promise<ImageSource> {
  if (isUserData(data)) return userSource(data, o)
  if (typeof data !== 'string') throw invalidArgument('data', 'a path, or an object with length and get()', data)
  const stats = await stat(data).catch(() => undefined)
  if (stats?.isFile()) return openFile(data, o)
  const files = stats?.isDirectory() ? await shardsOf(data) : []
  if (files.length === 0) return folderSource(data, o) // which says what is wrong with it
  const sources: ImageSource[] = []
  for (const file of files) sources.push(await openFile(path.join(data, file), o))
  return concat(data, sources)
}

function openFile(file: string, o: SourceOptions): Promise<ImageSource> {
  const kind = kinds.find(([ending]) => ending.test(path.basename(file)))
  if (kind) return kind[1](file, o)
  const known = 'a folder, .npy, .npz, .tar, .csv, .tsv, .jsonl, .bin (CIFAR) or an idx file (MNIST)'
  throw new DiffusionError('invalid-argument', `${file} is no file of training images: read are ${known}`, {
    argument: 'data',
    expected: known,
    received: file,
  })
}

/** None where there are images or sub-folders, too: then it is a folder of images. */
async function shardsOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const shown = entries.filter(({ name }) => !name.startsWith('.'))
  const isOfImages = (entry: Dirent) =>
    entry.isDirectory() || imageExtensions.has(path.extname(entry.name).toLowerCase())
  if (shown.some(isOfImages)) return []
  const names = shown.map(({ name }) => name).sort()
  for (const kind of shards) {
    const files = names.filter((name) => kind.test(name))
    if (files.length > 0) return files
  }
  return []
}
