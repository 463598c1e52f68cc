/** LatentDiffusion's options by a YAML configuration of latent-diffusion, its stages made of their targets. */
import { DiffusionError } from '../../errors'
import { definedOnly } from '../../options'
import { checkpointSource, type FirstStage as NetworkStage } from '../../stages/first-stage'
import type { WeightsSource } from '../../stages/stage'
import type { CondStage, FirstStage } from '../latent/stages'
import type { LatentDiffusionOptions } from '../options/latent-options'
import type { CompVisConfig } from './compvis-config'
import type { CompVisStage } from './compvis-stages'
import { stageOptions } from './latent-config'
import { condStageOf, firstStageOf } from './stage-config'

/** Of LatentDiffusion.fromConfig. */
export interface LatentConfigOptions extends LatentDiffusionOptions {
  /** The folder of the text encoder's tokenizer. Default: none, and only ids are taken. */
  tokenizer?: string
}

/** Text encoders that come with weights of a package of Python's. */
const frozen = ['FrozenCLIPEmbedder', 'FrozenOpenCLIPEmbedder']

/** `given` goes before what the file says, its stages, too. Throws `unsupported`, and what the stages' constructors throw. */
export function optionsFromConfig(said: CompVisConfig, given: LatentConfigOptions): LatentDiffusionOptions {
  const { tokenizer, ...own } = given
  if (!said.stages) {
    const argument = 'model.target'
    throw new DiffusionError('unsupported', `${argument}: DDPM.fromConfig reads a model without stages`, { argument })
  }
  const { firstStage, condStage } = said.stages
  const settings = stageOptions(own)
  const options: LatentDiffusionOptions = { ...said.options, ...definedOnly(own) }
  options.firstStage ??= firstOf(firstStage, settings)
  options.condStage ??= typeof condStage === 'string' ? condStage : condOf(condStage, { ...settings, tokenizer })
  return options
}

/** Its ckpt_path is read when it is first used, unless it got other weights before. */
function firstOf({ config, checkpoint }: CompVisStage, o: Parameters<typeof firstStageOf>[1]): FirstStage {
  const source = checkpoint && checkpointSource(checkpoint.path, checkpoint, () => stage as unknown as NetworkStage)
  const stage = firstStageOf(config, o, source)
  return stage
}

function condOf({ config, checkpoint }: CompVisStage, o: Parameters<typeof condStageOf>[1]): CondStage {
  if (checkpoint) return firstOf({ config, checkpoint }, o) as unknown as CondStage
  return condStageOf(config, o, frozen.includes(String(config.kind)) ? withoutWeights(String(config.kind)) : undefined)
}

function withoutWeights(kind: string): WeightsSource {
  return async () => {
    const message = `${kind} has no weights: load a checkpoint that has them, or give condStage, such as one that ${kind} opened of a folder`
    throw new DiffusionError('not-configured', message, { argument: 'condStage' })
  }
}
