/** Stages as latent-diffusion's first_stage_config and cond_stage_config. */
import { snakeCase, unsupportedValue } from '../../checkpoint/compvis'
import type { JsonObject } from '../../checkpoint/json'
import { diffusersAutoencoder } from '../../nn/autoencoder/diffusers'
import {
  type AutoencoderConfig,
  type AutoencoderShape,
  autoencoderShape,
  ddconfigOf,
} from '../../nn/autoencoder/options'
import { CLIPTextModel, largeCLIP, type ResolvedCLIPTextOptions } from '../../nn/text/clip'
import { OpenCLIPTextModel } from '../../nn/text/open-clip'
import { sizesField, stageClasses } from './compvis-stages'

/** Of a stage's `config` here. Throws `unsupported` for what its class there can't express. */
export function stageInstantiation(config: JsonObject): JsonObject {
  if (config.ddconfig !== undefined || config.diffusers !== undefined) return autoencoderInstantiation(config)
  if (config.kind === 'FrozenCLIPEmbedder') return clipInstantiation(config)
  if (config.kind === 'FrozenOpenCLIPEmbedder') {
    return instantiation(config, sizesUnless(config.textConfig, new OpenCLIPTextModel().options))
  }
  return instantiation(config)
}

function instantiation({ kind, ...own }: JsonObject, more: JsonObject = {}): JsonObject {
  const [target, { names }] = Object.entries(stageClasses).find(([, stage]) => stage.kind === kind)!
  const fields = Object.entries(own).filter(([name]) => names.includes(snakeCase(name)))
  return { target, params: { ...Object.fromEntries(fields.map(([name, v]) => [snakeCase(name), v])), ...more } }
}

/** With the exact GELU it is Stable Diffusion 2's, an OpenCLIP there, whose last layer a folder of diffusers has not got. */
function clipInstantiation(config: JsonObject): JsonObject {
  const sizes = config.textConfig as ResolvedCLIPTextOptions
  if (sizes.hiddenAct === 'quick_gelu') {
    return instantiation(config, sizesUnless(sizes, new CLIPTextModel(largeCLIP).options))
  }
  const { width, heads, layers, vocabSize, contextLength } = new OpenCLIPTextModel().options
  const published = [width, heads, layers - 1, vocabSize, contextLength, 4 * width]
  const own = [sizes.hiddenSize, sizes.numAttentionHeads, sizes.numHiddenLayers, sizes.vocabSize]
  const isPublished = String([...own, sizes.maxPositionEmbeddings, sizes.intermediateSize]) === String(published)
  if (sizes.intermediateSize !== 4 * sizes.hiddenSize) {
    throw unsupportedValue('intermediateSize', '4 hiddenSize of OpenCLIP', sizes.intermediateSize)
  }
  const { freeze } = config
  const kind = 'FrozenOpenCLIPEmbedder'
  if (isPublished) return instantiation({ kind, freeze, layer: 'penultimate' })
  return instantiation({ kind, freeze, layer: 'last' }, { [sizesField]: { heads: sizes.numAttentionHeads } })
}

function sizesUnless(sizes: unknown, published: object): JsonObject {
  return JSON.stringify(sizes) === JSON.stringify(published) ? {} : { [sizesField]: sizes }
}

function autoencoderInstantiation(config: JsonObject): JsonObject {
  const { kind, diffusers, ddconfig: given, scalingFactor: _, ...own } = config
  const found = diffusers
    ? diffusersAutoencoder(kind === 'AutoencoderKL' ? kind : 'VQModel', diffusers as JsonObject)
    : undefined
  const ddconfig = found ? ldmConfig(found.shape) : (given as AutoencoderConfig)
  const rest = found ? { embedDim: found.embedDim, ...(found.nEmbed && { nEmbed: found.nEmbed }) } : own
  const snake = (fields: object) => Object.fromEntries(Object.entries(fields).map(([name, v]) => [snakeCase(name), v]))
  return {
    target: `ldm.models.autoencoder.${kind}`,
    params: { ...snake(rest), ddconfig: snake(ddconfig), lossconfig: { target: 'torch.nn.Identity' } },
  }
}

/** Throws `unsupported` for levels or norms that a ddconfig does not say. */
function ldmConfig(shape: AutoencoderShape): AutoencoderConfig {
  if (shape.normGroups !== 32) throw unsupportedValue('norm_num_groups', '32 of latent-diffusion', shape.normGroups)
  const ddconfig = ddconfigOf(shape)
  const made: Record<string, unknown> = { ...autoencoderShape(ddconfig), layout: shape.layout }
  for (const [name, value] of Object.entries(shape)) {
    if (String(made[name]) !== String(value)) throw unsupportedValue(name, `${made[name]} of latent-diffusion`, value)
  }
  return ddconfig
}
