/** Data sets of several files in a folder: WebDataset's, CIFAR's, the hub's. */
import type { Dirent } from 'node:fs'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { imageExtensions } from '../list-images'

/** A folder with one or several of these is their data set, not a folder of images. */
const kinds = [/\.tar$/i, /^data_batch_\d+\.bin$/, /\.parquet$/i]

/** The hub's: train-00000-of-00002.parquet, in older ones with a hash at the end. */
const hubShard = /^(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet$/

/** Paths of a folder's shards. None where there are images or sub-folders, too: then it is a folder of images. */
export async function shardsOf(folder: string): Promise<string[]> {
  const entries = await entriesOf(folder)
  const isOfImages = (entry: Dirent) =>
    entry.isDirectory() || imageExtensions.has(path.extname(entry.name).toLowerCase())
  if (entries.some(isOfImages)) return []
  const names = entries.map(({ name }) => name)
  for (const kind of kinds) {
    const files = names.filter((name) => kind.test(name))
    if (files.length > 0) return whole(folder, files)
  }
  return []
}

/** Those of one of the hub's splits, which is said as if it were a folder: data/train. */
export async function splitOf(data: string): Promise<string[]> {
  const folder = path.dirname(data)
  const names = (await entriesOf(folder)).map(({ name }) => name)
  const files = names.filter((name) => hubShard.exec(name)?.[1] === path.basename(data))
  return whole(folder, files)
}

async function entriesOf(folder: string): Promise<Dirent[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  return entries.filter(({ name }) => !name.startsWith('.')).sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Throws `invalid-argument` for files of several splits, and `not-found` where one of the hub's is not there. */
function whole(folder: string, files: readonly string[]): string[] {
  const shards = files.map((name) => hubShard.exec(name)).filter((match) => match !== null)
  const splits = [...new Set(shards.map(([, split]) => split))]
  if (splits.length > 1) {
    const problem = `${folder} has several splits (${splits.join(', ')}): name one, such as ${path.join(folder, splits[0])}`
    throw new DiffusionError('invalid-argument', problem, { argument: 'data', received: folder })
  }
  const found = new Set(shards.map(([, , number]) => Number(number)))
  for (let i = 0; i < Number(shards[0]?.[3] ?? 0); i++) {
    if (found.has(i)) continue
    const problem = `${folder} lacks a file of ${splits[0]}: number ${i} of ${Number(shards[0][3])}, counted from 0`
    throw new DiffusionError('not-found', problem, { argument: 'data', received: folder })
  }
  return files.map((name) => path.join(folder, name))
}
