/** Latent models as folders: pipelines of diffusers where these have such a model, else the layout of our own. */
import path from 'node:path'
import { atomicWrite } from '../../checkpoint/atomic-write'
import { unet2DConfig, unet2DWeights } from '../../checkpoint/diffusers/unet'
import { unet2DConditionConfig } from '../../checkpoint/diffusers/unet-condition'
import { transformersFiles, type WeightsOptions, writeWeights } from '../../checkpoint/diffusers/weights'
import type { JsonObject } from '../../checkpoint/json'
import { DiffusionError } from '../../errors'
import { makeFolder } from '../../make-folder'
import type { Network } from '../../nn/network'
import { clipConfigOf } from '../../nn/text/clip-config'
import { UNet } from '../../nn/unet/unet'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import type { CLIPParts } from '../../stages/text/pretrained'
import { TextStage } from '../../stages/text/text-stage'
import { VQModelInterface } from '../../stages/vq-model'
import { copyTokenizer } from '../../text/tokenizer'
import type { ConditioningKey } from '../latent/conditioning'
import type { SchedulerConfig } from '../sampling/diffusers/scheduler-config'
import { schedulerOfSettings, type WrittenScheduler } from './diffusers-scheduler'
import { type LatentContents, stageWeights, stored, writeLatentFolder } from './latent-folder'

/** A latent model to be written. */
export interface WrittenLatent extends Omit<LatentContents, 'config'> {
  readonly network?: Network
  readonly conditioningKey?: ConditioningKey
  readonly scaleFactor: number
  readonly scheduler: WrittenScheduler
  /** Options that change what is drawn and that no pipeline has, where they are in use. */
  readonly own: readonly string[]
  /** Of the model; only the layout of our own asks for it. */
  config(): JsonObject
}

/** The version whose layout and names are written. */
const diffusersVersion = '0.27.2'

/** ddim.py of latent-diffusion, for a model that is from no folder with a scheduler. */
const ddim = { _class_name: 'DDIMScheduler', set_alpha_to_one: false }
const ddimSteps = { timestepSpacing: 'leading', stepsOffset: 1 } as const

/**
 * Writes a folder that LatentDiffusion.fromPretrained opens; what should be known of it. `layout`: as of savePretrained. Throws `io`, and
 * `unsupported` for what the layout can't express.
 */
export async function writeLatent(
  folder: string,
  model: WrittenLatent,
  { layout: given, ...o }: WeightsOptions & { readonly layout?: 'diffusers' | 'ddpm-native' },
): Promise<readonly string[]> {
  const layout = given ?? layoutOf(model)
  const warnings: string[] = []
  if (layout === 'diffusers') {
    try {
      return await writePipeline(folder, model, o)
    } catch (error) {
      if (given || !(error instanceof DiffusionError) || error.code !== 'unsupported') throw error
      warnings.push(`${folder} is in the layout of this package, not in diffusers': ${error.message}`)
    }
  }
  await writeLatentFolder(folder, { ...model, config: model.config() }, o)
  return warnings
}

function layoutOf({ firstStage, condStage, conditioningKey: key, own }: WrittenLatent): 'diffusers' | 'ddpm-native' {
  if (own.length > 0) return 'ddpm-native'
  if (key === undefined) return firstStage instanceof VQModelInterface ? 'diffusers' : 'ddpm-native'
  const clip = condStage && clipOf(condStage)
  return firstStage instanceof AutoencoderKL && clip && key !== 'concat' ? 'diffusers' : 'ddpm-native'
}

function clipOf(stage: object): CLIPParts | undefined {
  return (stage as { asCLIP?: CLIPParts }).asCLIP
}

