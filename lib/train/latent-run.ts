/**
 * The run folder of a latent model's training: beside the checkpoints, the weights of its stages in first_stage and cond_stage (of one that is
 * trained they are in the checkpoints), and the tokenizer's files. What the stages are, the options' `model` says.
 */
import path from 'node:path'
import type { JsonObject } from '../checkpoint/json'
import { optionsOfStages, writeStages } from '../diffusion/formats/latent-folder'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { LatentDiffusionOptions } from '../diffusion/options/latent-options'
import type { ComputeOptions } from '../diffusion/process/model-options'
import type { StateDict } from '../nn/weights'
import { TextStage } from '../stages/text/text-stage'
import { Tensor } from '../tensor'
import { copyTokenizer } from '../text/tokenizer'
import { type Checkpoint, readTrainingState } from './checkpoint'
import type { ModelConfig } from './options'

export function isLatent(model: ModelConfig): boolean {
  return model.firstStage !== undefined
}

/** Writes the stages of a new run. Throws `io`. */
export async function keepStages(run: string, options: LatentDiffusionOptions): Promise<void> {
  const { firstStage, condStage, condStageTrainable } = options
  const own = typeof condStage === 'object' ? condStage : undefined
  await writeStages(run, { firstStage, ...(!condStageTrainable && { condStage: own }) })
  const tokenizer = condStageTrainable && own instanceof TextStage ? await own.tokenizerFolder() : undefined
  const place = path.join(run, 'tokenizer')
  if (tokenizer !== undefined && path.resolve(tokenizer) !== path.resolve(place)) await copyTokenizer(tokenizer, place)
}

/** Options of LatentDiffusion, with the stages of the run. */
export function optionsOfRun(run: string, model: ModelConfig, compute: ComputeOptions): LatentDiffusionOptions {
  const { device, precision, weightFormat, seed, deterministic } = compute
  const { condStage, condStageTrainable } = model
  const told = typeof condStage === 'object'
  // Whether they are there or not: what is missing is an error when it is read.
  const parts = ['first_stage', ...(told ? ['tokenizer'] : []), ...(told && !condStageTrainable ? ['cond_stage'] : [])]
  const stage = { device, precision, weightFormat, seed, deterministic }
  return { ...optionsOfStages(run, model as JsonObject, { stage, parts }), ...compute }
}

/**
 * A checkpoint's model. `weights`: 'ema' for the averaged ones where there are any (default), 'model' for the trained ones, 'both' for a model
 * that has both; `averages` in place of the run's own. Throws as readTrainingState does.
 */
export async function latentOfRun(
  checkpoint: Checkpoint,
  o: { readonly weights?: 'ema' | 'model' | 'both'; readonly averages?: StateDict },
  compute: ComputeOptions,
): Promise<LatentDiffusion> {
  const run = path.dirname(path.dirname(checkpoint.folder))
  const state = await readTrainingState(checkpoint)
  const ema = o.weights === 'model' ? undefined : (o.averages ?? state.ema)
  const useEma = o.weights === 'both' && ema !== undefined
  const latent = new LatentDiffusion({ ...optionsOfRun(run, checkpoint.state.options.model, compute), useEma })
  try {
    const own = latent.network!.parameters
    const beside = Object.entries(state.weights).filter(([name]) => !own.get(name))
    const dict: StateDict = Object.fromEntries(beside)
    for (const { name } of own.slots) {
      dict[modelPrefix + name] = (useEma ? undefined : ema?.[name]) ?? state.weights[name]
      if (useEma) dict[emaName(name)] = ema[name] ?? state.weights[name]
    }
    if (useEma) dict['model_ema.num_updates'] = Tensor.from(Int32Array.of(state.emaUpdates), [])
    await latent.loadStateDict(dict, { strict: false })
    return latent
  } catch (error) {
    latent.dispose()
    throw error
  }
}
