/**
 * Checkpoints of a run: `checkpoints/step-00001000/` with model.safetensors, ema.safetensors (where there is an EMA),
 * optimizer.safetensors, ema-sigma-rel-*.safetensors (with emaSigmaRels) and state.json, and `checkpoints/latest`, which names the newest; with a monitor `checkpoints/best`, which names
 * the one of the best evaluation.
 *
 * A checkpoint is written to a hidden sibling folder, flushed to the disk and renamed: a folder with the final name is
 * complete, whenever the process was killed.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite, syncFolder } from '../checkpoint/atomic-write'
import { readJsonFile } from '../checkpoint/json'
import { readSafetensorsHeader, type SafetensorsHeader } from '../checkpoint/safetensors'
import { removeAbandoned } from '../checkpoint/temporary-file'
import type { TrainingState } from '../diffusion/training/training-step'
import { DiffusionError } from '../errors'
import { ioError, reasonOf } from '../file-errors'
import type { UNetConfig } from '../nn/unet-config'
import { checkUNetFits, type Shapes } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { bigintsAsText } from '../printable'
import { type RunState, runState } from './run-state'
import { readStateDict, writeStateDict } from './state-dict-file'

export type { RunState } from './run-state'

export interface Checkpoint {
  readonly folder: string
  readonly state: RunState
}

const folderName = /^step-(\d{8,})$/
const leftoverName = /^\.(writing|removed)-/

/** torch.optim.AdamW's names of its state; Lion has the first alone. */
const firstMoment = 'exp_avg.'
const secondMoment = 'exp_avg_sq.'
const timestepLosses = 'timestep_losses'

export function checkpointsFolder(run: string): string {
  return path.join(run, 'checkpoints')
}

function nameOf(step: number): string {
  return `step-${String(step).padStart(8, '0')}`
}

/**
 * Writes the checkpoint of `state.step`, then removes all but the newest `keep` and the best that the state names. Returns its folder. When it throws (`io`, e.g.
 * for a full disk), the checkpoints that were there are still there and nothing of the new one is left. What goes wrong once the
 * new one is complete is told to `onWarning`.
 */
