/** Where results go: checked before the work, and never onto what is there unless that is asked for. */
import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite, type FileContents } from '../checkpoint/atomic-write'
import { ioError, systemCode } from '../file-errors'
import { makeFolder } from '../make-folder'
import type { OptionTable } from './args'
import { type Output, warn } from './output'

/** Of each command that writes where it is told to. */
export const overwriteOption = {
  overwrite: { kind: 'flag', help: 'replace what is there (another name is taken, such as name-1 for name)' },
} as const satisfies OptionTable

export interface OutputOptions {
  readonly overwrite?: boolean
  /** Whether there is something to lose (default: a file). */
  readonly taken?: (name: string) => Promise<boolean>
}

/** The name that is written to. */
export async function outputName(wanted: string, o: OutputOptions): Promise<string> {
  return o.overwrite ? wanted : freeName(wanted, o.taken ?? isFile)
}

/** A line where that was another than the one that was asked for. */
export function tellRenamed(output: Output, wanted: string | undefined, name: string | undefined): void {
  if (wanted === undefined || name === undefined || wanted === name) return
  warn(output, `${wanted} was there already, and stays: this is ${name} (--overwrite replaces it)`)
}

/** The same for one file. Throws `io` where it could not be written. */
export async function outputFile(wanted: string, o: OutputOptions): Promise<string> {
  const name = await outputName(wanted, o)
  await checkWritable(name)
  return name
}

/**
 * Writes a file by the name that was found before the work, or by the next one that is free: another command may have written it
 * meanwhile. Returns the name.
 */
export async function writeOutput(name: string, contents: FileContents, overwrite = false): Promise<string> {
  for (;;) {
    const free = overwrite ? name : await freeName(name, isFile)
    try {
      await atomicWrite(free, contents, { exclusive: !overwrite })
      return free
    } catch (error) {
      if (overwrite || systemCode(error) !== 'EEXIST') throw error
    }
  }
}

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
  // '.' and '..' have no name that could be numbered.
  const { dir, name: stem, ext } = path.parse(/(^|[/\\])\.{1,2}[/\\]?$/.test(name) ? path.resolve(name) : name)
  let free = name
  for (let i = 1; await taken(free); i++) free = path.join(dir, `${stem}-${i}${ext}`)
  return free
}

/** Whether there is a file to lose: devices and pipes are not. */
export async function isFile(name: string): Promise<boolean> {
  return (await stat(name).catch(() => undefined))?.isFile() === true
}
