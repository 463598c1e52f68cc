/** Pipelines of diffusers that latent models are in: StableDiffusionPipeline, LDMPipeline. */
import path from 'node:path'
import { type Pipeline, type PipelinePart, readPipeline } from '../../checkpoint/diffusers/pipeline'
import { DiffusionError } from '../../errors'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import type { StageOptions } from '../../stages/stage'
import { FrozenCLIPEmbedder } from '../../stages/text/clip'
import { VQModelInterface } from '../../stages/vq-model'
import type { ConditioningKey } from '../latent/conditioning'
import { type Pretrained, readPretrained } from './pretrained'

export interface LatentPipeline extends Pretrained {
  readonly firstStage: AutoencoderKL | VQModelInterface
  /** Undefined for an unconditional model. */
  readonly condStage?: FrozenCLIPEmbedder
  readonly conditioningKey?: ConditioningKey
  readonly scaleFactor: number
}

export interface LatentPipelineOptions {
  /** Which weights of several: 'fp16' for files of that name. Default: those without such a name. */
  readonly variant?: string
  readonly stage: StageOptions
}

/** What a latent pipeline may be made of beside these is not needed to sample. */
const unused = ['safety_checker', 'feature_extractor', 'image_encoder']

/** Whether a pipeline has a first stage. */
export function isLatentPipeline({ parts }: Pipeline): boolean {
  return 'vae' in parts || 'vqvae' in parts
}

/**
 * A folder with model_index.json: its UNet and scheduler are read, the weights of its stages when they are first used. Throws
 * `not-found`, `io`, `bad-file`, `state-mismatch` and `unsupported`.
 */
export async function readLatentPipeline(folder: string, o: LatentPipelineOptions): Promise<LatentPipeline> {
  const pipeline = await readPipeline(folder)
  if (!pipeline) throw wrong('not-found', folder, 'it has no model_index.json')
  const { unet, vae, vqvae, text_encoder: text, tokenizer, scheduler, ...others } = pipeline.parts
  const autoencoder = vae ?? vqvae
  for (const [name, part] of Object.entries({ unet, 'vae or vqvae': autoencoder, scheduler })) {
    if (!part) throw wrong('not-found', folder, `it has no ${name}`)
  }
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
  return {
    ...pretrained,
    warnings: [...pretrained.warnings, ...left],
    firstStage,
    scaleFactor: firstStage.scalingFactor ?? 1,
    ...(text && {
      condStage: await textStageOf(folder, text, tokenizer, o),
      conditioningKey: inChannels > outChannels ? ('hybrid' as const) : ('crossattn' as const),
    }),
  }
}

async function firstStageOf(part: PipelinePart, o: LatentPipelineOptions): Promise<AutoencoderKL | VQModelInterface> {
  const given = { ...o.stage, variant: o.variant }
  if (part.kind === 'AutoencoderKL') return AutoencoderKL.fromPretrained(part.folder, given)
  if (part.kind === 'VQModel') return VQModelInterface.fromPretrained(part.folder, given)
  throw wrong('unsupported', part.folder, `a first stage of class ${part.kind} has no counterpart here`)
}

/** Its weights are read when it is first used. */
async function textStageOf(
  folder: string,
  part: PipelinePart,
  tokenizer: PipelinePart | undefined,
  o: LatentPipelineOptions,
): Promise<FrozenCLIPEmbedder> {
  if (part.kind !== 'CLIPTextModel') {
    throw wrong('unsupported', part.folder, `a text encoder of class ${part.kind} has no counterpart here`)
  }
  if (!tokenizer) throw wrong('not-found', folder, 'it has no tokenizer')
  const given = { ...o.stage, variant: o.variant, tokenizer: tokenizer.folder }
  return FrozenCLIPEmbedder.fromPretrained(part.folder, given)
}

function wrong(code: 'not-found' | 'unsupported', folder: string, problem: string): DiffusionError {
  const message = `${folder} is no latent diffusion model that opens here: ${problem}`
  return new DiffusionError(code, message, { argument: 'path', received: folder })
}
