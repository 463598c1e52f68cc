/** Class labels, context, vector and map, as a caller gives them, checked; and what of them is dropped in training. */
import { invalidArgument } from '../../errors'
import type { Network } from '../../nn/network'
import { Purpose, words } from '../../rng'
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { classLabel } from './class-names'
import type { ClassLabels, Condition, MadeCondition } from './condition'
import type { Core } from './core'
import type { Stream } from './process'
import { type Integers, parseIntegers } from './timesteps'

/** What a caller gives. `argument` is what it calls the labels. */
export interface GivenCondition {
  readonly labels?: ClassLabels
  readonly argument: string
  readonly context?: Tensor
  readonly vector?: Tensor
  readonly concat?: Tensor
  /** The labels are for others, too, so that a network without classes is given some. Default false. */
  readonly forOthers?: boolean
  readonly made?: MadeCondition
}

/** For samples of `shape`. Throws unless there are labels, context, vector and map exactly where the network takes them. */
export async function conditionOf(core: Core, shape: Shape, o: GivenCondition): Promise<Condition> {
  const [n] = shape
  const { made } = o
  const context = made?.as === 'context' ? undefined : contextOf(core, n, o.context)
  const vector = vectorOf(core, n, o.vector)
  const concat = made?.as === 'concat' ? undefined : concatOf(core, shape, o.concat)
  const labels = await labelsOf(core, n, o)
  return {
    ...labels,
    ...(context && { context }),
    ...(vector && { vector }),
    ...(concat && { concat }),
    ...(made && { made }),
  }
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

function vectorOf(core: Core, n: number, vector: Tensor | undefined): Tensor | undefined {
  const { vectorDim, vectorIsOptional } = core.denoiser.network?.module ?? {}
  if (vectorDim === undefined) {
    if (vector) throw invalidArgument('vector', 'nothing for a model that takes no vector', vector)
    return undefined
  }
  if (vector === undefined && vectorIsOptional) return undefined
  checkTensor(vector, 'vector', [n, vectorDim])
  return vector
}

function concatOf(core: Core, [n, , height, width]: Shape, concat: Tensor | undefined): Tensor | undefined {
  const { concatChannels = 0 } = core.denoiser.network?.module ?? {}
  if (concatChannels > 0) {
    checkTensor(concat, 'concat', [n, concatChannels, height, width])
    return concat
  }
  if (concat) throw invalidArgument('concat', 'nothing for a model without concatChannels', concat)
  return undefined
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
 * All conditions go by the same word, so that of equal probabilities all are dropped or none.
 */
function isDropped({ seed, step, sampleOffset }: Stream, i: number, probability: number): boolean {
  return words(seed, Purpose.timesteps, sampleOffset + i, step, 2)[1] < probability * 2 ** 32
}

/**
 * A condition for training: labels are replaced by the null class, contexts and vectors by zeros, with the probabilities of the model's
 * options, as the stream says. Maps stay.
 */
export async function withDropout(
  core: Core,
  { y, context, vector, concat, made }: Condition,
  stream: Stream,
): Promise<Condition> {
  const { contextDropout, vectorDropout } = core.settings
  return {
    ...(y && { y: dropLabels(core, y, stream) }),
    ...(context && { context: await dropRows(context, contextDropout, stream) }),
    ...(vector && { vector: await dropRows(vector, vectorDropout, stream) }),
    ...(concat && { concat }),
    ...(made && { made }),
  }
}

function dropLabels(core: Core, y: Int32Array, stream: Stream): Int32Array {
  const { nullClass, classDropout } = core.settings
  if (nullClass === undefined || classDropout === 0) return y
  return y.map((label, i) => (isDropped(stream, i, classDropout) ? nullClass : label))
}

async function dropRows(rows: Tensor, probability: number, stream: Stream): Promise<Tensor> {
  if (probability === 0) return rows
  const [n] = rows.shape
  const dropped = Array.from({ length: n }, (_, i) => isDropped(stream, i, probability))
  if (!dropped.includes(true)) return rows
  const values = await rows.data()
  const size = values.length / n
  for (const [i, drops] of dropped.entries()) if (drops) values.fill(0, i * size, (i + 1) * size)
  return Tensor.wrap(values, rows.shape)
}

/** The options that are about conditions must suit the network. */
export function checkConditions(
  o: { nullClass?: number; classDropout: number; contextDropout: number; vectorDropout: number },
  network: Network | undefined,
): void {
  const { nullClass, classDropout, contextDropout, vectorDropout } = o
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
  if (vectorDropout > 0 && (network?.vectorDim === undefined || network.vectorIsOptional)) {
    throw invalidArgument('vectorDropout', '0 for a model that needs no vector', vectorDropout)
  }
}
