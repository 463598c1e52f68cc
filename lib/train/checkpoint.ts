/**
 * What is in a checkpoint (checkpoint-folder.ts) of a diffusion model: model.safetensors, ema.safetensors (where there is an EMA),
 * optimizer.safetensors, ema-sigma-rel-*.safetensors (with emaSigmaRels) and state.json.
 */
import path from 'node:path'
import { readJsonFile } from '../checkpoint/json'
import { readSafetensorsHeader, type SafetensorsHeader } from '../checkpoint/safetensors'
import type { TrainingState } from '../diffusion/training/training-step'
import { DiffusionError } from '../errors'
import type { UNetConfig } from '../nn/unet-config'
import { checkUNetFits, type Shapes } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { bestFolder, newestFolder, type SaveOptions, saveFolder } from './checkpoint-folder'
import { type RunState, runState } from './run-state'
import { readStateDict, writeStateDict } from './state-dict-file'

export { bestFolder, checkpointsFolder, listCheckpoints, removeLeftovers, saveState } from './checkpoint-folder'
export type { RunState } from './run-state'

export interface Checkpoint {
  readonly folder: string
  readonly state: RunState
}

/** torch.optim.AdamW's names of its state; Lion has the first alone. */
const firstMoment = 'exp_avg.'
const secondMoment = 'exp_avg_sq.'
const timestepLosses = 'timestep_losses'

/** Writes the checkpoint of `state.step`: see saveFolder. Throws `io`. */
export function saveCheckpoint(
  run: string,
  state: RunState,
  training: TrainingState,
  options: SaveOptions,
): Promise<string> {
  return saveFolder(run, state, options, async (folder) => {
    await writeStateDict(path.join(folder, 'model.safetensors'), training.weights)
    for (const [i, dict] of (training.powerEmas ?? []).entries()) {
      await writeStateDict(path.join(folder, powerEmaFile(sigmaRelsOf(state)[i])), dict)
    }
    if (training.ema) await writeStateDict(path.join(folder, 'ema.safetensors'), training.ema)
    await writeStateDict(path.join(folder, 'optimizer.safetensors'), {
      ...withPrefix(training.m, firstMoment),
      ...(training.v && withPrefix(training.v, secondMoment)),
      ...(training.timestepLosses && { [timestepLosses]: training.timestepLosses }),
    })
  })
}

/**
 * A run folder's newest checkpoint, or the checkpoint that `folder` itself is. A damaged one is an error, never passed over.
 * Throws `not-found` where there is none, `bad-file` for a damaged state.json,
 * and `state-mismatch` for weights of another network than it says.
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const newest = await newestFolder(folder)
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
