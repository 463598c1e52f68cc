/**
 * What is in a checkpoint (checkpoint-folder.ts) of a first stage's training: model.safetensors, ema.safetensors (where there are
 * averages), optimizer.safetensors and state.json; of a discriminator discriminator.model.safetensors, discriminator.optimizer.safetensors
 * and discriminator.buffers.safetensors.
 */
import path from 'node:path'
import type { OptimizedState } from '../../autoencoder/trained-weights'
import type { AutoencoderTrainingState } from '../../autoencoder/training'
import { isObject, type JsonObject, readJsonFile } from '../../checkpoint/json'
import { readSafetensorsHeader } from '../../checkpoint/safetensors'
import { DiffusionError, describe } from '../../errors'
import { Autoencoder } from '../../nn/autoencoder/autoencoder'
import { autoencoderShape } from '../../nn/autoencoder/options'
import { checkFits } from '../../nn/unet-fit'
import type { StateDict } from '../../nn/weights'
import { type FolderState, newestFolder, type SaveOptions, saveFolder } from '../checkpoint-folder'
import { type DataState, isData, isMonitor } from '../run-state'
import { readStateDict, writeStateDict } from '../state-dict-file'
import type { ResolvedAutoencoderTrainOptions } from './options'
import { savedAutoencoderOptions } from './resolve-options'

/** Of one network. */
interface Counters {
  readonly optimizerStep: number
  /** -1 where the decay is constant. */
  readonly emaUpdates: number
}

export interface TrainingCounters {
  readonly autoencoder: Counters
  /** `batches`: those that the running statistics are of. */
  readonly discriminator?: Counters & { readonly batches: number }
}

export interface AutoencoderRunState extends FolderState, TrainingCounters {
  readonly format: 'ddpm-native autoencoder checkpoint'
  readonly version: 1
  readonly samples: number
  readonly data: DataState
  readonly heldOut?: DataState
  readonly evaluated?: number
  readonly options: ResolvedAutoencoderTrainOptions
  readonly time: string
}

export interface AutoencoderCheckpoint {
  readonly folder: string
  readonly state: AutoencoderRunState
}

/** torch.optim.AdamW's names of its state; Lion has the first alone. */
const moments = { m: 'exp_avg.', v: 'exp_avg_sq.' } as const

/** Before the names of its files. */
const ofDiscriminator = 'discriminator.'
const buffersFile = `${ofDiscriminator}buffers.safetensors`

/** Throws `io`; see saveFolder. */
export function saveAutoencoderCheckpoint(
  run: string,
  state: AutoencoderRunState,
  training: AutoencoderTrainingState,
  options: SaveOptions,
): Promise<string> {
  return saveFolder(run, state, options, async (folder) => {
    const { autoencoder, discriminator } = training
    await writeNetwork(folder, '', autoencoder)
    if (!discriminator) return
    await writeNetwork(folder, ofDiscriminator, discriminator)
    await writeStateDict(path.join(folder, buffersFile), discriminator.buffers)
  })
}

/** What of a training is in its state.json. */
export function countersOf({ autoencoder, discriminator }: AutoencoderTrainingState): TrainingCounters {
  const counters = ({ optimizerStep, emaUpdates }: OptimizedState) => ({ optimizerStep, emaUpdates })
  const { batches } = discriminator ?? {}
  return {
    autoencoder: counters(autoencoder),
    ...(discriminator && batches !== undefined && { discriminator: { ...counters(discriminator), batches } }),
  }
}

async function writeNetwork(folder: string, before: string, state: OptimizedState): Promise<void> {
  const file = (name: string) => path.join(folder, `${before}${name}.safetensors`)
  await writeStateDict(file('model'), state.weights)
  if (state.ema) await writeStateDict(file('ema'), state.ema)
  const entries = Object.entries(moments).flatMap(([bank, prefix]) => {
    return Object.entries(state[bank as keyof typeof moments] ?? {}).map(([name, t]) => [prefix + name, t] as const)
  })
  await writeStateDict(file('optimizer'), Object.fromEntries(entries))
}

/** What of the options says which files there are. */
type Kept = Pick<ResolvedAutoencoderTrainOptions, 'useEma' | 'optimizer'>

async function readNetwork(folder: string, before: string, counters: Counters, o: Kept) {
  const read = async (name: string) => (await readStateDict(path.join(folder, `${before}${name}.safetensors`))).dict
  const optimizer = await read('optimizer')
  const moment = (prefix: string): StateDict => {
    const own = Object.entries(optimizer).filter(([name]) => name.startsWith(prefix))
    return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]))
  }
  return {
    weights: await read('model'),
    ...(o.useEma && { ema: await read('ema') }),
    m: moment(moments.m),
    ...(o.optimizer !== 'lion' && { v: moment(moments.v) }),
    ...counters,
  }
}

