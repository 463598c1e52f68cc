/** Class labels and context, as a caller gives them, checked; and what of them is dropped in training. */
import { invalidArgument } from '../../errors'
import type { Network } from '../../nn/network'
import { Purpose, words } from '../../rng'
import { Tensor } from '../../tensor'
import { classLabel } from './class-names'
import type { ClassLabels, Condition } from './condition'
import type { Core } from './core'
import type { Stream } from './process'
import { type Integers, parseIntegers } from './timesteps'

/** What a caller gives. `argument` is what it calls the labels. */
export interface GivenCondition {
  readonly labels?: ClassLabels
  readonly argument: string
  readonly context?: Tensor
  /** The labels are for others, too, so that a network without classes is given some. Default false. */
  readonly forOthers?: boolean
}

/** Throws unless there are labels and context exactly where the network takes them. */
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
  if (numClasses === undefined) {
    if (o.labels !== undefined && !o.forOthers) {
      throw invalidArgument(o.argument, 'nothing for a model without classes', o.labels)
    }
    return {}
  }
  if (o.labels === undefined) {
    throw invalidArgument(o.argument, `class labels from 0 to ${numClasses - 1}`, o.labels)
  }
  const what = { argument: o.argument, noun: 'class labels', count: numClasses }
  return { y: await parseIntegers(namedLabels(core, o.labels), n, what) }
}

/** Names as labels. Throws `invalid-argument`. */
export function namedLabels(core: Core, labels: ClassLabels): Integers {
  const { classNames = [] } = core.settings
  const label = (given: string | number) => (typeof given === 'string' ? classLabel(classNames, given) : given)
  if (typeof labels === 'string') return label(labels)
  return Array.isArray(labels) ? labels.map(label) : (labels as Integers)
}

/**
 * What is dropped of sample i of a training batch: the second word of its stream is below the probability. The first is its timestep.
 * Label and context go by the same word, so that of equal probabilities both are dropped or none.
 */
function isDropped({ seed, step, sampleOffset }: Stream, i: number, probability: number): boolean {
  return words(seed, Purpose.timesteps, sampleOffset + i, step, 2)[1] < probability * 2 ** 32
}

/** Labels for training: each is replaced by the null class with probability classDropout, as its stream says. */
export function dropLabels(core: Core, y: Int32Array, stream: Stream): Int32Array {
  const { nullClass, classDropout } = core.settings
  if (nullClass === undefined || classDropout === 0) return y
  return y.map((label, i) => (isDropped(stream, i, classDropout) ? nullClass : label))
}

/** Context for training: that of a sample is replaced by zeros with probability contextDropout. */
export async function dropContext(core: Core, context: Tensor, stream: Stream): Promise<Tensor> {
  const { contextDropout } = core.settings
  if (contextDropout === 0) return context
  const [n] = context.shape
  const dropped = Array.from({ length: n }, (_, i) => isDropped(stream, i, contextDropout))
  if (!dropped.includes(true)) return context
  const values = await context.data()
  const size = values.length / n
  for (const [i, drops] of dropped.entries()) if (drops) values.fill(0, i * size, (i + 1) * size)
  return Tensor.wrap(values, context.shape)
}

/** The options that are about conditions must suit the network. */
export function checkConditions(
  o: { nullClass?: number; classDropout: number; contextDropout: number },
  network: Network | undefined,
): void {
  const { nullClass, classDropout, contextDropout } = o
  const classes = network?.numClasses ?? 0
  if (nullClass !== undefined && nullClass >= classes) {
    const expected = classes === 0 ? 'nothing for a model without classes' : `a class from 0 to ${classes - 1}`
    throw invalidArgument('nullClass', expected, nullClass)
  }
  if (classDropout > 0 && nullClass === undefined) {
    throw invalidArgument('classDropout', '0 for a model without nullClass', classDropout)
  }
  if (contextDropout > 0 && network?.contextDim === undefined) {
    throw invalidArgument('contextDropout', '0 for a model without cross-attention', contextDropout)
  }
}