export async function saveCheckpoint(
  run: string,
  state: RunState,
  training: TrainingState,
  options: { keep: number; onWarning?: (warning: DiffusionError) => unknown },
): Promise<string> {
  const parent = checkpointsFolder(run)
  const name = nameOf(state.step)
  const folder = path.join(parent, name)
  const temporary = path.join(parent, `.writing-${name}-${randomUUID()}`)
  try {
    await mkdir(parent).catch(unlessThere) // not recursively: a run that was moved away must not begin anew in its old place
    await mkdir(temporary)
    await writeStateDict(path.join(temporary, 'model.safetensors'), training.weights)
    for (const [i, dict] of (training.powerEmas ?? []).entries()) {
      await writeStateDict(path.join(temporary, powerEmaFile(sigmaRelsOf(state)[i])), dict)
    }
    if (training.ema) await writeStateDict(path.join(temporary, 'ema.safetensors'), training.ema)
    await writeStateDict(path.join(temporary, 'optimizer.safetensors'), {
      ...withPrefix(training.m, firstMoment),
      ...(training.v && withPrefix(training.v, secondMoment)),
      ...(training.timestepLosses && { [timestepLosses]: training.timestepLosses }),
    })
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
export async function saveState(run: string, state: RunState): Promise<void> {
  const file = path.join(checkpointsFolder(run), nameOf(state.step), 'state.json')
  await atomicWrite(file, stateText(state))
  await nameBest(run, state)
}

function stateText(state: RunState): string {
  return `${JSON.stringify(state, bigintsAsText, 2)}\n`
}

/** The folder of the best checkpoint, by a run's state. */
export function bestFolder(run: string, { monitor }: Pick<RunState, 'monitor'>): string | undefined {
  return monitor?.best && path.join(checkpointsFolder(run), nameOf(monitor.best.step))
}

/** For people, as `latest`: the states say it, too. */
async function nameBest(run: string, state: RunState): Promise<void> {
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

/**
 * A run folder's newest checkpoint, or the checkpoint that `folder` itself is. A damaged one is an error, never passed over.
 * Throws `not-found` where there is none, `bad-file` for a damaged state.json,
 * and `state-mismatch` for weights of another network than it says.
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const exists = async (name: string) => (await stat(path.join(folder, name)).catch(() => undefined)) !== undefined
  const own = await exists('state.json')
  const newest = own ? folder : (await listCheckpoints(folder))[0]
  if (newest === undefined) {
    throw new DiffusionError('not-found', `no checkpoint in ${folder}`, {
      argument: 'checkpoint',
      expected: 'a run folder or a checkpoint folder',
      received: folder,
    })
  }
  const state = await readState(path.join(newest, 'state.json'))
  await checkWeights(newest, state)
  return { folder: newest, state }
}

/** The best checkpoint of a run, by what its newest says. Throws `not-found` for a run without a monitor, and as openCheckpoint. */
export async function openBest(run: string): Promise<Checkpoint> {
  const { state } = await openCheckpoint(run)
  const folder = bestFolder(run, state)
  if (folder) return openCheckpoint(folder)
  const message = `${run} has no best checkpoint: it was trained without a monitor, or not evaluated yet`
  throw new DiffusionError('not-found', message, { argument: 'checkpoint', received: run })
}

/** Everything that a training needs to go on. Throws `bad-file` for a truncated or damaged file. */
export async function readTrainingState(checkpoint: Checkpoint): Promise<TrainingState> {
  const { folder, state } = checkpoint
  const read = async (name: string) => (await readStateDict(path.join(folder, name))).dict
  const optimizer = await read('optimizer.safetensors')
  return {
    weights: await read('model.safetensors'),
    ema: usesEma(state) ? await read('ema.safetensors') : undefined,
    ...(sigmaRelsOf(state).length > 0 && {
      powerEmas: await Promise.all(sigmaRelsOf(state).map((sigmaRel) => read(powerEmaFile(sigmaRel)))),
    }),
    m: withoutPrefix(optimizer, firstMoment),
    ...(state.options.optimizer !== 'lion' && { v: withoutPrefix(optimizer, secondMoment) }),
    timestepLosses: optimizer[timestepLosses],
    optimizerStep: state.optimizerStep,
    emaUpdates: state.emaUpdates,
    draws: state.draws,
    lossScale: state.lossScale,
  }
}

/** The network's weights: the averaged ones, or with `ema` false the plain ones. A model without an average has only those. */
export async function readWeights(checkpoint: Checkpoint, o: { ema: boolean }): Promise<StateDict> {
  const averaged = o.ema && usesEma(checkpoint.state)
  const name = averaged ? 'ema.safetensors' : 'model.safetensors'
  return (await readStateDict(path.join(checkpoint.folder, name))).dict
}

/** Where a checkpoint has the average of one of emaSigmaRels. */
export function powerEmaFile(sigmaRel: number): string {
  return `ema-sigma-rel-${sigmaRel}.safetensors`
}

function sigmaRelsOf({ options }: RunState): readonly number[] {
  return (options.model.emaSigmaRels ?? []) as readonly number[]
}

function usesEma(state: RunState): boolean {
  return state.options.model.useEma !== false
}

async function readState(file: string): Promise<RunState> {
  const bad = (problem: string, cause?: unknown) =>
    new DiffusionError('bad-file', `${file}: ${problem}`, { argument: 'checkpoint', received: file, cause })
  return runState(await readJsonFile(file, { argument: 'checkpoint' }), bad)
}

/** Throws `state-mismatch` before anything is made of the options. */
async function checkWeights(folder: string, { options }: RunState): Promise<void> {
  const file = path.join(folder, 'model.safetensors')
  const { entries } = await readSafetensorsHeader(file)
  checkUNetFits(options.model.unetConfig as unknown as UNetConfig, shapesOf(entries), file)
}

function shapesOf(entries: SafetensorsHeader['entries']): Shapes {
  return Object.fromEntries(entries.map(({ name, shape }) => [name, { shape }]))
}

function withPrefix(dict: StateDict, prefix: string): StateDict {
  return Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [prefix + name, tensor]))
}

function withoutPrefix(dict: StateDict, prefix: string): StateDict {
  const own = Object.entries(dict).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]))
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
