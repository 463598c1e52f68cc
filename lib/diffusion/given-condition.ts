/** Class labels, classifier-free guidance by them (Ho & Salimans 2022), and context, as a caller gives them: checked. */
import { DiffusionError, invalidArgument } from '../errors'
import type { Network } from '../nn/network'
import { Purpose, words } from '../rng'
import { Tensor } from '../tensor'
import { classLabel } from './class-names'
import type { ClassLabels, Condition } from './condition'
import type { Core } from './core'
import type { Stream } from './process'
import { type Integers, parseIntegers } from './timesteps'

/** What a caller gives. `argument` is what it calls the labels. */
export interface GivenCondition {
  readonly labels?: ClassLabels
  readonly argument: string
  readonly guidanceScale?: number
  readonly context?: Tensor
}

/**
 * Throws unless there are labels and context exactly where the network takes them, and unless guidance has a null class. A
 * guidanceScale of 1 is the network's own prediction.
 */
export async function conditionOf(core: Core, n: number, o: GivenCondition): Promise<Condition> {
  const context = contextOf(core, n, o.context)
  return { ...(await labelsOf(core, n, o)), ...(context && { context }) }
}

function contextOf(core: Core, n: number, context: Tensor | undefined): Tensor | undefined {
  const contextDim = core.denoiser.network?.module.contextDim
  if (contextDim === undefined) {
    if (context) throw invalidArgument('context', 'nothing for a model without cross-attention', context)
    return undefined
  }
  const [samples, length, channels, ...more] = context?.shape ?? []
  const fits = samples === n && length > 0 && channels === contextDim && more.length === 0
  if (context instanceof Tensor && fits && context.dtype === 'float32') return context
  throw invalidArgument('context', `a float32 Tensor of shape [${n}, tokens, ${contextDim}]`, context)
}

async function labelsOf(core: Core, n: number, o: GivenCondition): Promise<Condition> {
  const numClasses = core.denoiser.network?.module.numClasses
  const { nullClass } = core.settings
  if (numClasses === undefined) {
    if (o.labels !== undefined) throw invalidArgument(o.argument, 'nothing for a model without classes', o.labels)
    if (o.guidanceScale !== undefined) {
      throw invalidArgument('guidanceScale', 'nothing for a model without classes', o.guidanceScale)
    }
    return {}
  }
  if (o.labels === undefined) {
    throw invalidArgument(o.argument, `class labels from 0 to ${numClasses - 1}`, o.labels)
  }
  const what = { argument: o.argument, noun: 'class labels', count: numClasses }
  const y = await parseIntegers(named(core, o.labels), n, what)
  if (o.guidanceScale === undefined || o.guidanceScale === 1) return { y }
  if (nullClass === undefined) {
    const message = 'guidanceScale: guidance needs a model with a null class (option nullClass)'
    throw new DiffusionError('not-configured', message, { argument: 'guidanceScale' })
  }
  return { y, guidance: { scale: o.guidanceScale, nullClass } }
}

/** Names as labels. Throws `invalid-argument`. */
function named(core: Core, labels: ClassLabels): Integers {
  const { classNames = [] } = core.settings
  const label = (given: string | number) => (typeof given === 'string' ? classLabel(classNames, given) : given)
  if (typeof labels === 'string') return label(labels)
  return Array.isArray(labels) ? labels.map(label) : (labels as Integers)
}

/** Labels for training: each is replaced by the null class with probability classDropout, as its stream says. */
export function dropLabels(core: Core, y: Int32Array, { seed, step, sampleOffset }: Stream): Int32Array {
  const { nullClass, classDropout } = core.settings
  if (nullClass === undefined || classDropout === 0) return y
  // The first word of this stream is the sample's timestep.
  return y.map((label, i) => {
    const word = words(seed, Purpose.timesteps, sampleOffset + i, step, 2)[1]
    return word < classDropout * 2 ** 32 ? nullClass : label
  })
}

/** The options that are about classes must suit the network. */
export function checkClasses(
  { nullClass, classDropout }: { nullClass?: number; classDropout: number },
  network: Network | undefined,
): void {
  const classes = network?.numClasses ?? 0
  if (nullClass !== undefined && nullClass >= classes) {
    const expected = classes === 0 ? 'nothing for a model without classes' : `a class from 0 to ${classes - 1}`
    throw invalidArgument('nullClass', expected, nullClass)
  }
  if (classDropout > 0 && nullClass === undefined) {
    throw invalidArgument('classDropout', '0 for a model without nullClass', classDropout)
  }
}
