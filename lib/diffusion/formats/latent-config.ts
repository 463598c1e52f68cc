/** A latent model as plain JSON, its stages included, and the way back to LatentDiffusion's options. */
import type { JsonObject } from '../../checkpoint/json'
import type { StageOptions, WeightsSource } from '../../stages/stage'
import type { FirstStage } from '../latent/stages'
import { type LatentDiffusionOptions, latentSchema } from '../options/latent-options'
import { condStageOf, firstStageOf, type StageSettings, stageConfig } from './stage-config'

/** What of LatentDiffusion's options is no stage. */
const plainNames = Object.keys(latentSchema).filter((name) => name !== 'firstStage' && name !== 'condStage')

/** What the configuration of a latent model has beside DDPM's. Throws `unsupported` for stages of the user's own classes. */
export function latentConfig(
  options: Readonly<Partial<LatentDiffusionOptions>>,
  { firstStageModel, scaleFactor }: { readonly firstStageModel: FirstStage; readonly scaleFactor: number },
): JsonObject {
  const { condStage = '__is_unconditional__' } = options
  const own = Object.fromEntries(plainNames.map((name) => [name, options[name as keyof LatentDiffusionOptions]]))
  const plain: JsonObject = JSON.parse(JSON.stringify(own))
  return {
    ...plain,
    scaleFactor,
    // What the first batch said is in scaleFactor.
    scaleByStd: options.scaleByStd === true && scaleFactor === 1,
    firstStage: stageConfig(firstStageModel, 'firstStage'),
    condStage: typeof condStage === 'string' ? condStage : stageConfig(condStage, 'condStage'),
  }
}

/** Where the stages' weights are read from when they are first used; drawn without. */
export interface StageSources {
  readonly firstStage?: WeightsSource
  readonly condStage?: WeightsSource
}

/**
 * Options of the model whose `config` this is, with stages that compute by `o`. Throws `invalid-argument`, `unknown-option` and
 * `unsupported`.
 */
export function optionsOfConfig(
  config: JsonObject,
  { tokenizer, ...o }: StageSettings = {},
  sources: StageSources = {},
): LatentDiffusionOptions {
  const { firstStage, condStage, ...own } = config
  return {
    ...(own as unknown as LatentDiffusionOptions),
    firstStage: firstStageOf(firstStage, o, sources.firstStage),
    condStage: condOf(condStage, { ...o, tokenizer }, sources.condStage),
  }
}

function condOf(config: unknown, o: StageSettings, source?: WeightsSource): LatentDiffusionOptions['condStage'] {
  if (config === undefined || config === '__is_unconditional__' || config === '__is_first_stage__') return config
  return condStageOf(config, o, source)
}

/** Which of a model's options its stages share. */
export function stageOptions({ device, precision, weightFormat, seed, deterministic }: StageOptions): StageOptions {
  return { device, precision, weightFormat, seed, deterministic }
}
