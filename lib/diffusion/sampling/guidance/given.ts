/** Guidance as a caller asks for it: checked, and the parts that it is made of. */
import { DiffusionError, invalidArgument } from '../../../errors'
import { checkTensor, type Shape, sameShape, sizeOf, Tensor } from '../../../tensor'
import type { ClassLabels, Condition } from '../../process/condition'
import { type Core, coreOf } from '../../process/core'
import { conditionOf, namedLabels } from '../../process/given-condition'
import { sameSchedule } from '../../process/schedule'
import type { SamplingPlan } from '../plan'
import { ClassifierGuidance, FunctionGuidance } from './classifier-guidance'
import { AutoGuidance, ClassifierFree, type ContrastOptions } from './contrast'
import type { GuidanceOptions } from './options'
import type { GuidancePart } from './part'

/** The options, and what they are beside. */
export interface GivenGuidance extends GuidanceOptions {
  readonly classLabels?: ClassLabels
  readonly context?: Tensor
  readonly vector?: Tensor
  readonly concat?: Tensor
  readonly scheduler?: unknown
  /** Of the model itself. */
  readonly condition: Condition
}

export interface ParsedGuidance {
  parts(plan: SamplingPlan): Promise<readonly GuidancePart[]>
  /** Runs a sampling, during which the guiding model stays what it is. */
  during<T>(fn: () => Promise<T>): Promise<T>
}

/** Throws `invalid-argument`, and `not-configured` where there is nothing to go away from. */
export async function guidanceOf(core: Core, shape: Shape, o: GivenGuidance): Promise<ParsedGuidance> {
  checkAlone(o)
  const model = o.guidingModel?.[coreOf]
  const contrast = model ? await byModel(core, shape, model, o) : await byCondition(core, shape, o)
  const gradient = await byGradient(core, shape, o)
  return {
    async parts(plan) {
      const made: GuidancePart[] = []
      try {
        for (const make of [contrast, gradient]) if (make) made.push(await make(plan))
        return made
      } catch (error) {
        for (const part of made) part.release()
        throw error
      }
    },
    during: (fn) => (model ? model.call(fn) : fn()),
  }
}

/** What means nothing without another option. */
function checkAlone(o: GivenGuidance): void {
  const needs = (name: keyof GuidanceOptions, other: keyof GuidanceOptions) => {
    if (o[name] === undefined || o[other] !== undefined) return
    throw invalidArgument(other, `something, to go with ${name}`, undefined)
  }
  for (const name of [
    'guidingModel',
    'negativeContext',
    'negativeVector',
    'guidanceInterval',
    'guidanceRescale',
  ] as const) {
    needs(name, 'guidanceScale')
  }
  needs('classifierScale', 'classifier')
  for (const name of ['negativeContext', 'negativeVector'] as const) {
    if (o.guidingModel && o[name]) throw invalidArgument(name, 'nothing with guidingModel', o[name])
  }
  if (o.classifier && o.condFn) throw invalidArgument('condFn', 'nothing with classifier', o.condFn)
}

function contrastOf(scale: number, o: GivenGuidance): ContrastOptions {
  return { scale, rescale: o.guidanceRescale ?? 0, interval: o.guidanceInterval }
}

async function byModel(core: Core, shape: Shape, model: Core, o: GivenGuidance) {
  const { guidanceScale: scale = 1 } = o
  const wrong = (expected: string, received: unknown) => invalidArgument('guidingModel', expected, received)
  if (model.device !== core.device) throw wrong(`a model on the device ${core.device.name}`, model.device.name)
  const [own, other] = [core, model].map(({ settings }) => JSON.stringify(settings.parameterization))
  if (own !== other) throw wrong(`a model of parameterization ${own}`, other)
  if (!sameSchedule(model.schedule, core.schedule)) throw wrong("a model with this one's schedule", 'another schedule')
  model.denoiser.check(shape, 'guidingModel')
  const { contextDim, vectorDim, concatChannels } = model.denoiser.network?.module ?? {}
  const condition = await conditionOf(model, shape, {
    ...{ labels: o.classLabels, argument: 'classLabels', forOthers: true },
    context: contextDim ? o.context : undefined,
    vector: vectorDim ? o.vector : undefined,
    concat: concatChannels ? o.concat : undefined,
  })
  if (scale === 1) return undefined
  return async (plan: SamplingPlan) =>
    new AutoGuidance(core, shape, { ...contrastOf(scale, o), model, condition }, plan)
}

