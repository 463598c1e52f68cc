/** Which files of a folder are images, and which look like some but are not read. */
import { constants, type Dirent } from 'node:fs'
import { open, readdir, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError, quote } from '../errors'
import { withRetries } from './image-bytes'
import { hasSignature, headLength } from './image-limits'

/** What sharp reads. */
export const imageExtensions: ReadonlySet<string> = new Set(
  '.png .apng .jpg .jpeg .jpe .jfif .jif .webp .gif .tif .tiff .avif .heic .heif .svg .svgz'.split(' '),
)

/** Images that sharp does not read: they are reported, not passed over. Some are of another kind than their names say. */
const foreignExtensions: ReadonlySet<string> = new Set(
  (
    '.bmp .dib .ico .cur .tga .psd .pcx .ppm .pgm .pbm .pnm .pfm .pam .xbm .xpm .jp2 .j2k .jpf .jpx .jxl .exr .hdr .dds .qoi ' +
    '.heics .avifs .dng .cr2 .cr3 .nef .arw .orf .raf .rw2 .xcf'
  ).split(' '),
)

export interface ListedImages {
  /** Relative to the folder, with '/', in the order of their code units. */
  readonly files: readonly string[]
  /** What can't be listed: the same way. */
  readonly leftOut: readonly { readonly file: string; readonly reason: string }[]
}

/**
 * The images below `folder`, by their extensions, and files without an extension that begin like one; what begins so under another
 * extension, such as a copy that an editor left, is left out and told. Hidden files and folders are
 * not looked at. Symbolic links are followed; no folder is read twice, so that links in a circle end. Throws `not-found` and `io`.
 */
export async function listImages(folder: string): Promise<ListedImages> {
  const walk = new Walk(folder)
  await walk.folders([''])
  // Links to folders come last, so that which of two ways to a folder is taken does not depend on names.
  for (let links = walk.takeLinks(); links.length > 0; links = walk.takeLinks()) {
    for (const link of links.sort()) await walk.link(link)
  }
  return walk.result()
}

class Walk {
  readonly #files: string[] = []
  readonly #leftOut: { file: string; reason: string }[] = []
  readonly #seen = new Map<string, string>()
  #links: string[] = []

  constructor(readonly root: string) {}

  result(): ListedImages {
    // By code units: the same order whatever the locale.
    return { files: this.#files.sort(), leftOut: this.#leftOut.sort((a, b) => (a.file < b.file ? -1 : 1)) }
  }

  takeLinks(): string[] {
    const links = this.#links
    this.#links = []
    return links
  }

  async folders(pending: string[]): Promise<void> {
    for (let relative = pending.pop(); relative !== undefined; relative = pending.pop()) {
      const entries = await this.#list(relative)
      this.#seen.set(await realpath(this.#path(relative)), relative || '.')
      for (const entry of entries) {
        if (entry.name.startsWith('.')) continue
        const name = relative === '' ? entry.name : `${relative}/${entry.name}`
        if (entry.isDirectory()) pending.push(name)
        else if (entry.isSymbolicLink()) this.#links.push(name)
        else if (entry.isFile()) await this.#file(name)
      }
    }
  }

  /** A symbolic link to a file or a folder. */
  async link(relative: string): Promise<void> {
    const file = this.#path(relative)
    const nowhere = (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && error.code !== 'ELOOP') throw error
      return undefined
    }
    const target = await withRetries(file, () => stat(file).catch(nowhere))
    if (target?.isFile()) return this.#file(relative)
    if (target?.isDirectory()) {
      const folder = await realpath(file)
      const seen = this.#seen.get(folder)
      const contains = [...this.#seen.keys()].some((other) => isInside(other, folder))
      if (seen !== undefined) this.#leave(relative, `a symbolic link to the folder ${seen}, which is read already`)
      else if (contains) this.#leave(relative, 'a symbolic link to a folder that it is in itself')
      else await this.folders([relative])
    } else if (!target && mayBeImage(relative)) this.#leave(relative, 'a symbolic link to nothing')
  }

  async #file(relative: string): Promise<void> {
    const extension = path.extname(relative).toLowerCase()
    const known = imageExtensions.has(extension) || foreignExtensions.has(extension)
    if (!known && !(await beginsLikeImage(this.#path(relative)))) return
    if (known || extension === '') this.#files.push(relative)
    else this.#leave(relative, `it begins like an image, but its name ends in ${quote(extension)}`)
  }

  #leave(file: string, reason: string): void {
    this.#leftOut.push({ file, reason })
  }

  #path(relative: string): string {
    return path.join(this.root, relative)
  }

  async #list(relative: string): Promise<Dirent[]> {
    const folder = this.#path(relative)
    const list = () => readdir(folder, { withFileTypes: true })
    // Once more, should it have been a hiccup.
    return list()
      .catch(list)
      .catch((error) => {
        const problem =
          { ENOENT: 'there is no such folder', ENOTDIR: 'it is a file, not a folder' }[error.code as string] ??
          error.message
        const code = error.code === 'ENOENT' ? 'not-found' : 'io'
        const details = { argument: 'folder', expected: 'a folder of images', received: folder, cause: error }
        throw new DiffusionError(code, `cannot read images from ${folder}: ${problem}`, details)
      })
  }
}

function isInside(folder: string, parent: string): boolean {
  return folder.startsWith(parent.endsWith(path.sep) ? parent : parent + path.sep)
}

function mayBeImage(file: string): boolean {
  const extension = path.extname(file).toLowerCase()
  return extension === '' || imageExtensions.has(extension) || foreignExtensions.has(extension)
}

/** False for what can't be read: it is not known to be an image at all. */
async function beginsLikeImage(file: string): Promise<boolean> {
  const handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)).catch(() => undefined)
  if (!handle) return false
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(headLength), 0, headLength, 0)
    return hasSignature(buffer.subarray(0, bytesRead))
  } catch {
    return false
  } finally {
    await handle.close()
  }
}
