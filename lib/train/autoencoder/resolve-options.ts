/** The options of a first stage's training with all defaults filled in, and what a resume may change of them. */
import { lossOf } from '../../autoencoder/loss'
import { discriminatorOf } from '../../autoencoder/options'
import { parseOptimizer } from '../../diffusion/training/optimizer'
import { invalidArgument } from '../../errors'
import { diffusersAutoencoderConfig } from '../../nn/autoencoder/diffusers'
import { type AutoencoderConfig, autoencoderShape } from '../../nn/autoencoder/options'
import { NLayerDiscriminator } from '../../nn/discriminator/n-layer'
import { parseOptions, unknownOption } from '../../options'
import { checkLpipsShape } from '../../stages/lpips'
import {
  checkData,
  checkPairs,
  checkSchedule,
  defaultValidationEvery,
  defaultWarmup,
  definedOnly,
  freeOnResume,
  refuseChange,
  sameRates,
} from '../resolve-options'
import {
  type AutoencoderTrainOptions,
  autoencoderTrainSchema,
  type ResolvedAutoencoderTrainOptions,
  type TrainAutoencoderConfig,
} from './options'
import { autoencoderScalars } from './scalars'

const defaults = { ch: 64, chMult: [1, 2, 4], numResBlocks: 1, attnResolutions: [], inChannels: 3, resolution: 32 }

/**
 * The options with all defaults filled in: those of the checkpoint, where one is resumed, else the library's. Throws `unknown-option`
 * and `invalid-argument`, the latter also for an option that differs from the checkpoint's and would change what is computed, and
 * `unsupported` for a network that diffusers' class can't express, which is how it is saved.
 */
export function resolveAutoencoderOptions(
  given: AutoencoderTrainOptions,
  from?: { readonly options: ResolvedAutoencoderTrainOptions; readonly step: number },
): ResolvedAutoencoderTrainOptions {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(autoencoderTrainSchema, name)) {
      throw unknownOption('AutoencoderTrainer', name, Object.keys(autoencoderTrainSchema))
    }
  }
  const named = definedOnly(given as unknown as Record<string, unknown>)
  if (from) refuseChanges(named, from.options, from.step)
  const network = from && { ddconfig: from.options.ddconfig } // of which refuseChanges has left nothing else
  return resolved({ ...from?.options, ...named, ...network }, named.flip, from !== undefined)
}

/** Those of a checkpoint, which is not trusted. Throws as resolveAutoencoderOptions. */
export function savedAutoencoderOptions(saved: Record<string, unknown>): ResolvedAutoencoderTrainOptions {
  const { seed } = saved
  const large = typeof seed === 'string' && /^\d{1,20}$/.test(seed) // a bigint, as a checkpoint says it
  // An object as data or validation is saved as no path; a resume is given it again, and checks that.
  const given = large ? { ...saved, seed: BigInt(seed) } : saved
  const { data, validation } = given as Pick<ResolvedAutoencoderTrainOptions, 'data' | 'validation'>
  const named = (path: unknown) => (path === '' ? 'given' : path)
  const options = resolved({ ...given, data: named(data), validation: named(validation) }, undefined, false)
  return { ...options, data, validation }
}

function resolved(all: Record<string, unknown>, flip: unknown, resumed: boolean): ResolvedAutoencoderTrainOptions {
  const o = parseOptions('AutoencoderTrainer', all, autoencoderTrainSchema)
  checkPairs(o)
  checkData(o, flip, resumed)
  const warmup = o.warmup ?? (typeof o.lrSchedule === 'object' ? 0 : defaultWarmup(o.steps))
  checkSchedule({ ...o, warmup })
  lossOf(o, o.nEmbed !== undefined)
  const network = networkOf(o)
  const adversary = discriminatorOf(o)
  if (adversary) checkPatches(network, adversary.discNumLayers)
  checkPerception(network, o)
  const { lr, optimizer, betas = optimizer === 'adamw' ? [0.5, 0.9] : undefined } = o
  return withMonitor({
    ...o,
    ...network,
    ...adversary,
    betas: parseOptimizer({ lr, optimizer, betas }).betas,
    klWeight: o.klWeight ?? (o.nEmbed === undefined ? 1e-6 : undefined),
    warmup,
    validationEvery: o.validationEvery ?? defaultValidationEvery(o.steps),
  })
}

