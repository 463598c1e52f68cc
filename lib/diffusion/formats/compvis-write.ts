/** Models as configurations of CompVis' latent-diffusion. */
import { camelCase, unsupportedValue as unsupported } from '../../checkpoint/compvis'
import type { JsonObject } from '../../checkpoint/json'
import { describe } from '../../errors'
import { resolveUNetOptions } from '../../nn/unet/options'
import type { UNetOptions } from '../../nn/unet/unet'
import type { DDPMOptions } from '../options/ddpm-options'
import type { LatentDiffusionOptions } from '../options/latent-options'
import { latentNames, modelNames, targets, unetNames, vectorField } from './compvis-names'
import { stageInstantiation } from './compvis-write-stages'

/** UNet options that openaimodel's network has no argument for, with what it does. */
const unetImplied: Partial<UNetOptions> = {
  layout: 'openai',
  normGroups: 32,
  normEps: 1e-5,
  freqShift: 0,
  flipSinToCos: true,
  downsamplePadding: 1,
  middleAttention: true,
  middleBlock: true,
  middleScale: 1,
  centerInput: false,
  imageWidth: undefined,
  classEmbedding: 'table',
  selfCondition: false,
}
/** DDPM's, the same. What is about training alone is left out of a configuration. */
const modelImplied: DDPMOptions = {
  varianceType: 'fixed',
  zeroTerminalSnr: false,
  timestepSpacing: 'linspace',
  stepsOffset: 0,
  thresholding: undefined,
  imageWidth: undefined,
}

/** What a latent model is clipped by and how its timesteps are spaced is ddim.py's affair there. */
const { timestepSpacing: _, stepsOffset: __, ...latentImplied } = modelImplied

/** The configuration of a latent model whose `config` this is. Throws `unsupported` for what ddpm.py or its stages can't express. */
export function compVisLatentConfig(config: LatentDiffusionOptions & JsonObject, unet: UNetOptions): JsonObject {
  const { firstStage, condStage = '__is_unconditional__' } = config as JsonObject
  only(config, latentImplied)
  only(config, { splitInputParams: undefined })
  const options = { ...unet, layout: 'openai' as const }
  return {
    model: {
      target: targets.latent[0],
      params: {
        ...pick(
          config,
          modelNames.filter((name) => name !== 'clip_denoised'),
        ),
        ...pick(config, latentNames),
        unet_config: unetConfig(options, config, ['eps', 'x0', 'v']),
        first_stage_config: stageInstantiation(firstStage as JsonObject),
        cond_stage_config: typeof condStage === 'string' ? condStage : stageInstantiation(condStage as JsonObject),
      },
    },
  }
}

/** The configuration of a model with these options. Throws `unsupported` for what ddpm.py or openaimodel can't express. */
export function compVisConfig(options: DDPMOptions, unet: UNetOptions): JsonObject {
  only(options, modelImplied)
  const params = { ...pick(options, modelNames), unet_config: unetConfig(unet, options, ['eps', 'x0']) }
  return { model: { target: targets.model[0], params } }
}

/** Checks what the model and its network have in common, too. */
function unetConfig(unet: UNetOptions, options: DDPMOptions, parameterizations: readonly string[]): JsonObject {
  only(unet, { ...unetImplied, middleNormGroups: unet.normGroups, timeEmbeddingDim: 4 * unet.modelChannels })
  checkLists(unet)
  oneOf('betaSchedule', options.betaSchedule, ['linear', 'cosine', 'sqrt_linear', 'sqrt'])
  oneOf('parameterization', options.parameterization, parameterizations)
  oneOf('lossType', options.lossType, ['l1', 'l2'])
  return { target: targets.unet[0], params: { ...pick(unet, unetNames), ...vectorFields(unet) } }
}

function vectorFields({ vectorEmbedding, vectorDim }: UNetOptions): JsonObject {
  if (vectorDim === undefined) return {}
  if (vectorEmbedding === 'mlp') return { num_classes: 'sequential', [vectorField]: vectorDim }
  throw unsupported('vectorEmbedding', "'mlp' of CompVis' model", vectorEmbedding)
}

function oneOf(name: string, value: string | undefined, values: readonly string[]): void {
  if (value !== undefined && !values.includes(value)) throw unsupported(name, values.map(describe).join(' or '), value)
}

function only<T extends object>(options: T, implied: Partial<T>): void {
  for (const name of Object.keys(implied) as (keyof T & string)[]) {
    const value = options[name] ?? implied[name]
    if (value !== implied[name]) throw unsupported(name, `${describe(implied[name])} of CompVis' model`, value)
  }
}

/** What openaimodel has one option for, and this UNet a list for either way. */
function checkLists(unet: UNetOptions): void {
  const names = ['upAttentionResolutions', 'resblockDownResolutions', 'resblockUpResolutions'] as const
  const implied = resolveUNetOptions({ ...unet, ...Object.fromEntries(names.map((name) => [name, undefined])) })
  const sorted = (list: readonly number[] = []) => [...list].sort((a, b) => a - b)
  for (const name of names) {
    const [given, expected] = [sorted(unet[name] ?? implied[name]), sorted(implied[name])]
    if (String(given) !== String(expected)) throw unsupported(name, `${describe(expected)} of CompVis' model`, given)
  }
}

function pick(options: object, names: readonly string[]): JsonObject {
  const values = names.map((name) => [name, (options as Record<string, unknown>)[camelCase(name)]] as const)
  const given = values.filter(([, value]) => value !== undefined)
  return Object.fromEntries(
    given.map(([name, value]) => [name, ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value]),
  )
}
