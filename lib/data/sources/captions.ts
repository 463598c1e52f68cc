/** What a folder says of its images: metadata.jsonl of the hub's image folders, or a text file beside each. */
import { open, stat } from 'node:fs/promises'
import path from 'node:path'
import { withSource } from '../../checkpoint/source'
import { DiffusionError, quote } from '../../errors'
import { ioError } from '../../file-errors'
import { mapConcurrently } from '../concurrently'
import { type Captions, readRows } from './manifest'
import type { ImageSource } from './source'

/** Bytes of a text beside an image. */
const maxText = 2 ** 16

/** The source with the captions of its folder, which are then a part of what it is. Throws `io` and `bad-file`. */
export async function withCaptions(source: ImageSource & { readonly files: readonly string[] }): Promise<ImageSource> {
  const captions = await captionsOf(source.name, source.files)
  if (!captions.some((caption) => caption !== undefined)) return source
  return { ...source, identity: [source.identity, captions], captionOf: (item) => captions[item] }
}

async function captionsOf(folder: string, files: readonly string[]): Promise<readonly (Captions | undefined)[]> {
  const list = path.join(folder, 'metadata.jsonl')
  const isThere = await stat(list).then(
    (stats) => stats.isFile(),
    () => false,
  )
  if (!isThere) return mapConcurrently(files, 8, (file) => textBeside(path.join(folder, file)))
  const rows = await withSource(list, 'list of images', readRows, { argument: 'data' })
  const captions = new Map(rows.map(({ file, caption }) => [path.posix.normalize(file), caption]))
  return files.map((file) => captions.get(file))
}

/** In one line; undefined where there is none. */
async function textBeside(image: string): Promise<string | undefined> {
  const { dir, name } = path.parse(image)
  const file = path.join(dir, `${name}.txt`)
  let handle: Awaited<ReturnType<typeof open>> | undefined
  try {
    if (!(await stat(file)).isFile()) return undefined
    handle = await open(file)
    const { bytesRead, buffer } = await handle.read({ buffer: Buffer.alloc(maxText + 1) })
    if (bytesRead > maxText) throw bad(file, `it has more than ${maxText} bytes`)
    const text = new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(0, bytesRead))
    return text.trim().replace(/\s+/g, ' ')
  } catch (error) {
    if (error instanceof DiffusionError) throw error
    if (error instanceof TypeError) throw bad(file, 'it is not UTF-8')
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw ioError(`cannot read ${file}`, error, { path: file })
  } finally {
    await handle?.close()
  }
}

function bad(file: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${quote(file)} is no caption: ${problem}`, {
    argument: 'data',
    received: file,
  })
}