type OfNetwork = Pick<AutoencoderTrainOptions, 'size' | 'ddconfig' | 'embedDim' | 'nEmbed'>

function networkOf({ size, ddconfig = {}, nEmbed, ...o }: OfNetwork) {
  const given: TrainAutoencoderConfig = definedOnly(ddconfig as Record<string, unknown>)
  for (const name of ['doubleZ', 'outCh', 'givePreEnd']) {
    if (name in given && !isOwn(name, given as AutoencoderConfig, nEmbed)) {
      throw invalidArgument(`ddconfig.${name}`, 'nothing: it follows from the rest', (given as never)[name])
    }
  }
  const resolution = given.resolution ?? size?.[0] ?? defaults.resolution
  const { inChannels = defaults.inChannels, zChannels = nEmbed === undefined ? 4 : 3 } = given
  const own = { ...defaults, ...given, resolution, inChannels, zChannels }
  const config: AutoencoderConfig = { ...own, outCh: inChannels, doubleZ: nEmbed === undefined, givePreEnd: false }
  const shape = autoencoderShape(config)
  const embedDim = o.embedDim ?? zChannels
  diffusersAutoencoderConfig({ shape, embedDim, nEmbed, scalingFactor: 1 })
  const [height, width] = size ?? [resolution, resolution]
  const factor = 2 ** (shape.channels.length - 1)
  if (width === undefined || height % factor !== 0 || width % factor !== 0) {
    throw invalidArgument('size', `a height and a width, multiples of ${factor}`, size ?? [height, width])
  }
  return { ddconfig: config, embedDim, size: [height, width] as const }
}

/** So that a training ends before it begins. */
function checkPatches({ size, ddconfig }: ReturnType<typeof networkOf>, nLayers: number): void {
  const { inChannels } = ddconfig
  new NLayerDiscriminator({ inChannels, ndf: 1, nLayers, useActnorm: false }).check(...size)
}

function checkPerception(
  { size, ddconfig }: ReturnType<typeof networkOf>,
  { perceptual, perceptualWeight }: Pick<AutoencoderTrainOptions, 'perceptual' | 'perceptualWeight'>,
): void {
  if (perceptual) checkLpipsShape('perceptual', [1, ddconfig.inChannels, ...size])
  else if (perceptualWeight !== undefined) {
    throw invalidArgument('perceptualWeight', 'nothing without perceptual', perceptualWeight)
  }
}

/** What a checkpoint's options have, which have been filled in. */
function isOwn(name: string, config: AutoencoderConfig, nEmbed: number | undefined): boolean {
  const own: Record<string, unknown> = { doubleZ: nEmbed === undefined, outCh: config.inChannels, givePreEnd: false }
  return (config as unknown as Record<string, unknown>)[name] === own[name]
}

/** Checked, and with the default where there are held-out images and no other is named. */
function withMonitor(o: ResolvedAutoencoderTrainOptions): ResolvedAutoencoderTrainOptions {
  const known = autoencoderScalars({
    validation: o.validation !== undefined,
    ema: o.useEma,
    codebook: o.nEmbed !== undefined,
  })
  const own = o.validation === undefined ? undefined : o.useEma ? 'val/rec_loss_ema' : 'val/rec_loss'
  const { monitor = own, patience } = o
  if (monitor === undefined) {
    if (patience === undefined) return o
    throw invalidArgument('patience', 'no patience without a monitor, or validation', patience)
  }
  if (known.includes(monitor)) return { ...o, monitor }
  throw invalidArgument('monitor', `a scalar of this training: ${known.join(', ')}`, monitor)
}

function refuseChanges(given: Record<string, unknown>, saved: ResolvedAutoencoderTrainOptions, step: number): void {
  for (const [name, now] of Object.entries(given)) {
    const before = saved[name as keyof ResolvedAutoencoderTrainOptions]
    if (name === 'ddconfig') {
      for (const [own, value] of Object.entries(definedOnly(now as Record<string, unknown>))) {
        refuseChange(`ddconfig.${own}`, (before as unknown as Record<string, unknown>)[own], value)
      }
    } else if (name === 'validation' && typeof now !== 'number' && typeof before !== 'number' && before !== undefined) {
      // elsewhere: which images they are has a fingerprint
    } else if (name === 'steps' ? !sameRates(saved, Number(now), step) : !freeOnResume.includes(name)) {
      refuseChange(name, before, now)
    }
  }
}
