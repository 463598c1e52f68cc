/** Where results go: checked before the work, and never onto what is there unless that is asked for. */
import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import path from 'node:path'
import { ioError } from '../file-errors'
import { makeFolder } from '../make-folder'

/** Throws `io` where `file` could not be written: its folder is made. */
export async function checkWritable(file: string): Promise<void> {
  await makeFolder(path.dirname(file))
  try {
    const there = await stat(file).catch(() => undefined)
    if (there?.isDirectory()) throw Object.assign(new Error('it is a folder'), { code: 'EISDIR' })
    // A device is written into, anything else is replaced by way of its folder.
    await access(there && !there.isFile() ? file : path.dirname(file), constants.W_OK)
  } catch (error) {
    throw ioError(`cannot write ${file}`, error, { path: file })
  }
}

/** 'samples.png', or 'samples-1.png', 'samples-2.png', ...: the first for which `taken` is false. */
export async function freeName(name: string, taken: (name: string) => Promise<boolean>): Promise<string> {
  const { dir, name: stem, ext } = path.parse(name)
  let free = name
  for (let i = 1; await taken(free); i++) free = path.join(dir, `${stem}-${i}${ext}`)
  return free
}

/** Whether there is a file to lose: devices and pipes are not. */
export async function isFile(name: string): Promise<boolean> {
  return (await stat(name).catch(() => undefined))?.isFile() === true
}
