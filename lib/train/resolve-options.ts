/** A training's options with all defaults filled in, and what a resume may change of them. */
import { isDeepStrictEqual } from 'node:util'
import { augmentationDim } from '../data/augment'
import { givesBatches } from '../data/sources/user'
import { modelSchema } from '../diffusion/process/model-options'
import { lrFactorAt } from '../diffusion/training/lr-scheduler'
import { parseOptimizer } from '../diffusion/training/optimizer'
import { DiffusionError, describe, invalidArgument } from '../errors'
import { type Parsed, parseOptions, unknownOption } from '../options'
import { checkLatentOptions } from './latent-options'
import { decayStart } from './lr-schedule'
import { checkIsTold, completeNetwork, downsamplingOf, imagesOf } from './network-options'
import { type ModelConfig, type ResolvedTrainOptions, type TrainOptions, trainSchema } from './options'
import { fidScalar, heldOutScalars, trainScalars } from './scalars'

/** Where and how fast, but not what is computed: a resume may change these, and `steps` while no rate so far depends on it. */
export const freeOnResume: readonly string[] = [
  'data',
  'svg', // which images there are is part of the data's fingerprint
  'classes', // where they are, as with data: what they are is part of the data's fingerprint
  'patience',
  'minDelta',
  'inception', // whose weights they are, the checkpoint knows
  'out',
  'from', // what it was, the checkpoint has
  'resume',
  'steps',
  'sampleEvery',
  'sampleCount',
  'sampleSteps',
  'checkpointEvery',
  'keep',
  'device',
  'memoryLimit',
  'distributed',
  'shardOptimizer',
  'latents',
  'prefetch',
  'cacheBytes',
]

const ofEvaluation: readonly string[] = ['validation', 'validationEvery', 'validationCount', 'monitor']
const ofFid: readonly string[] = ['fidEvery', 'fidCount', 'fidSteps']

/** The same of the network's options. */
const freeOfUnet: readonly string[] = ['useCheckpoint']

/**
 * The options with all defaults filled in: those of the checkpoint, where one is resumed, else the library's, and of the model
 * those of `start` where there is one. Throws
 * `unknown-option` and `invalid-argument`, the latter also for an option that differs from the checkpoint's and would change
 * what is computed.
 */
export function resolveTrainOptions(
  given: TrainOptions,
  from?: { readonly options: ResolvedTrainOptions; readonly step: number },
  start?: ModelConfig,
): ResolvedTrainOptions {
  const saved = from?.options
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(trainSchema, name)) throw unknownOption('Trainer', name, Object.keys(trainSchema))
  }
  const named = definedOnly(given as unknown as Record<string, unknown>)
  if (from) refuseChanges(named, from.options, from.step)
  const options = parseOptions('Trainer', { ...saved, ...named }, trainSchema)
  checkPairs(options)
  checkLatentOptions(options)
  checkData(options, named.flip, saved !== undefined)
  const warmup = options.warmup ?? (typeof options.lrSchedule === 'object' ? 0 : defaultWarmup(options.steps))
  checkSchedule({ ...options, warmup })
  const wanted = (given.model ?? {}) as ModelConfig
  const model = saved ? withFree(saved.model, wanted) : withAugmentation(completeModel(wanted, start), options.augment)
  checkBuckets(options.buckets, downsamplingOf(model.unetConfig))
  checkFid(options, imagesOf(model.unetConfig).channels)
  const validationEvery = options.validationEvery ?? defaultValidationEvery(options.steps)
  const { lr, optimizer } = options
  const { betas } = parseOptimizer({ lr, optimizer, betas: options.betas })
  return withMonitor({ ...options, betas, warmup, validationEvery, model })
}

/** Checked, and with the model's where there are held-out images and no other is named. */
function withMonitor(options: ResolvedTrainOptions): ResolvedTrainOptions {
  const { validation, patience, fidEvery } = options
  const own = validation === undefined ? undefined : String(options.model.monitor)
  const monitor = options.monitor ?? own ?? (fidEvery === undefined ? undefined : fidScalar)
  if (monitor === undefined) {
    if (patience === undefined) return options
    throw invalidArgument('patience', 'no patience without a monitor, or validation', patience)
  }
  const ofFid = fidEvery === undefined ? [] : [fidScalar]
  const known = [...(validation === undefined ? [] : heldOutScalars), ...ofFid, ...trainScalars]
  if (known.includes(monitor)) return { ...options, monitor }
  const what = heldOutScalars.includes(monitor) ? 'a scalar of the training where there is no validation' : 'a scalar'
  throw invalidArgument('monitor', `${what}: ${known.join(', ')}`, monitor)
}

function withFree(
  saved: ResolvedTrainOptions['model'],
  { unetConfig = {} }: ModelConfig,
): ResolvedTrainOptions['model'] {
  const changed = Object.entries(definedOnly(unetConfig)).filter(([name]) => freeOfUnet.includes(name))
  return { ...saved, unetConfig: { ...saved.unetConfig, ...Object.fromEntries(changed) } }
}

