/** Whether files are still those of before, without reading them. */
import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { mapConcurrently } from '../data/concurrently'
import type { ImageSource } from '../data/sources/source'

/**
 * A hash of sizes and times of change: of the file, of what lies in the folder, and of each image that is a file of its own. Together
 * with the names in the data's fingerprint it tells the same pixels from others, but for who sets the clock back.
 */
export async function dataStamp(data: string, source: Pick<ImageSource, 'length' | 'nameOf'>): Promise<string> {
  const hash = createHash('sha256')
  const own = await stat(data).catch(() => undefined)
  const folder = own?.isDirectory() ? data : path.dirname(data)
  const inside = own?.isDirectory() ? (await readdir(folder).catch(() => [])).sort() : [path.basename(data)]
  const images = Array.from({ length: source.length }, (_, i) => source.nameOf(i))
  const files = [...inside, ...images].map((name) => path.resolve(folder, name))
  const stamps = await mapConcurrently(files, 8, async (file) => {
    const found = await stat(file).catch(() => undefined) // an image within a file has none of its own
    return found?.isFile() ? `${found.size} ${found.mtimeMs}` : ''
  })
  hash.update(JSON.stringify([path.resolve(data), stamps]))
  return hash.digest('hex')
}
