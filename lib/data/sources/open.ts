/** Which kind of source it is: by what it is, and by its name. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError, invalidArgument } from '../../errors'
import { withCaptions } from './captions'
import { cifarSource } from './cifar'
import { concat } from './concat'
import { folderSource } from './folder'
import { idxSource } from './idx'
import { manifestSource } from './manifest'
import { npySource, npzSource } from './numpy'
import { parquetSource } from './parquet'
import { shardsOf, splitOf } from './shards'
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
  [/\.parquet$/i, parquetSource],
  [/\.(csv|tsv|jsonl)$/i, manifestSource],
]

/** Throws what the source's kind throws, and `invalid-argument` for what is no source. */
export async function openSource(data: string | UserItems, o: SourceOptions): Promise<ImageSource> {
  if (isUserData(data)) return userSource(data, o)
  if (typeof data !== 'string') throw invalidArgument('data', 'a path, or an object with length and get()', data)
  const stats = await stat(data).catch(() => undefined)
  if (stats?.isFile()) return openFile(data, o)
  const files = stats?.isDirectory() ? await shardsOf(data) : stats ? [] : await splitOf(data)
  if (files.length === 0) {
    const folder = await folderSource(data, o) // which says what is wrong with it
    return o.captions ? withCaptions(folder) : folder
  }
  const sources: ImageSource[] = []
  for (const file of files) sources.push(await openFile(file, o))
  return concat(data, sources)
}

function openFile(file: string, o: SourceOptions): Promise<ImageSource> {
  const kind = kinds.find(([ending]) => ending.test(path.basename(file)))
  if (kind) return kind[1](file, o)
  const known = 'a folder, .npy, .npz, .tar, .parquet, .csv, .tsv, .jsonl, .bin (CIFAR) or an idx file (MNIST)'
  throw new DiffusionError('invalid-argument', `${file} is no file of training images: read are ${known}`, {
    argument: 'data',
    expected: known,
    received: file,
  })
}
