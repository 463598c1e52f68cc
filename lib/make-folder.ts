import { mkdir } from 'node:fs/promises'
import { ioError } from './file-errors'

/** With those above it. Returns the first that it made. Throws `io`. */
export async function makeFolder(folder: string, argument = 'path'): Promise<string | undefined> {
  try {
    return await mkdir(folder, { recursive: true })
  } catch (error) {
    throw ioError(`cannot make the folder ${folder}`, error, { path: folder, argument })
  }
}
