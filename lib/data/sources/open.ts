/** Which kind of source it is. */
import { invalidArgument } from '../../errors'
import { folderSource } from './folder'
import type { ImageSource, SourceOptions } from './source'
import { isUserData, type UserItems, userSource } from './user'

/** Throws what the source's kind throws, and `invalid-argument` for what is no source. */
export async function openSource(data: string | UserItems, o: SourceOptions): Promise<ImageSource> {
  if (isUserData(data)) return userSource(data, o)
  if (typeof data !== 'string') throw invalidArgument('data', 'a path, or an object with length and get()', data)
  return folderSource(data, o)
}
