/**
 * Checkpoints of a run: `checkpoints/step-00001000/` with state.json and what else a training saves, and `checkpoints/latest`, which
 * names the newest; with a monitor `checkpoints/best`, which names the one of the best evaluation.
 *
 * A checkpoint is written to a hidden sibling folder, flushed to the disk and renamed: a folder with the final name is
 * complete, whenever the process was killed.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite, syncFolder } from '../checkpoint/atomic-write'
import { removeAbandoned } from '../checkpoint/temporary-file'
import { DiffusionError } from '../errors'
import { ioError, reasonOf } from '../file-errors'
import { bigintsAsText } from '../printable'
import type { MonitorState } from './monitor'

/** What a checkpoint's state.json has, whatever is trained. */
export interface FolderState {
  /** Completed optimizer steps. */
  readonly step: number
  /** With a monitor. */
  readonly monitor?: MonitorState
}

const folderName = /^step-(\d{8,})$/
const leftoverName = /^\.(writing|removed)-/

export function checkpointsFolder(run: string): string {
  return path.join(run, 'checkpoints')
}

function nameOf(step: number): string {
  return `step-${String(step).padStart(8, '0')}`
}

/** Of saveFolder. */
export interface SaveOptions {
  /** The newest so many stay, and the best. */
  readonly keep: number
  readonly onWarning?: (warning: DiffusionError) => unknown
}

/**
 * Writes the checkpoint of `state.step`, whose files beside state.json are those of `write`, then removes all but the newest `keep`
 * and the best that the state names. Returns its folder. When it throws (`io`, e.g. for a full disk), the checkpoints that were
 * there are still there and nothing of the new one is left. What goes wrong once the new one is complete is told to `onWarning`.
 */
export async function saveFolder(
  run: string,
  state: FolderState,
  options: SaveOptions,
  write: (folder: string) => Promise<void>,
): Promise<string> {
  const parent = checkpointsFolder(run)
  const name = nameOf(state.step)
  const folder = path.join(parent, name)
  const temporary = path.join(parent, `.writing-${name}-${randomUUID()}`)
  try {
    await mkdir(parent).catch(unlessThere) // not recursively: a run that was moved away must not begin anew in its old place
    await mkdir(temporary)
    await write(temporary)
    await atomicWrite(path.join(temporary, 'state.json'), stateText(state))
    await syncFolder(temporary)
    await replaceFolder(temporary, folder)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {})
    throw await notSaved(run, folder, error)
  }
  const warnings: unknown[] = []
  const warn = (error: unknown) => void warnings.push(error)
  await syncFolder(parent).catch(warn)
  await atomicWrite(path.join(parent, 'latest'), `${name}\n`).catch(warn)
  await nameBest(run, state).catch(warn)
  // What is not known to be on the disk replaces nothing.
  const old = warnings.length > 0 ? [] : await listCheckpoints(run).catch(() => [])
  const best = bestFolder(run, state)
  for (const folder of old.slice(options.keep)) if (folder !== best) await removeFolder(folder).catch(warn)
  for (const error of warnings) {
    await options.onWarning?.(ioError(`after the checkpoint ${folder} was saved`, error, { path: folder }))
  }
  return folder
}

/** The state alone, of a checkpoint whose weights and steps are as they were. Throws `io`; then it is as it was. */
export async function saveState(run: string, state: FolderState): Promise<void> {
  const file = path.join(checkpointsFolder(run), nameOf(state.step), 'state.json')
  await atomicWrite(file, stateText(state))
  await nameBest(run, state)
}

function stateText(state: FolderState): string {
  return `${JSON.stringify(state, bigintsAsText, 2)}\n`
}

/** The folder of the best checkpoint, by a run's state. */
export function bestFolder(run: string, { monitor }: Pick<FolderState, 'monitor'>): string | undefined {
  return monitor?.best && path.join(checkpointsFolder(run), nameOf(monitor.best.step))
}

/** For people, as `latest`: the states say it, too. */
async function nameBest(run: string, state: FolderState): Promise<void> {
  const folder = bestFolder(run, state)
  if (folder) await atomicWrite(path.join(path.dirname(folder), 'best'), `${path.basename(folder)}\n`)
}

/** Names the checkpoint, as the temporary name would tell nobody anything, and those that are left. */
async function notSaved(run: string, folder: string, error: unknown): Promise<DiffusionError> {
  const kept = (await listCheckpoints(run).catch(() => [])).map((other) => path.basename(other))
  const what = `cannot write the checkpoint ${folder} (${kept.length > 0 ? `kept: ${kept.join(', ')}` : 'there is none yet'})`
  if (error instanceof DiffusionError && error.code !== 'io') return error
  const cause = error instanceof DiffusionError ? (error.cause ?? error) : error
  return new DiffusionError('io', `${what}: ${reasonOf(cause)}`, { argument: 'out', received: folder, cause: error })
}

function unlessThere(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error
}

/** Folders of the run's checkpoints, newest first. */
export async function listCheckpoints(run: string): Promise<string[]> {
  const parent = checkpointsFolder(run)
  const names = await readdir(parent).catch((error) => {
    if (error.code === 'ENOENT') return []
    throw ioError(`cannot list ${parent}`, error, { path: parent })
  })
  const step = (name: string) => Number(folderName.exec(name)![1])
  return names
    .filter((name) => folderName.test(name))
    .sort((a, b) => step(b) - step(a))
    .map((name) => path.join(parent, name))
}

/** Removes what killed processes left half written. Only for the holder of the run's lock. What can't be removed is left. */
export async function removeLeftovers(run: string): Promise<void> {
  const parent = checkpointsFolder(run)
  const names = await readdir(parent).catch(() => [])
  for (const name of names) {
    if (leftoverName.test(name)) await rm(path.join(parent, name), { recursive: true, force: true }).catch(() => {})
  }
  for (const folder of [run, parent, path.join(run, 'samples')]) await removeAbandoned(folder)
}

/** A run folder's newest checkpoint, or the checkpoint that `folder` itself is. Throws `not-found` where there is none. */
export async function newestFolder(folder: string): Promise<string> {
  const exists = async (name: string) => (await stat(path.join(folder, name)).catch(() => undefined)) !== undefined
  const own = await exists('state.json')
  const newest = own ? folder : (await listCheckpoints(folder))[0]
  if (newest !== undefined) return newest
  throw new DiffusionError('not-found', `no checkpoint in ${folder}`, {
    argument: 'checkpoint',
    expected: 'a run folder or a checkpoint folder',
    received: folder,
  })
}

/** Renames onto `folder`; one that is there already is moved aside first, and back where that fails. */
async function replaceFolder(temporary: string, folder: string): Promise<void> {
  const aside = await moveAside(folder)
  try {
    await rename(temporary, folder)
  } catch (error) {
    if (aside) await rename(aside, folder)
    throw error
  }
  if (aside) await rm(aside, { recursive: true, force: true }).catch(() => {}) // a leftover
}

/** Under another name first, so that no half-removed folder is ever seen as a checkpoint. */
async function removeFolder(folder: string): Promise<void> {
  const aside = await moveAside(folder)
  if (aside) await rm(aside, { recursive: true, force: true })
}

/** Undefined where there is nothing. */
async function moveAside(folder: string): Promise<string | undefined> {
  const aside = path.join(path.dirname(folder), `.removed-${path.basename(folder)}-${randomUUID()}`)
  try {
    await rename(folder, aside)
    return aside
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
