/** The options of a training from a configuration of latent-diffusion, as its main.py takes them. */
import type { JsonObject } from '../checkpoint/json'
import { readDDPMConfig } from '../diffusion/formats/compvis-config'
import { DiffusionError } from '../errors'
import type { ModelConfig, TrainModelOptions, TrainOptions } from '../train/options'

/** What main.py and ddpm.py do where the options here have another default: torch's AdamW, no warm-up, no clipping. */
const asThere: Partial<TrainOptions> = { warmup: 0, weightDecay: 0.01, maxGradNorm: 0 }

/**
 * `given` come before those of the file. Without `lr` there, base_learning_rate is that of one image (scale_lr, main.py's default).
 * Throws as readDDPMConfig does, and `unsupported` for a ckpt_path without `from`.
 */
export async function trainOptionsFrom(source: string | JsonObject, given: TrainOptions): Promise<TrainOptions> {
  const { options, baseLearningRate, lrSchedule, batchSize, accumulate, checkpoint } = await readDDPMConfig(source)
  if (checkpoint && given.from === undefined) {
    const message = `ckpt_path: name the checkpoint as 'from', with its configuration beside it; the configuration names ${checkpoint.path}`
    throw new DiffusionError('unsupported', message, { argument: 'ckpt_path', received: checkpoint.path })
  }
  const own = {
    ...asThere,
    ...(baseLearningRate !== undefined && { lr: baseLearningRate, scaleLr: true }),
    ...(given.lr !== undefined && { scaleLr: false }),
    ...(lrSchedule && { lrSchedule }),
    ...(given.lrSchedule !== undefined && { warmup: undefined }),
    ...(batchSize !== undefined && { batchSize }),
    ...(accumulate !== undefined && { accumulate }),
  }
  return { ...own, ...(definedOnly(given) as TrainOptions), model: modelOf(options as ModelConfig, given.model ?? {}) }
}

function modelOf({ unetConfig, ...own }: ModelConfig, { unetConfig: network, ...given }: TrainModelOptions) {
  const model = {
    ...definedOnly(own),
    ...definedOnly(given),
    unetConfig: { ...definedOnly(unetConfig ?? {}), ...definedOnly(network ?? {}) },
  }
  return model as TrainModelOptions
}

/** Python's None is nothing given, either. */
function definedOnly<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined && v !== null)) as Partial<T>
}
