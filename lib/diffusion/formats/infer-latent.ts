/** Single files without a configuration: what they are follows from names and shapes. */
import type { JsonObject } from '../../checkpoint/json'
import { inferAutoencoder } from '../../nn/autoencoder/infer'
import { ShapeReader, type Shapes, shapesWithin } from '../../nn/shapes'
import { inferTransformer } from '../../nn/text/infer'
import { inferUNetOptions } from '../../nn/unet/infer'
import type { UNetOptions } from '../../nn/unet/options'
import type { LatentDiffusionOptions } from '../options/latent-options'
import type { CompVisConfig } from './compvis-config'
import { modelPrefix } from './state'

export const firstPrefix = 'first_stage_model.'
export const condPrefix = 'cond_stage_model.'

/** Names that a text encoder of each kind has, within the stage. */
export const textAnchors = {
  FrozenCLIPEmbedder: 'transformer.text_model.embeddings.token_embedding.weight',
  FrozenOpenCLIPEmbedder: 'model.token_embedding.weight',
  BERTEmbedder: 'transformer.token_emb.weight',
  ClassEmbedder: 'embedding.weight',
} as const

export interface InferOptions {
  /** Of a checkpoint: how long it was trained. */
  readonly counters: Readonly<Record<string, number>>
  readonly parameterization?: LatentDiffusionOptions['parameterization']
  /** Of the latents. */
  readonly imageSize?: number
  /** Go before what follows. */
  readonly heads: Pick<UNetOptions, 'numHeads' | 'numHeadChannels'>
}

/** Whether a file has a network and a first stage by CompVis' names. */
export function isLatentFile(names: readonly string[]): boolean {
  const has = (prefix: string) => names.some((name) => name.startsWith(prefix))
  return has(modelPrefix) && has(firstPrefix)
}

/** Throws `unsupported` where it does not follow. `what` begins messages. */
export function inferLatent(shapes: Shapes, o: InferOptions, what: string): CompVisConfig {
  const s = new ShapeReader(shapes, what)
  const { ddconfig, embedDim, nEmbed } = inferAutoencoder(shapesWithin(shapes, firstPrefix), what)
  const unet = shapesWithin(shapes, modelPrefix)
  const warnings: string[] = []
  const { useLinearInTransformer, contextDim } = inferUNetOptions(unet, 1, what)
  const isV2 = useLinearInTransformer === true
  const parameterization = o.parameterization ?? (isV2 ? predictionOf(s, o, what, warnings) : 'eps')
  const { imageSize = isV2 && parameterization === 'v' ? 96 : 64 } = o
  const unetConfig = { ...inferUNetOptions(unet, imageSize, what), ...o.heads }
  const condStage = condStageOf(shapes, what)
  if (contextDim !== undefined && condStage === undefined) {
    throw s.unknown('its network attends to tokens, and it has no conditioning stage that is known here')
  }
  const hasMap = unetConfig.inChannels > unetConfig.outChannels
  return {
    options: {
      ...{ parameterization, imageSize, channels: unetConfig.outChannels, unetConfig, useEma: false },
      // Stable Diffusion's schedule; one that the file has is taken from it.
      ...{ timesteps: 1000, linearStart: 0.00085, linearEnd: 0.012 },
      scaleFactor: nEmbed === undefined ? 0.18215 : 1,
      ...(condStage && {
        conditioningKey: contextDim === undefined ? 'concat' : hasMap ? 'hybrid' : 'crossattn',
        condStageKey: condStage.kind === 'ClassEmbedder' ? 'class_label' : 'caption',
      }),
    },
    stages: {
      firstStage: {
        config: {
          kind: nEmbed === undefined ? 'AutoencoderKL' : 'VQModelInterface',
          ddconfig,
          embedDim,
          ...(nEmbed && { nEmbed }),
        },
      },
      condStage: condStage ? { config: condStage } : '__is_unconditional__',
    },
    warnings,
  }
}

/** Stable Diffusion 2 comes with either, which no shape says. */
function predictionOf(s: ShapeReader, { counters }: InferOptions, what: string, warnings: string[]): 'eps' | 'v' {
  // The published 512-base-ema.ckpt.
  if (counters.global_step === 875000) return 'eps'
  if (s.has('v_pred')) return 'v'
  warnings.push(
    `${what} does not say what its network predicts: taken for v; the option parameterization 'eps' says otherwise`,
  )
  return 'v'
}

/** By its names; its sizes come with its weights. */
function condStageOf(shapes: Shapes, what: string): JsonObject | undefined {
  const own = shapesWithin(shapes, condPrefix)
  const s = new ShapeReader(own, what)
  const has = (kind: keyof typeof textAnchors) => s.has(textAnchors[kind])
  if (has('FrozenCLIPEmbedder') || s.has(oldCLIP)) return { kind: 'FrozenCLIPEmbedder' }
  if (has('FrozenOpenCLIPEmbedder')) {
    return { kind: 'FrozenOpenCLIPEmbedder', layer: 'penultimate' }
  }
  if (has('BERTEmbedder')) return { kind: 'BERTEmbedder', ...inferTransformer(own, what) }
  if (has('ClassEmbedder')) {
    const [nClasses, embedDim] = s.of(textAnchors.ClassEmbedder, 2)
    return { kind: 'ClassEmbedder', nClasses, embedDim }
  }
  return undefined
}

/** transformers' names before text_model was put before them. */
export const oldCLIP = 'transformer.embeddings.token_embedding.weight'