/** More than a tenth of a short training would never reach its rate. */
export function defaultWarmup(steps: number): number {
  return Math.min(1000, Math.floor(steps / 10))
}

/** A scheduler of ddpm.py has its own warm-up, and may end. */
export function checkSchedule({
  lrSchedule,
  warmup,
  steps,
}: Pick<ResolvedTrainOptions, 'lrSchedule' | 'warmup' | 'steps'>): void {
  if (typeof lrSchedule !== 'object') return
  if (warmup > 0) throw invalidArgument('warmup', 'none beside a scheduler_config, which has its own', warmup)
  lrFactorAt(lrSchedule, steps - 1)
}

/** So that a short training is evaluated ten times, too. */
export function defaultValidationEvery(steps: number): number {
  return Math.min(1000, Math.max(1, Math.floor(steps / 10)))
}

/** Those of a checkpoint, which is not trusted: checked, and those that it is too old to have with their defaults. */
export function savedTrainOptions(saved: Record<string, unknown>): ResolvedTrainOptions {
  const { seed } = saved
  const large = typeof seed === 'string' && /^\d{1,20}$/.test(seed) // a bigint, as a checkpoint says it
  const options = parseOptions('Trainer', large ? { ...saved, seed: BigInt(seed) } : saved, trainSchema)
  checkPairs(options)
  const { warmup = 1000, validationEvery = defaultValidationEvery(options.steps) } = options
  return { ...options, warmup, validationEvery } as ResolvedTrainOptions
}

type ParsedTrain = Parsed<typeof trainSchema>
type OfImages = Pick<ParsedTrain, 'data' | 'validation' | 'crop' | 'cropScale' | 'flipVertical' | 'range'> &
  Partial<Pick<ParsedTrain, 'buckets' | 'augment' | 'classes'>>

/** What an array's type does not say. */
export function checkPairs({
  lr,
  optimizer,
  betas,
  eps,
  range,
  buckets,
}: Pick<ParsedTrain, 'lr' | 'optimizer' | 'betas' | 'eps' | 'range'> & Partial<Pick<ParsedTrain, 'buckets'>>): void {
  parseOptimizer({ lr, optimizer, betas, eps })
  if (range && !(range.length === 2 && range[0] < range[1])) throw invalidArgument('range', 'black, then white', range)
  if (buckets && !(buckets.length > 0 && buckets.every((bucket) => bucket.length === 2))) {
    throw invalidArgument('buckets', 'one [height, width] or several', buckets)
  }
}

/** Each must go through the network's levels, which halve it; a batch of the last one may come late. */
function checkBuckets(buckets: readonly (readonly number[])[] | undefined, rate: number): void {
  for (const bucket of buckets ?? []) {
    if (bucket.some((side) => side % rate !== 0)) throw invalidArgument('buckets', `multiples of ${rate}`, bucket)
  }
}

export function checkData(
  { data, validation, crop, cropScale, ...o }: OfImages,
  flip: unknown,
  resumed: boolean,
): void {
  for (const [argument, path] of Object.entries({ data, validation })) {
    if (path !== '' || !resumed) continue
    const problem = `${argument}: this run was given an object of yours, which a resume must be given again`
    throw new DiffusionError('invalid-argument', problem, { argument })
  }
  if (cropScale !== 1 && crop !== 'random') throw invalidArgument('cropScale', "1 unless crop is 'random'", cropScale)
  if (!givesBatches(data)) return
  if (typeof validation === 'number')
    throw invalidArgument('validation', 'no fraction of an object with batch(), whose batches are its own', validation)
  // Its batches come as they are.
  for (const name of ['flipVertical', 'buckets', 'augment', 'range', 'classes'] as const) {
    if (o[name] !== undefined && o[name] !== false)
      throw invalidArgument(name, 'nothing for an object with batch(), whose batches are its own', o[name])
  }
  if (flip === true) throw invalidArgument('flip', 'nothing for an object with batch()', flip)
  if (crop !== 'centre') throw invalidArgument('crop', 'nothing for an object with batch()', crop)
}

/** With the layer by which the network is told; another vector is nothing that images have. */
function withAugmentation(
  model: ResolvedTrainOptions['model'],
  augment: number | undefined,
): ResolvedTrainOptions['model'] {
  if (augment === undefined) {
    const { vectorDim, vectorEmbedding = vectorDim === undefined ? 'augment' : 'mlp' } = model.unetConfig
    if (vectorEmbedding === 'augment') return model
    const expected = "'augment' in a training, whose images have no vectors: trainBatch takes them"
    throw invalidArgument('model.unetConfig.vectorEmbedding', expected, vectorEmbedding)
  }
  checkIsTold(model.unetConfig, 'augment')
  const own = { vectorEmbedding: 'augment', vectorDim: augmentationDim }
  for (const [name, value] of Object.entries(own)) {
    const given = model.unetConfig[name]
    if (given === undefined || given === value) continue
    throw invalidArgument(`model.unetConfig.${name}`, `${describe(value)} with augment`, given)
  }
  return { ...model, unetConfig: { ...model.unetConfig, ...own } }
}

