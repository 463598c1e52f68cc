/** Folders of latent models: pipelines of diffusers (StableDiffusionPipeline, LDMTextToImagePipeline, LDMPipeline), and our own. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { type Pipeline, type PipelinePart, readPipeline } from '../../checkpoint/diffusers/pipeline'
import { DiffusionError } from '../../errors'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import { FrozenCLIPEmbedder } from '../../stages/text/clip'
import { readLDMBertFolder } from '../../stages/text/pretrained'
import { BERTEmbedder } from '../../stages/text/transformer'
import { VQModelInterface } from '../../stages/vq-model'
import { type FoundLatent, isLatentFolder, type LatentFolderOptions, readLatentFolder } from './latent-folder'
import { readPretrained } from './pretrained'

/** What a latent pipeline may be made of beside these is not needed to sample. */
const unused = ['safety_checker', 'feature_extractor', 'image_encoder']

/** Whether a pipeline has a first stage. */
export function isLatentPipeline(pipeline: Pipeline): boolean {
  return 'vae' in pipeline.parts || 'vqvae' in pipeline.parts || isLatentFolder(pipeline)
}

/**
 * A folder with model_index.json: its UNet and scheduler are read, the weights of its stages when they are first used. Throws
 * `not-found`, `io`, `bad-file`, `state-mismatch` and `unsupported`.
 */
export async function readLatentPipeline(folder: string, o: LatentFolderOptions): Promise<FoundLatent> {
  const pipeline = await readPipeline(folder)
  if (!pipeline) throw wrong('not-found', folder, 'it has no model_index.json')
  if (isLatentFolder(pipeline)) return readLatentFolder(folder, pipeline, o)
  const { unet, vae, vqvae, text_encoder: clip, bert, tokenizer, scheduler, ...others } = pipeline.parts
  const autoencoder = vae ?? vqvae
  const text = clip ?? bert
  for (const [name, part] of Object.entries({ unet, 'vae or vqvae': autoencoder, scheduler })) {
    if (!part) throw wrong('not-found', folder, `it has no ${name}`)
  }
  await stat(path.join(scheduler.folder, 'scheduler_config.json')).catch(() => {
    throw wrong('not-found', scheduler.folder, 'it has no scheduler_config.json')
  })
  const strange = Object.keys(others).find((name) => !unused.includes(name))
  if (strange !== undefined) throw wrong('unsupported', folder, `a pipeline with '${strange}' has no counterpart here`)
  const pretrained = await readPretrained(unet.folder, { variant: o.variant })
  const left = Object.keys(others).map((name) => `${path.join(folder, name)} is left out: it is not needed to sample`)
  const firstStage = await firstStageOf(autoencoder, o)
  const { inChannels, outChannels, useSpatialTransformer } = pretrained.settings.unetConfig as {
    inChannels: number
    outChannels: number
    useSpatialTransformer?: boolean
  }
  if (!useSpatialTransformer !== !text) {
    const problem = text ? 'its UNet takes no text' : 'it has no text_encoder, which its UNet needs'
    throw wrong(text ? 'unsupported' : 'not-found', folder, problem)
  }
  const { clipDenoised: _, ...settings } = pretrained.settings
  const told = text && {
    condStage: await textStageOf(
      folder,
      { text, tokenizer: tokenizer?.folder, isNone: isNone(pipeline, 'tokenizer') },
      o,
    ),
    conditioningKey: inChannels > outChannels ? ('hybrid' as const) : ('crossattn' as const),
    condStageKey: 'caption',
  }
  return {
    options: { ...settings, firstStage, ...told, scaleFactor: firstStage.scalingFactor ?? 1 },
    weights: pretrained.weights,
    schedulerConfig: pretrained.schedulerConfig,
    warnings: [...pretrained.warnings, ...left],
  }
}

/** [null, null]: there is none, and that is not by accident. */
function isNone({ index }: Pipeline, part: string): boolean {
  const value = index[part]
  return Array.isArray(value) && value[0] === null
}

async function firstStageOf(part: PipelinePart, o: LatentFolderOptions): Promise<AutoencoderKL | VQModelInterface> {
  const { tokenizer: _, ...stage } = o.stage
  const given = { ...stage, variant: o.variant }
  if (part.kind === 'AutoencoderKL') return AutoencoderKL.fromPretrained(part.folder, given)
  if (part.kind === 'VQModel') return VQModelInterface.fromPretrained(part.folder, given)
  throw wrong('unsupported', part.folder, `a first stage of class ${part.kind} has no counterpart here`)
}

/** Its weights are read when it is first used. */
async function textStageOf(
  folder: string,
  { text, tokenizer, isNone }: { text: PipelinePart; tokenizer?: string; isNone: boolean },
  o: LatentFolderOptions,
): Promise<FrozenCLIPEmbedder | BERTEmbedder> {
  if (text.kind !== 'CLIPTextModel' && text.kind !== 'LDMBertModel') {
    throw wrong('unsupported', text.folder, `a text encoder of class ${text.kind} has no counterpart here`)
  }
  if (!tokenizer && !isNone && !o.stage.tokenizer) throw wrong('not-found', folder, 'it has no tokenizer')
  const settings = { ...o.stage, tokenizer: o.stage.tokenizer ?? tokenizer }
  if (text.kind === 'LDMBertModel') {
    const { config, weights } = await readLDMBertFolder(text.folder, o.variant)
    return new BERTEmbedder({ ...config.options, ...settings }, weights)
  }
  const given = { ...settings, variant: o.variant }
  return FrozenCLIPEmbedder.fromPretrained(text.folder, given)
}

function wrong(code: 'not-found' | 'unsupported', folder: string, problem: string): DiffusionError {
  const message = `${folder} is no latent diffusion model that opens here: ${problem}`
  return new DiffusionError(code, message, { argument: 'path', received: folder })
}