async function byCondition(core: Core, shape: Shape, o: GivenGuidance) {
  const { guidanceScale: scale } = o
  const { numClasses, contextDim, vectorDim, vectorIsOptional } = core.denoiser.network?.module ?? {}
  const needsVector = vectorDim !== undefined && !vectorIsOptional
  if (scale === undefined) return undefined
  if (numClasses === undefined && contextDim === undefined && !needsVector) {
    throw invalidArgument('guidanceScale', 'nothing for a model without classes, context and vector', scale)
  }
  if (o.negativeContext && contextDim === undefined) {
    throw invalidArgument('negativeContext', 'nothing for a model without cross-attention', o.negativeContext)
  }
  if (o.negativeVector && !needsVector) {
    throw invalidArgument('negativeVector', 'nothing for a model that needs no vector', o.negativeVector)
  }
  const [n] = shape
  const context = contextDim === undefined ? undefined : await negativeContext(core, n, o)
  const vector = needsVector ? await negativeVector(n, vectorDim, o.negativeVector) : o.condition.vector
  if (scale === 1) return undefined
  const { nullClass } = core.settings
  const { y, concat } = o.condition
  if (o.negativeConcat) checkTensor(o.negativeConcat, 'negativeConcat', concat?.shape ?? [])
  const other = o.negativeConcat !== undefined || context !== o.condition.context || vector !== o.condition.vector
  if (nullClass === undefined && !other) {
    const way =
      numClasses === undefined ? 'negativeContext, or a model with contextDropout' : 'a model with a null class'
    const message = `guidanceScale: guidance needs ${way}${numClasses === undefined ? '' : ' (option nullClass)'}`
    throw new DiffusionError('not-configured', message, { argument: 'guidanceScale' })
  }
  const negative = {
    y: y && nullClass !== undefined ? y.map(() => nullClass) : y,
    context,
    vector,
    concat: o.negativeConcat ?? concat,
  }
  return () => ClassifierFree.create(core, shape, { ...contrastOf(scale, o), negative })
}

async function negativeContext(core: Core, n: number, o: GivenGuidance): Promise<Tensor | undefined> {
  const { context } = o.condition
  const { negativeContext: given } = o
  if (!given) {
    if (!context || core.settings.contextDropout === 0) return context
    return Tensor.wrap(new Float32Array(sizeOf(context.shape)), context.shape)
  }
  const [samples, length, channels] = given.shape
  const contextDim = core.denoiser.network?.module.contextDim
  const fits = given.shape.length === 3 && (samples === n || samples === 1) && length > 0 && channels === contextDim
  if (!fits || given.dtype !== 'float32') {
    throw invalidArgument('negativeContext', `a float32 Tensor of shape [${n} or 1, tokens, ${contextDim}]`, given)
  }
  return forEach(n, given)
}

async function negativeVector(n: number, vectorDim: number, given: Tensor | undefined): Promise<Tensor> {
  if (!given) return Tensor.wrap(new Float32Array(n * vectorDim), [n, vectorDim])
  const fits = sameShape(given.shape, [n, vectorDim]) || sameShape(given.shape, [1, vectorDim])
  if (!fits || given.dtype !== 'float32') {
    throw invalidArgument('negativeVector', `a float32 Tensor of shape [${n} or 1, ${vectorDim}]`, given)
  }
  return forEach(n, given)
}

/** That of one sample is for all. */
async function forEach(n: number, given: Tensor): Promise<Tensor> {
  const [samples, ...rest] = given.shape
  if (samples === n) return given
  const values = await given.data()
  const all = new Float32Array(n * values.length)
  for (let i = 0; i < n; i++) all.set(values, i * values.length)
  return Tensor.wrap(all, [n, ...rest])
}

async function byGradient(core: Core, shape: Shape, o: GivenGuidance) {
  const { classifier, condFn, classifierScale: scale = 1 } = o
  if (!classifier && !condFn) return undefined
  const argument = classifier ? 'classifier' : 'condFn'
  const meanShiftOf = (plan: SamplingPlan) => {
    // Another process than the model's own has another noise level at a timestep.
    if (!o.scheduler || plan.meanShift) return plan.meanShift
    throw invalidArgument(argument, 'no scheduler but a DDPMScheduler', 'another one')
  }
  if (condFn) {
    return async (plan: SamplingPlan) => new FunctionGuidance(core, shape, { condFn, meanShift: meanShiftOf(plan) })
  }
  if (o.classLabels === undefined)
    throw invalidArgument('classLabels', 'class labels, to go with classifier', undefined)
  const labels = await classifier!.labels(namedLabels(core, o.classLabels), shape[0], 'classLabels')
  const { device, schedule } = core
  return async (plan: SamplingPlan) => {
    const meanShift = meanShiftOf(plan)
    const scaled = classifier!.guide({ device, schedule, shape })
    return new ClassifierGuidance(core, shape, { classifier: scaled, labels, scale, meanShift, plan })
  }
}
