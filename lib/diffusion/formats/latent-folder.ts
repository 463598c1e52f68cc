/**
 * Folders of latent models in a layout of our own, for what no pipeline of diffusers is made of: model_index.json with the model's
 * `config`, and the weights of network and stages by their own names in unet, first_stage and cond_stage; a tokenizer, and the scheduler
 * of the folder that the model was from.
 */
import path from 'node:path'
import { atomicWrite } from '../../checkpoint/atomic-write'
import type { Pipeline } from '../../checkpoint/diffusers/pipeline'
import { readWeights, type WeightsOptions, writeWeights } from '../../checkpoint/diffusers/weights'
import { isObject, type JsonObject, readJsonFile } from '../../checkpoint/json'
import type { StoredTensor } from '../../checkpoint/safetensors'
import { DiffusionError } from '../../errors'
import { makeFolder } from '../../make-folder'
import type { UNetConfig } from '../../nn/unet-config'
import { checkUNetFits } from '../../nn/unet-fit'
import type { StateDict } from '../../nn/weights'
import { Stage, type WeightsSource } from '../../stages/stage'
import { TextStage } from '../../stages/text/text-stage'
import { copyTokenizer } from '../../text/tokenizer'
import type { CondStage, FirstStage, LatentStage } from '../latent/stages'
import type { LatentDiffusionOptions } from '../options/latent-options'
import type { SchedulerConfig } from '../sampling/diffusers/scheduler-config'
import { optionsOfConfig } from './latent-config'
import type { StageSettings } from './stage-config'

/** What a folder of a latent model says, whoever wrote it. */
export interface FoundLatent {
  /** Of LatentDiffusion, its stages among them, whose weights are read when they are first used. */
  readonly options: LatentDiffusionOptions
  /** Of the network, by its own names; perhaps logvar. */
  readonly weights: StateDict
  readonly schedulerConfig?: SchedulerConfig
  readonly warnings: readonly string[]
}

export interface LatentFolderOptions {
  /** Which weights of several: 'fp16' for files of that name. Default: those without such a name. */
  readonly variant?: string
  readonly stage: StageSettings
}

export interface LatentContents {
  /** Of the model: `config`. */
  readonly config: JsonObject
  /** By the network's own names; with learnLogvar, logvar. */
  readonly weights: StateDict
  readonly firstStage: FirstStage
  /** What is not the first stage itself. */
  readonly condStage?: CondStage
  readonly schedulerConfig?: SchedulerConfig
}

const kind = 'LatentDiffusion'
const library = 'ddpm-native'
const schedulerFile = path.join('scheduler', 'scheduler_config.json')

/** Whether a folder is in this layout. */
export function isLatentFolder(pipeline: Pipeline): boolean {
  return pipeline.kind === kind
}

/** The index comes last, so that there is one only for a whole folder. Throws `io`. */
export async function writeLatentFolder(folder: string, c: LatentContents, o: WeightsOptions): Promise<void> {
  const json = (name: string, value: JsonObject) =>
    atomicWrite(path.join(folder, name), `${JSON.stringify(value, null, 2)}\n`)
  await makeFolder(path.join(folder, 'unet'))
  await writeWeights(path.join(folder, 'unet'), await stored(c.weights), o)
  const stages = await writeStages(folder, c, o)
  const parts: Record<string, readonly string[]> = { unet: [library, 'weights'], ...stages }
  if (c.schedulerConfig) {
    await makeFolder(path.join(folder, 'scheduler'))
    await json(schedulerFile, c.schedulerConfig)
    parts.scheduler = ['diffusers', String(c.schedulerConfig._class_name)]
  }
  await json('model_index.json', { _class_name: kind, ...parts, config: c.config })
}

/** The weights of stages, in first_stage and cond_stage, and the files of a tokenizer; what was written. Throws `io`. */
export async function writeStages(
  folder: string,
  { firstStage, condStage }: Partial<Pick<LatentContents, 'firstStage' | 'condStage'>>,
  o: WeightsOptions = {},
): Promise<Record<string, readonly string[]>> {
  const parts: Record<string, readonly string[]> = {}
  for (const stage of [firstStage, condStage])
    if (stage instanceof Stage) stage.parameters.requireWide('a folder of stages')
  for (const [name, stage] of Object.entries({ first_stage: firstStage, cond_stage: condStage })) {
    if (!stage) continue
    const dict = (await stageWeights(stage)) ?? {}
    if (Object.keys(dict).length > 0) {
      await makeFolder(path.join(folder, name))
      await writeWeights(path.join(folder, name), await stored(dict), o)
      parts[name] = [library, 'weights']
    }
    const tokenizer = stage instanceof TextStage ? await stage.tokenizerFolder() : undefined
    if (tokenizer === undefined) continue
    await copyTokenizer(tokenizer, path.join(folder, 'tokenizer'))
    parts.tokenizer = [library, 'files']
  }
  return parts
}

/**
 * The options of a model whose stages `writeStages` wrote there: `config` is the model's, `parts` what is there; weights of others are
 * drawn. Throws as optionsOfConfig.
 */
export function optionsOfStages(
  folder: string,
  config: JsonObject,
  { variant, stage, parts }: LatentFolderOptions & { readonly parts: readonly string[] },
): LatentDiffusionOptions {
  const at = (name: string) => (parts.includes(name) ? path.join(folder, name) : undefined)
  const source = (place: string | undefined): WeightsSource | undefined => {
    return place === undefined ? undefined : () => readWeights(place, variant)
  }
  const sources = { firstStage: source(at('first_stage')), condStage: source(at('cond_stage')) }
  return optionsOfConfig(config, { ...stage, tokenizer: at('tokenizer') }, sources)
}

/** A stage's weights; one that was not on the device is not there afterwards. */
export async function stageWeights(stage: LatentStage & { readonly loaded?: boolean }): Promise<StateDict | undefined> {
  const { loaded } = stage
  const dict = await stage.stateDict?.()
  if (loaded === false) await stage.offload?.()
  return dict
}

export async function stored(dict: StateDict): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = Object.create(null)
  for (const [name, tensor] of Object.entries(dict)) {
    tensors[name] = { dtype: 'F32', shape: tensor.shape, data: (await tensor.values()) as Float32Array }
  }
  return tensors
}

/** Throws `not-found`, `io`, `bad-file`, `state-mismatch`, and what the constructors of model and stages throw. */
export async function readLatentFolder(
  folder: string,
  { index, parts }: Pipeline,
  o: LatentFolderOptions,
): Promise<FoundLatent> {
  const { config } = index
  if (!isObject(config)) throw bad(folder, "it has no 'config'")
  const weights = await readWeights(path.join(folder, 'unet'), o.variant)
  if (isObject(config.unetConfig)) checkUNetFits(config.unetConfig as unknown as UNetConfig, weights, folder)
  return {
    options: optionsOfStages(folder, config, { ...o, parts: Object.keys(parts) }),
    weights,
    ...(Object.hasOwn(parts, 'scheduler') && {
      schedulerConfig: (await readJsonFile(path.join(folder, schedulerFile))) as SchedulerConfig,
    }),
    warnings: [],
  }
}

function bad(folder: string, problem: string): DiffusionError {
  const message = `${path.join(folder, 'model_index.json')} is not of a latent model: ${problem}`
  return new DiffusionError('bad-file', message, { argument: 'path', received: folder })
}
