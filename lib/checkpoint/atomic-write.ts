/** Files that are there completely or not at all. */
import { randomBytes } from 'node:crypto'
import { type FileHandle, open, readdir, rename, unlink } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../errors'

/** What is written: a whole, or by a function that writes to the file in order. */
export type FileContents = string | Uint8Array | ((file: FileHandle) => Promise<void>)

/**
 * Writes to a temporary file in the same folder, flushes it to the disk and renames it onto `file`, so that whenever
 * this stops, `file` has its old contents or its new ones. Throws `io` for whatever the file system refuses; the
 * temporary file is then removed.
 */
export async function atomicWrite(file: string, contents: FileContents): Promise<void> {
  const folder = path.dirname(path.resolve(file))
  const temporary = path.join(folder, `.${path.basename(file)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
  await removeAbandoned(folder, path.basename(file))
  try {
    const handle = await open(temporary, 'wx')
    try {
      if (typeof contents === 'function') await contents(handle)
      else await handle.writeFile(contents)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
    await syncFolder(folder)
  } catch (error) {
    await unlink(temporary).catch(() => {}) // it may not be there: the first error is the one to report
    if (error instanceof DiffusionError) throw error
    const { code } = error as NodeJS.ErrnoException
    const reason = code === 'ENOSPC' ? 'the disk is full' : (error as Error).message
    throw new DiffusionError('io', `cannot write ${file}: ${reason}`, {
      argument: 'path',
      received: file,
      cause: error,
    })
  }
}

/** Makes the names in a folder durable. Windows has no such call. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Removes temporary files for this name whose writers were killed. */
async function removeAbandoned(folder: string, name: string): Promise<void> {
  const names = await readdir(folder).catch(() => []) // what is wrong with the folder shows when the file is opened
  for (const entry of names) {
    if (!entry.startsWith(`.${name}.`)) continue
    const match = /^\.(\d+)\.[0-9a-f]{8}\.tmp$/.exec(entry.slice(name.length + 1))
    if (match && !isRunning(Number(match[1]))) await unlink(path.join(folder, entry)).catch(() => {})
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}
