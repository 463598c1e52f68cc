/** state.json of a checkpoint: what it says, and its check. */
import { isObject, type JsonObject } from '../checkpoint/json'
import type { LossScaleState } from '../diffusion/process/loss-scale'
import { DiffusionError, describe } from '../errors'
import type { MonitorState } from './monitor'
import { checkNetwork } from './network-options'
import type { ResolvedTrainOptions } from './options'
import { savedTrainOptions } from './resolve-options'

/** What tells other images from these. */
export interface DataState {
  readonly fingerprint: string
  readonly images: number
}

/** Random numbers and the data's order follow from the seed and the position, so these are all their state. */
export interface RunState {
  readonly format: 'ddpm-native checkpoint'
  readonly version: 1
  /** Completed optimizer steps. */
  readonly step: number
  /** Samples drawn from the data so far: the position in its order. */
  readonly samples: number
  readonly optimizerStep: number
  /** -1 where the decay is constant. */
  readonly emaUpdates: number
  /** Seeds drawn by the model so far. */
  readonly draws: number
  /** With precision 'fp16' only. */
  readonly lossScale?: LossScaleState
  readonly data: DataState
  /** The images of a validation folder or fraction. */
  readonly heldOut?: DataState
  /** The step after which there was the last evaluation. */
  readonly evaluated?: number
  /** The identity of the extractor whose features FID was computed of. */
  readonly extractor?: string
  /** With a monitor. */
  readonly monitor?: MonitorState
  readonly options: ResolvedTrainOptions
  /** ISO 8601. */
  readonly time: string
}

/** Of any JSON object. Throws `bad(problem)`, and what it does not check is not used. */
export function runState(json: JsonObject, bad: (problem: string, cause?: unknown) => DiffusionError): RunState {
  if (json.format === 'ddpm-native autoencoder checkpoint') {
    throw bad("of a first stage's training (ddpm train-autoencoder), not of a diffusion model's")
  }
  if (json.format !== 'ddpm-native checkpoint') throw bad('not the state of a ddpm-native checkpoint')
  if (json.version !== 1) throw bad(`version ${describe(json.version)} is not known to this release`)
  const integer = (name: string, min = 0): number => {
    const value = json[name]
    if (Number.isSafeInteger(value) && (value as number) >= min) return value as number
    throw bad(`${name} is not an integer of at least ${min}`)
  }
  const { data, heldOut, extractor, monitor, options, lossScale, time } = json
  if (lossScale !== undefined && !isLossScale(lossScale)) throw bad('lossScale is not a scale')
  if (!isData(data)) throw bad('data or options are missing')
  if (heldOut !== undefined && !isData(heldOut)) throw bad('heldOut says nothing of images')
  if (monitor !== undefined && !isMonitor(monitor)) throw bad('monitor is not the state of one')
  return {
    format: json.format,
    version: json.version,
    step: integer('step'),
    samples: integer('samples'),
    optimizerStep: integer('optimizerStep'),
    emaUpdates: integer('emaUpdates', -1),
    draws: integer('draws'),
    ...(lossScale !== undefined && { lossScale }),
    data: { fingerprint: data.fingerprint, images: data.images },
    ...(heldOut !== undefined && { heldOut: { fingerprint: heldOut.fingerprint, images: heldOut.images } }),
    ...(typeof extractor === 'string' && { extractor }),
    ...(json.evaluated !== undefined && { evaluated: integer('evaluated') }),
    ...(monitor !== undefined && { monitor }),
    options: runOptions(options, bad),
    time: typeof time === 'string' ? time : '',
  }
}

function runOptions(options: unknown, bad: (problem: string, cause?: unknown) => DiffusionError): ResolvedTrainOptions {
  if (!isObject(options) || !isObject(options.model) || !isObject(options.model.unetConfig)) {
    throw bad('data or options are missing')
  }
  try {
    checkNetwork(options.model.unetConfig)
    return savedTrainOptions(options)
  } catch (error) {
    if (error instanceof DiffusionError) throw bad(`its options are not those of a training: ${error.message}`, error)
    throw error
  }
}

export function isData(value: unknown): value is DataState & JsonObject {
  return isObject(value) && typeof value.fingerprint === 'string' && Number.isSafeInteger(value.images)
}

export function isMonitor(value: unknown): value is MonitorState & JsonObject {
  if (!isObject(value)) return false
  const { best, score, wait, sum, count } = value
  const counts = [wait, count].every((n) => Number.isSafeInteger(n) && (n as number) >= 0)
  const isBest =
    best === undefined || (isObject(best) && Number.isSafeInteger(best.step) && Number.isFinite(best.value))
  return counts && isBest && (score === undefined || Number.isFinite(score)) && Number.isFinite(sum)
}

function isLossScale(value: unknown): value is LossScaleState {
  if (!isObject(value)) return false
  const { scale, goodUpdates } = value
  return typeof scale === 'number' && Number.isSafeInteger(Math.log2(scale)) && Number.isSafeInteger(goodUpdates)
}