async function writePipeline(folder: string, model: WrittenLatent, o: WeightsOptions): Promise<readonly string[]> {
  const { firstStage, network, conditioningKey: key } = model
  if (!(firstStage instanceof AutoencoderKL || firstStage instanceof VQModelInterface)) {
    throw unsupported('firstStage', 'an AutoencoderKL or a VQModelInterface', firstStage.constructor.name)
  }
  if (model.own.length > 0) throw unsupported(model.own[0], 'its default', 'another value')
  if (!(network instanceof UNet)) throw unsupported('unetConfig', 'a UNet', String(network?.constructor.name))
  if (key === 'concat' || key === 'adm') throw unsupported('conditioningKey', "'crossattn' or 'hybrid'", key)
  const text = key === undefined ? undefined : textOf(model)
  const scheduler = schedulerOf(model)
  // What can't be expressed is refused before anything is written.
  const unetConfig = text ? unet2DConditionConfig(network.options) : unet2DConfig(network.options)
  const unet = text ? 'UNet2DConditionModel' : 'UNet2DModel'
  const json = async (name: string, fields: JsonObject) => {
    await makeFolder(path.dirname(path.join(folder, name)))
    await atomicWrite(path.join(folder, name), `${JSON.stringify(fields, null, 2)}\n`)
  }
  const about = (kind: string) => ({ _class_name: kind, _diffusers_version: diffusersVersion })
  await makeFolder(path.join(folder, 'unet'))
  const weights: Record<string, Float32Array> = {}
  for (const { name } of network.parameters.slots) weights[name] = (await model.weights[name].values()) as Float32Array
  await writeWeights(path.join(folder, 'unet'), unet2DWeights(network.options, weights), o)
  await json(path.join('unet', 'config.json'), { ...about(unet), ...unetConfig })
  const [autoencoder, kind] = firstStage instanceof AutoencoderKL ? ['vae', 'AutoencoderKL'] : ['vqvae', 'VQModel']
  await firstStage.savePretrained(path.join(folder, autoencoder), { ...o, scalingFactor: model.scaleFactor })
  await json(path.join('scheduler', 'scheduler_config.json'), { ...about('DDIMScheduler'), ...scheduler })
  const parts = {
    [autoencoder]: ['diffusers', kind],
    scheduler: ['diffusers', scheduler._class_name ?? 'DDPMScheduler'],
    unet: ['diffusers', unet],
  }
  if (!text) {
    await json('model_index.json', { ...about('LDMPipeline'), ...parts })
    return []
  }
  const hasTokenizer = await writeText(folder, text, o)
  const none = [null, null]
  await json('model_index.json', {
    ...about(key === 'hybrid' ? 'StableDiffusionInpaintPipeline' : 'StableDiffusionPipeline'),
    ...parts,
    feature_extractor: none,
    image_encoder: none,
    requires_safety_checker: false,
    safety_checker: none,
    text_encoder: ['transformers', 'CLIPTextModel'],
    tokenizer: hasTokenizer ? ['transformers', 'CLIPTokenizer'] : none,
  })
  return hasTokenizer ? [] : [`${folder} is written without a tokenizer, which the model has not got`]
}

interface Text {
  readonly stage: TextStage
  readonly clip: CLIPParts
}

function textOf({ condStage }: WrittenLatent): Text {
  const clip = condStage && clipOf(condStage)
  if (condStage instanceof TextStage && clip) return { stage: condStage, clip }
  const expected = "a CLIP whose `encode` gives its last states, of texts of the network's own length"
  throw unsupported('condStage', expected, String(condStage?.constructor.name))
}

/** Whether there is a tokenizer. */
async function writeText(folder: string, { stage, clip }: Text, o: WeightsOptions): Promise<boolean> {
  const own = path.join(folder, 'text_encoder')
  await makeFolder(own)
  const dict = await clip.weights((await stageWeights(stage))!)
  await writeWeights(own, await stored(dict), o, transformersFiles)
  await atomicWrite(path.join(own, 'config.json'), `${JSON.stringify(clipConfigOf(clip.options), null, 2)}\n`)
  const tokenizer = await stage.tokenizerFolder()
  if (tokenizer === undefined) return false
  await copyTokenizer(tokenizer, path.join(folder, 'tokenizer'), clip.padId)
  return true
}

/** That of the model's own folder, or else ddim.py's. Latents are never clipped. */
function schedulerOf({ schedulerConfig, scheduler }: WrittenLatent): SchedulerConfig {
  const settings = { ...scheduler, clipDenoised: false }
  if (schedulerConfig) return schedulerOfSettings(settings, schedulerConfig)
  const { parameterization, varianceType } = scheduler
  const isDdim = parameterization !== 'edm' && parameterization !== 'flow' && varianceType === 'fixed'
  return isDdim ? schedulerOfSettings({ ...settings, ...ddimSteps }, ddim) : schedulerOfSettings(settings)
}

function unsupported(argument: string, expected: string, received: string): DiffusionError {
  const message = `savePretrained: a pipeline of diffusers has no ${argument} of ${received}, only ${expected}; layout 'ddpm-native' has any`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}
