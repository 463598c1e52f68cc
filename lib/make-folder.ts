import { mkdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { ioError, systemCode } from './file-errors'

/** With those above it. Returns the first that it made. Throws `io`. */
export async function makeFolder(folder: string, argument = 'path'): Promise<string | undefined> {
  try {
    return await make(folder)
  } catch (error) {
    throw ioError(`cannot make the folder ${folder}`, error, { path: folder, argument })
  }
}

/**
 * Not by mkdir's own `recursive`: where a file system says ENOENT although the folder above is there, as /proc does, Node 20 tries again
 * for ever.
 */
async function make(folder: string): Promise<string | undefined> {
  const problem = await tryMake(folder)
  if (problem === undefined) return folder
  if (await isFolder(folder)) return undefined
  const above = path.dirname(folder)
  if (systemCode(problem) !== 'ENOENT' || above === folder) throw problem
  const first = await make(above)
  const again = await tryMake(folder)
  if (again !== undefined && !(await isFolder(folder))) throw again
  return first ?? folder
}

function tryMake(folder: string): Promise<unknown> {
  return mkdir(folder).then(
    () => undefined,
    (error) => error,
  )
}

async function isFolder(name: string): Promise<boolean> {
  return (await stat(name).catch(() => undefined))?.isDirectory() === true
}