/** Everything that a training needs to go on. Throws `bad-file` for a truncated or damaged file. */
export async function readAutoencoderTraining({
  folder,
  state,
}: AutoencoderCheckpoint): Promise<AutoencoderTrainingState> {
  const { autoencoder, discriminator, options } = state
  const own = await readNetwork(folder, '', autoencoder, options)
  if (!discriminator) return { autoencoder: own }
  const { optimizer } = options
  const other = await readNetwork(folder, ofDiscriminator, discriminator, { useEma: false, optimizer })
  const { dict: buffers } = await readStateDict(path.join(folder, buffersFile))
  return { autoencoder: own, discriminator: { ...other, buffers, batches: discriminator.batches } }
}

/**
 * A run folder's newest checkpoint, or the checkpoint that `folder` itself is. Throws `not-found` where there is none, `bad-file` for
 * a damaged state.json, and `state-mismatch` for weights of another network than it says.
 */
export async function openAutoencoderCheckpoint(folder: string): Promise<AutoencoderCheckpoint> {
  const newest = await newestFolder(folder)
  const file = path.join(newest, 'state.json')
  const bad = (problem: string, cause?: unknown) =>
    new DiffusionError('bad-file', `${file}: ${problem}`, { argument: 'checkpoint', received: file, cause })
  const state = stateOf(await readJsonFile(file, { argument: 'checkpoint' }), bad)
  await checkWeights(path.join(newest, 'model.safetensors'), state.options)
  return { folder: newest, state }
}

/** Before anything of the size that the options ask for is made. */
async function checkWeights(file: string, { ddconfig, embedDim, nEmbed }: ResolvedAutoencoderTrainOptions) {
  const { entries } = await readSafetensorsHeader(file)
  const shape = autoencoderShape(ddconfig)
  if (shape.numResBlocks * shape.channels.length > entries.length) {
    const message = `${file}: the options have ${shape.numResBlocks} blocks a level, the weights ${entries.length} tensors`
    throw new DiffusionError('state-mismatch', message, { argument: 'numResBlocks' })
  }
  const codebook = nEmbed === undefined ? undefined : { nE: nEmbed, eDim: embedDim, beta: 0, legacy: true }
  const { slots } = new Autoencoder(shape, embedDim, codebook).parameters
  checkFits(slots, Object.fromEntries(entries.map(({ name, shape }) => [name, { shape }])), file)
}

/** Of any JSON object. What it does not check is not used. */
function stateOf(json: JsonObject, bad: (problem: string, cause?: unknown) => DiffusionError): AutoencoderRunState {
  if (json.format !== 'ddpm-native autoencoder checkpoint') throw bad("not the state of a first stage's training")
  if (json.version !== 1) throw bad(`version ${describe(json.version)} is not known to this release`)
  const integer = (name: string, of: JsonObject = json, min = 0): number => {
    const value = of[name]
    if (Number.isSafeInteger(value) && (value as number) >= min) return value as number
    throw bad(`${name} is not an integer of at least ${min}`)
  }
  const { autoencoder, discriminator, data, heldOut, monitor, options, time } = json
  if (!isObject(autoencoder)) throw bad('autoencoder is missing')
  if (!isData(data) || !isObject(options)) throw bad('data or options are missing')
  if (heldOut !== undefined && !isData(heldOut)) throw bad('heldOut says nothing of images')
  if (monitor !== undefined && !isMonitor(monitor)) throw bad('monitor is not the state of one')
  const counters = (of: JsonObject): Counters => {
    return { optimizerStep: integer('optimizerStep', of), emaUpdates: integer('emaUpdates', of, -1) }
  }
  return {
    format: json.format,
    version: json.version,
    step: integer('step'),
    samples: integer('samples'),
    autoencoder: counters(autoencoder),
    ...(isObject(discriminator) && {
      discriminator: { ...counters(discriminator), batches: integer('batches', discriminator) },
    }),
    data: { fingerprint: data.fingerprint, images: data.images },
    ...(heldOut !== undefined && { heldOut: { fingerprint: heldOut.fingerprint, images: heldOut.images } }),
    ...(json.evaluated !== undefined && { evaluated: integer('evaluated') }),
    ...(monitor !== undefined && { monitor }),
    options: optionsOf(options, bad),
    time: typeof time === 'string' ? time : '',
  }
}

function optionsOf(options: JsonObject, bad: (problem: string, cause?: unknown) => DiffusionError) {
  try {
    return savedAutoencoderOptions(options)
  } catch (error) {
    if (error instanceof DiffusionError) throw bad(`its options are not those of a training: ${error.message}`, error)
    throw error
  }
}
