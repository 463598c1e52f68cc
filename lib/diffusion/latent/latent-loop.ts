/** What LatentDiffusion's samplings have beside DDPM's, in terms of DDPM's loop. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { Seed } from '../../options'
import { checkTensor, type Shape, type Tensor } from '../../tensor'
import type { ClassLabels, Condition } from '../process/condition'
import type { Core } from '../process/core'
import { conditionOf } from '../process/given-condition'
import type { LoopOptions } from '../sampling/loop'
import { droppedNoise } from '../sampling/noise-dropout'
import { samplerNamed } from '../sampling/sampler-names'
import { pilingNoise } from './cond-schedule'
import { type Cond, type ConditioningKey, forBatch, given } from './conditioning'
import { quantizing } from './first-stage'
import { corrected, type ScoreCorrector } from './score-corrector'
import type { FirstStage } from './stages'

/** What it is a sampling of. */
export interface LoopModel {
  readonly firstStageModel: FirstStage
  readonly conditioningKey?: ConditioningKey
  /** Undefined where conditions get no noise. */
  readonly condIds?: Int32Array
}

/** The options that it is about. */
export interface LatentLoop {
  readonly cond?: Cond
  readonly uncond?: Cond
  readonly quantizeDenoised: boolean
  readonly scoreCorrector?: ScoreCorrector
  readonly correctorKwargs?: Readonly<Record<string, unknown>>
  readonly noiseDropout: number
  readonly condNoise?: (i: number) => Tensor | Promise<Tensor>
  readonly noise?: (i: number) => Tensor | Promise<Tensor>
  readonly seed: Seed
  readonly sampleOffset: number
  readonly sampler?: string
  readonly scheduler?: unknown
  readonly jumpNSample?: number
  readonly guidanceScale?: number
  readonly classLabels?: ClassLabels
  readonly context?: Tensor
  readonly vector?: Tensor
  readonly concat?: Tensor
}

/** The core, the options of DDPM's loop that are others than those given, and what they have not. */
export interface PreparedLoop {
  readonly core: Core
  readonly options: Readonly<Record<string, unknown>>
  readonly extras: Pick<LoopOptions, 'conditionAt' | 'mixAfter' | 'codebook'>
}

/** Throws `invalid-argument` and `unsupported`. */
export async function latentLoop(core: Core, model: LoopModel, shape: Shape, o: LatentLoop): Promise<PreparedLoop> {
  const { noiseDropout: p, seed, sampleOffset } = o
  const own = o.scheduler === undefined && samplerNamed(o.sampler ?? 'ddpm').sampler === 'ddpm'
  const told = await toldOf(model, shape, o)
  const conditionAt = await noisyConditions(core, model, shape, { ...o, ...told, own })
  const dropped = async (i: number) => {
    const noise = await o.noise?.(i)
    if (noise) checkTensor(noise, 'noise', shape)
    return droppedNoise(shape, { seed, sampleOffset, step: i, p }, noise)
  }
  const codebook = await quantizing(model.firstStageModel, o.quantizeDenoised)
  const extras = { codebook, mixAfter: own && o.jumpNSample === undefined }
  const noise = p > 0 ? { noise: dropped } : {}
  if (!o.scoreCorrector) return { core, options: { ...told, ...noise }, extras: { ...extras, conditionAt } }
  return {
    core: await correctedCore(core, model, shape, { ...o, ...told, conditionAt }),
    options: { ...nothing, ...noise },
    extras,
  }
}

/** In DDPM's terms, what samples are told and what they go away from. */
async function toldOf(model: LoopModel, shape: Shape, { cond, uncond }: LatentLoop) {
  const of = async (condition: Cond) => given(await forBatch(condition, shape[0]), model.conditioningKey)
  const { y, ...told } = cond ? await of(cond) : {}
  const { y: others, context, concat, vector } = uncond ? await of(uncond) : {}
  if (others)
    throw invalidArgument(
      'uncond',
      "nothing with labels and conditioningKey 'adm': nullClass is gone away from",
      uncond,
    )
  return {
    ...told,
    ...(y && { classLabels: y }),
    ...(context && { negativeContext: context }),
    ...(concat && { negativeConcat: concat }),
    ...(vector && { negativeVector: vector }),
  }
}

type Negative = Pick<Awaited<ReturnType<typeof toldOf>>, 'negativeContext' | 'negativeConcat' | 'negativeVector'>

function conditionFor(core: Core, shape: Shape, { classLabels: labels, context, vector, concat }: LatentLoop) {
  return conditionOf(core, shape, { labels, argument: 'classLabels', context, vector, concat })
}

async function noisyConditions(core: Core, model: LoopModel, shape: Shape, o: LatentLoop & { own: boolean }) {
  if (model.condIds && o.own) {
    const { seed, sampleOffset, condNoise: noise } = o
    return pilingNoise(core, model.condIds, await conditionFor(core, shape, o), { seed, sampleOffset, noise })
  }
  if (o.condNoise)
    throw invalidArgument('condNoise', "nothing without numTimestepsCond and sampler 'ddpm'", o.condNoise)
  return undefined
}

/** What the network's stand-in is not told, as it is told already. */
const nothing = {
  classLabels: undefined,
  context: undefined,
  vector: undefined,
  concat: undefined,
  guidanceScale: undefined,
}

async function correctedCore(
  core: Core,
  model: LoopModel,
  shape: Shape,
  o: LatentLoop & Negative & { conditionAt?: (i: number, t: number) => Promise<Condition> },
): Promise<Core> {
  for (const name of ['guidanceRescale', 'guidanceInterval', 'guidingModel', 'classifier'] as const) {
    if ((o as Partial<Record<typeof name, unknown>>)[name] === undefined) continue
    throw new DiffusionError('unsupported', `${name} is not there with scoreCorrector`, { argument: name })
  }
  const { cond, guidanceScale: scale = 1, negativeContext, negativeConcat, negativeVector, conditionAt } = o
  const condition = await conditionFor(core, shape, o)
  const negative = { context: negativeContext, concat: negativeConcat, vector: negativeVector }
  const other = Object.fromEntries(Object.entries(negative).filter(([, tensor]) => tensor))
  if (scale !== 1 && Object.keys(other).length === 0)
    throw invalidArgument('uncond', 'a condition, to go with guidanceScale', undefined)
  const away = scale === 1 ? undefined : { condition: await conditionFor(core, shape, { ...o, ...other }), scale }
  return corrected(core, {
    ...{ corrector: o.scoreCorrector!, kwargs: o.correctorKwargs ?? {}, model, cond },
    ...{ condition, conditionAt, negative: away },
  })
}