function checkFid({ fidEvery, inception }: Omit<Parsed<typeof trainSchema>, 'model'>, channels: unknown): void {
  if (fidEvery === undefined) {
    if (inception !== undefined) throw invalidArgument('inception', 'nothing without fidEvery', inception)
    return
  }
  if (channels !== 1 && channels !== 3) throw invalidArgument('fidEvery', 'images of 1 or 3 channels', channels)
  if (inception !== '') return
  const problem = 'inception: this run was given an object of yours, which a resume must be given again'
  throw new DiffusionError('invalid-argument', problem, { argument: 'inception' })
}

function completeModel(model: ModelConfig, start?: ModelConfig): ResolvedTrainOptions['model'] {
  for (const name of [
    'device',
    'memoryLimit',
    'seed',
    'model',
    'deterministic',
    'precision',
    'distributed',
    'shardOptimizer',
  ]) {
    if (name in model) {
      throw new DiffusionError('invalid-argument', `model.${name}: a training has its own`, {
        argument: `model.${name}`,
      })
    }
  }
  const unetConfig = completeNetwork(definedOnly(model.unetConfig ?? {}), start?.unetConfig)
  return { ...diffusionDefaults(), ...start, ...definedOnly(model), unetConfig }
}

/** DDPM's defaults, so that a checkpoint says all that it was made with. */
function diffusionDefaults(): Record<string, unknown> {
  const defaults = Object.entries(modelSchema).map(([name, { fallback }]) => [name, fallback])
  const all = definedOnly(Object.fromEntries(defaults))
  const {
    seed: _s,
    deterministic: _d,
    precision: _p,
    weightFormat: _w,
    distributed: _t,
    shardOptimizer: _o,
    ...own
  } = all
  return own
}

/** Throws `invalid-argument` for an option that would change what is computed. */
export function refuseChange(name: string, before: unknown, now: unknown): void {
  if (isDeepStrictEqual(before, now)) return
  throw new DiffusionError(
    'invalid-argument',
    `${name} is ${describe(before)} in the checkpoint and can't become ${describe(now)} on resume: ` +
      'leave it out, or start a new run',
    { argument: name, expected: describe(before), received: describe(now) },
  )
}

function refuseChanges(given: Record<string, unknown>, saved: ResolvedTrainOptions, step: number): void {
  const { model, ...rest } = given as { model?: ModelConfig }
  for (const [name, now] of Object.entries(rest)) {
    if (ofEvaluation.includes(name) && mayChange(name, now, saved)) continue
    if (ofFid.includes(name) && saved.fidEvery === undefined) continue
    const fixed = name === 'steps' ? !sameRates(saved, Number(now), step) : !freeOnResume.includes(name)
    // A checkpoint from before there was the option was made with its default.
    const before = saved[name as keyof ResolvedTrainOptions] ?? trainSchema[name as keyof typeof trainSchema].fallback
    if (fixed) refuseChange(name, before, now)
  }
  const { unetConfig, ...diffusion } = model ?? {}
  for (const [name, now] of Object.entries(definedOnly(diffusion)))
    refuseChange(`model.${name}`, saved.model[name], now)
  for (const [name, now] of Object.entries(definedOnly(unetConfig ?? {}))) {
    if (freeOfUnet.includes(name)) continue
    refuseChange(`model.unetConfig.${name}`, saved.model.unetConfig[name], now)
  }
}

/** A run without an evaluation may be evaluated from now on, and images may be elsewhere: which they are has a fingerprint. */
function mayChange(name: string, now: unknown, { validation, monitor }: ResolvedTrainOptions): boolean {
  if (name === 'validation' && typeof now === 'number') return false // a fraction takes images away
  if (name === 'validation' && typeof validation === 'string') return true
  return validation === undefined && monitor === undefined
}

/** Whether the rates of the first `step` steps would be those of the run if it had `steps` steps altogether. */
export function sameRates(saved: Parameters<typeof decayStart>[0], steps: number, step: number): boolean {
  return step <= Math.min(decayStart(saved), decayStart({ ...saved, steps }))
}

/** The same options for a class-conditional model, with what follows from the classes' names. */
export function withClasses(options: ResolvedTrainOptions, classNames: readonly string[]): ResolvedTrainOptions {
  const { unetConfig, ...diffusion } = options.model
  checkIsTold(unetConfig, 'classes')
  const own = unetConfig.numClasses !== undefined || diffusion.nullClass !== undefined
  const nullClass = own ? {} : { nullClass: classNames.length, classDropout: diffusion.classDropout || 0.1 }
  const numClasses = unetConfig.numClasses ?? classNames.length + 1
  return { ...options, model: { ...diffusion, ...nullClass, classNames, unetConfig: { ...unetConfig, numClasses } } }
}

export function definedOnly<T extends Record<string, unknown>>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as T
}
