/** Files that are there completely or not at all. */
import { constants, type Stats } from 'node:fs'
import { type FileHandle, link, open, readlink, realpath, rename, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ioError, systemCode } from '../file-errors'
import { forgetTemporary, temporaryFile, tidy } from './temporary-file'

/** What is written: a whole, or by a function that writes to the file in order. */
export type FileContents = string | Uint8Array | ((file: Pick<FileHandle, 'writeFile' | 'sync'>) => Promise<void>)

/**
 * Writes to a temporary file in the same folder, flushes it to the disk and renames it onto `file`, so that whenever
 * this stops, `file` has its old contents or its new ones. A file that is replaced passes on its mode and, where that is
 * permitted, its owner and group. A symbolic link stays, and what it points to is replaced. Pipes and devices are written
 * into and stay what they are. Throws `io` for whatever the file system refuses, and says what is there now; the temporary
 * file is then removed. `exclusive`: a file that is there, or that another process makes meanwhile, stays, and `io` is thrown, with
 * EEXIST as the system's code.
 */
export async function atomicWrite(
  file: string,
  contents: FileContents,
  { exclusive = false }: { readonly exclusive?: boolean } = {},
): Promise<void> {
  let kept: string | undefined
  try {
    const old = await stat(file).catch(unlessMissing)
    if (old && !old.isFile() && !old.isDirectory()) return await writeInto(file, old, contents)
    kept = old ? 'the old file is unchanged' : 'nothing is written'
    if (old?.isFile() && exclusive) throw alreadyThere()
    const place = exclusive ? placeNew : rename
    await replace(await followLinks(file), old, { contents, place }, () => {
      kept = 'the new file is in place, but a power failure may lose it'
    })
  } catch (error) {
    throw ioError(`cannot write ${file}`, error, { path: file, kept })
  }
}

async function replace(
  file: string,
  old: Stats | undefined,
  { contents, place }: { contents: FileContents; place: (temporary: string, file: string) => Promise<void> },
  onRenamed: () => void,
): Promise<void> {
  const folder = path.dirname(file)
  if (old?.isDirectory()) throw Object.assign(new Error('it is a folder'), { code: 'EISDIR' })
  await tidy(folder)
  const temporary = temporaryFile(folder)
  try {
    const handle = await open(temporary, 'wx', old ? 0o600 : 0o666) // never more open than the file that it replaces
    try {
      await writeContents(handle, contents)
      if (old) await inherit(handle, old)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await place(temporary, file)
  } catch (error) {
    await unlink(temporary).catch(() => {}) // it may not be there: the first error is the one to report
    throw error
  } finally {
    forgetTemporary(temporary)
  }
  onRenamed()
  await syncFolder(folder)
}

/** As rename, but never onto a file; where the file system has no links, one that comes at the same moment is replaced. */
async function placeNew(temporary: string, file: string): Promise<void> {
  try {
    await link(temporary, file)
  } catch (error) {
    if (systemCode(error) === 'EEXIST') throw error
    if (await stat(file).catch(unlessMissing)) throw alreadyThere()
    return rename(temporary, file)
  }
  await unlink(temporary)
}

function alreadyThere(): Error {
  return Object.assign(new Error('it is there already'), { code: 'EEXIST' })
}

async function writeContents(handle: FileHandle, contents: FileContents): Promise<void> {
  if (typeof contents === 'function') await contents(handle)
  else await handle.writeFile(contents)
}

/** Where the group can't be kept, it gets no more than all others have. */
async function inherit(handle: FileHandle, old: Stats): Promise<void> {
  if (process.platform === 'win32') return
  const made = await handle.stat()
  let mode = old.mode & 0o777
  if (made.gid !== old.gid && !(await permitted(handle.chown(made.uid, old.gid)))) {
    mode = (mode & 0o707) | ((mode & 0o007) << 3)
  }
  if (made.uid !== old.uid) await permitted(handle.chown(old.uid, -1 >>> 0))
  await handle.chmod(mode)
}

function permitted(change: Promise<void>): Promise<boolean> {
  return change.then(
    () => true,
    () => false,
  )
}

/** A device, or a pipe, for whose reader it waits. */
async function writeInto(file: string, special: Stats, contents: FileContents): Promise<void> {
  if (special.isSocket()) throw new Error('it is a socket, which can not be opened as a file')
  const handle = await openSpecial(file)
  try {
    await writeContents(handle, contents)
  } finally {
    await handle.close()
  }
}

async function openSpecial(file: string): Promise<FileHandle> {
  for (;;) {
    try {
      // Waiting for a reader inside of open(2) would hold a thread, which not even process.exit could end.
      const probe = await open(file, constants.O_WRONLY | (constants.O_NONBLOCK ?? 0))
      try {
        return await open(file, constants.O_WRONLY)
      } finally {
        await probe.close()
      }
    } catch (error) {
      if (systemCode(error) !== 'ENXIO') throw error
      await sleep(50)
    }
  }
}

const maxLinks = 40 // Linux' own limit

/** The file that a path means, which need not be there. */
async function followLinks(file: string): Promise<string> {
  let at = path.isAbsolute(file) ? file : `${process.cwd()}${path.sep}${file}` // not resolved: `link/..` is what the system says
  for (let i = 0; i < maxLinks; i++) {
    const target = await readlink(at).catch((error) => {
      if (['EINVAL', 'ENOENT', 'UNKNOWN'].includes(error.code)) return undefined // no link, or nothing at all
      throw error
    })
    if (target === undefined) return at
    at = path.isAbsolute(target) ? target : `${await realpath(path.dirname(at))}${path.sep}${target}`
  }
  throw Object.assign(new Error('its symbolic links form a loop'), { code: 'ELOOP' })
}

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}

/** Makes the names in a folder durable, where the system and the file system have a call for that. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  try {
    const handle = await open(folder, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EACCES'].includes(systemCode(error) ?? '')) throw error
  }
}
