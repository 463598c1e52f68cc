/** The training loss (Ho et al. 2020, eq. 14; ddpm.py's get_loss and p_losses), its value and its gradients. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { Graph, LossType, Value } from '../../graph'
import type { StateDict } from '../../nn/weights'
import type { Binding, Bindings } from '../../program'
import { Purpose, words } from '../../rng'
import { checkTensor, type Shape, sizeOf, Tensor } from '../../tensor'
import { type Condition, conditionBindings, kindOf, type MadeCondition } from './condition'
import { type Core, extentOf } from './core'
import { dropoutInput, type NetworkDenoiser } from './denoiser'
import { conditionOf, type GivenCondition, withDropout } from './given-condition'
import { type LearnedLogvar, logvarAt, overVariance } from './learned-logvar'
import { boundBindings, boundTerm, defaultVlbWeight } from './learned-variance'
import { conditionNoise, noisyCondition } from './noisy-condition'
import { denoise, denoiserBindings, preconditioningBindings } from './preconditioning'
import { startRow, targetRow } from './prediction'
import { drawNoise, nextStream, noiseBindings, noiseInputs, qSample, type Stream } from './process'
import type { Settings } from './settings'
import { parseTimesteps, type Timesteps } from './timesteps'

/** ddpm.py's keys: 'train/loss_simple', 'train/loss_vlb', 'train/loss', or 'val/...'. */
export type LossDict = Record<string, number>

export interface LossResult {
  loss: number
  lossDict: LossDict
}

export interface LossInput {
  readonly x: Tensor
  readonly t: Int32Array
  readonly condition: Condition
  /** In place of drawn noise. */
  readonly noise?: Tensor
  /** Of drawn noise, and of dropout. */
  readonly stream: Stream
  /** What each sample's loss counts for, where its timestep was not drawn evenly. */
  readonly importance?: Float32Array
  /** [T], where it is a part of the loss: LatentDiffusion's loss / exp(logvar[t]) + logvar[t]. */
  readonly logvar?: Float32Array
  /** `logvar` is trained: the graph has the numbers, which `logvar` is a copy of. */
  readonly learned?: LearnedLogvar
  /** With dropout, and 'train/' in the keys. */
  readonly train: boolean
  /** Of x_0, for a network with selfCondition: see `withOwnEstimate`. */
  readonly estimate?: Float32Array
}

/** ddpm.py's get_loss: the mean over everything, or each element's loss. */
export async function getLoss(core: Core, pred: Tensor, target: Tensor, mean: boolean): Promise<Tensor> {
  checkTensor(pred, 'pred')
  checkTensor(target, 'target', pred.shape)
  const { n, d } = extentOf(pred.shape, 'pred')
  const measure = elementLoss(core)
  const program = core.program('getLoss', { n, d, mean, ...measure }, (g) => {
    const values = [g.input('pred', [n, 1, 1, d]), g.input('target', [n, 1, 1, d])] as const
    return { loss: mean ? g.loss(...values, measure) : g.elementLoss(...values, measure) }
  })
  const [p, q] = await Promise.all([pred.binding(core.device), target.binding(core.device)])
  const { loss } = await program.run({ pred: p, target: q })
  return mean ? Tensor.wrap(Float32Array.of(average(loss)), []) : Tensor.wrap(loss, pred.shape)
}

/** The distance of prediction and target. */
function elementLoss({ settings }: Core): { type: LossType; delta: number } {
  return { type: settings.lossType, delta: settings.lossDelta ?? 1 }
}

/** Throws `invalid-argument` for a delta of a loss that has none. */
export function checkLoss({ lossType, lossDelta }: Pick<Settings, 'lossType' | 'lossDelta'>): void {
  if (lossDelta === undefined || (lossType !== 'l1' && lossType !== 'l2')) return
  throw invalidArgument('lossDelta', `nothing with lossType '${lossType}'`, lossDelta)
}

function average(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum / values.length
}

/** What a program computes of each sample, [n]. */
export interface SampleLosses {
  readonly loss: Float32Array
  /** The bound's term in bits per dimension, where the variance is learned. */
  readonly bound?: Float32Array
  /** logvar[t], where it is learned. */
  readonly logvar?: Float32Array
}

/**
 * The dictionary from the losses of the samples. loss_simple has no weights but those of importance sampling. loss_vlb is
 * ddpm.py's, or with a learned variance the estimate of the whole bound in bits per dimension.
 */
export function lossDictOf(core: Core, samples: SampleLosses, input: LossInput): LossResult {
  const { t, train, importance, logvar, learned } = input
  const { lSimpleWeight, originalElboWeight, minSnrGamma, vlbWeight = defaultVlbWeight } = core.settings
  const { lvlbWeights } = core.schedule
  const weigh = (values: Float32Array) => Float64Array.from(values, (value, i) => value * (importance?.[i] ?? 1))
  const losses = weigh(samples.loss)
  const simple = average(losses)
  const vlb = samples.bound
    ? core.numTimesteps * average(weigh(samples.bound))
    : average(losses.map((loss, i) => lvlbWeights[t[i]] * loss))
  const whole = (loss: number, i: number) => {
    const own = minSnrGamma === undefined ? loss : snrWeight(core, t[i]) * loss
    if (!logvar) return own
    const at = samples.logvar?.[i] ?? logvar[t[i]]
    return own / Math.exp(at) + at * (importance?.[i] ?? 1)
  }
  const weighted = average(losses.map(whole))
  const loss = weighted * lSimpleWeight + (samples.bound ? vlbWeight : originalElboWeight) * vlb
  const prefix = train ? 'train' : 'val'
  return {
    loss,
    lossDict: {
      [`${prefix}/loss_simple`]: simple,
      ...(learned && logvar && { [`${prefix}/loss_gamma`]: weighted, logvar: average(logvar) }),
      [`${prefix}/loss_vlb`]: vlb,
      [`${prefix}/loss`]: loss,
    },
  }
}

/**
 * What the losses of sample i count for in the total, times `scale`, so that its gradient needs weighted sums: inputs of `backward`.
 */
export function lossWeights(core: Core, o: LossInput, scale = 1): Record<string, Float32Array> {
  const { t, importance, logvar, learned } = o
  const { lSimpleWeight, originalElboWeight, varianceType, vlbWeight = defaultVlbWeight } = core.settings
  const each = (weightAt: (k: number) => number) =>
    Float32Array.from(t, (k, i) => (scale * weightAt(k) * (importance?.[i] ?? 1)) / t.length)
  const simple = (k: number) => snrWeight(core, k) * lSimpleWeight
  const elbo = (k: number) => originalElboWeight * core.schedule.lvlbWeights[k]
  const bound = varianceType !== 'fixed' && { boundWeights: each(() => vlbWeight * core.numTimesteps) }
  if (learned) {
    return {
      overVarianceWeights: each(simple),
      logvarWeights: each(() => lSimpleWeight),
      lossWeights: each(elbo),
      ...bound,
    }
  }
  return { lossWeights: each((k) => simple(k) * (logvar ? Math.exp(-logvar[k]) : 1) + elbo(k)), ...bound }
}

/** The total of one sample, without what importance sampling makes of it. */
export function totalLosses(core: Core, { loss, bound }: SampleLosses): Float32Array {
  const { lSimpleWeight, vlbWeight = defaultVlbWeight } = core.settings
  if (!bound) return loss
  return loss.map((simple, i) => simple * lSimpleWeight + vlbWeight * core.numTimesteps * bound[i])
}

/** min(SNR, gamma) as the weight of the loss of x_0, in terms of what is predicted: Hang et al. 2023, section 3.4. */
function snrWeight({ settings, schedule }: Core, t: number): number {
  const { minSnrGamma, parameterization } = settings
  if (minSnrGamma === undefined) return 1
  const bar = schedule.alphasCumprod[t]
  const ofOutput = startRow(parameterization, bar)[1]
  return Math.min(bar / (1 - bar), minSnrGamma) * ofOutput ** 2
}

/** q_sample, network and losses: values [n, 1, 1, 1] by SampleLosses' names. */
export function buildLoss(core: Core, g: Graph, o: LossInput): Record<string, Value> {
  const { x, t, noise, a, noisy, prediction, variance } = noisyNodes(core, g, o)
  const loss = g.loss(prediction, target(core, g, { x, noise, t, a }), elementLoss(core))
  return {
    loss,
    ...(variance && { bound: boundTerm(core, g, { x, noisy, prediction, variance, t }) }),
    ...(o.learned && { logvar: logvarAt(g, o.learned, t) }),
  }
}

/** q_sample and the network. */
function noisyNodes(core: Core, g: Graph, o: LossInput) {
  const { shape } = o.x
  const { n, d } = extentOf(shape, 'xStart')
  const T = core.numTimesteps
  const x = g.input('x', [n, 1, 1, d])
  const t = g.input('t', [n, 1, 1, 1], 'i32')
  const noise = o.noise ? g.input('noise', [n, 1, 1, d]) : drawnNoise(g, shape, offsetOf(core, o.train))
  const a = g.input('sqrtAlphasCumprod', [T, 1, 1, 1])
  const b = g.input('sqrtOneMinusAlphasCumprod', [T, 1, 1, 1])
  const noisy = g.timestepAffine(x, a, t, noise, b)
  const mode = { train: o.train, condition: kindOf(o.condition), made: o.condition.made }
  const { prediction, variance } = denoise(core, g, { x: noisy, t, shape, mode })
  return { x, t, noise, a, noisy, prediction, variance }
}

/** What the network should predict. */
function target(core: Core, g: Graph, o: { x: Value; noise: Value; t: Value; a: Value }): Value {
  const { parameterization } = core.settings
  if (parameterization === 'eps') return o.noise
  if (parameterization === 'x0') return o.x
  const row = (name: string) => g.input(name, o.a.dims)
  return g.timestepAffine(o.noise, row('targetNoise'), o.t, o.x, row('targetStart'))
}

/** Rows of `target`'s inputs. */
function targetBindings(core: Core): Bindings {
  const { settings, schedule } = core
  const { parameterization } = settings
  if (parameterization === 'eps' || parameterization === 'x0') return {}
  const { sqrtAlphasCumprod: a, sqrtOneMinusAlphasCumprod: b } = schedule
  const column = (i: 0 | 1) => a.map((signal, t) => targetRow(parameterization, signal, b[t])[i])
  return {
    targetStart: core.table('targetStart', () => column(0)),
    targetNoise: core.table('targetNoise', () => column(1)),
  }
}

/** 0 where the noise has no offset: outside of training. */
function offsetOf(core: Core, train: boolean): number {
  return train ? core.settings.offsetNoise : 0
}

/** With an offset, the stream has a number for each channel after those for the elements. Inputs offset and first. */
function drawnNoise(g: Graph, shape: Shape, offset: number): Value {
  const { n, d } = extentOf(shape, 'xStart')
  const { rng, sample, step } = noiseInputs(g, n)
  if (offset === 0) return g.gaussianNoise(rng, sample, step, { d, purpose: Purpose.training })
  const [, channels, height, width] = shape
  const drawn = g.gaussianNoise(rng, sample, step, { d: d + channels, purpose: Purpose.training })
  const own = g.toNhwc(g.slice(drawn, { start: 0, count: d }), { channels, height, width })
  const common = g.slice(drawn, { start: d, count: channels })
  const scaled = g.timestepAffine(common, g.input('offset', [1, 1, 1, 1]), g.input('first', [n, 1, 1, 1], 'i32'))
  return g.toNchw(g.addSample(own, scaled))
}

function offsetBindings(n: number, offset: number): Record<string, Binding> {
  return offset === 0 ? {} : { offset: Float32Array.of(offset), first: new Int32Array(n) }
}

/** Gradients of the total loss; the samples' weights are inputs, see lossWeights. */
export function backward(g: Graph, { loss, bound, logvar }: Record<string, Value>): void {
  const weighted = (value: Value, weights: string) => g.weightedSum(value, g.input(weights, value.dims))
  let total = weighted(loss, 'lossWeights')
  if (bound) total = g.add(total, weighted(bound, 'boundWeights'))
  if (logvar) {
    const divided = weighted(overVariance(g, loss, logvar), 'overVarianceWeights')
    total = g.add(total, g.add(divided, weighted(logvar, 'logvarWeights')))
  }
  g.backward(total)
}

/** The inputs of buildLoss, but for a function's output. */
export async function lossBindings(core: Core, o: LossInput): Promise<Bindings> {
  const { network } = core.denoiser
  const bindings: Record<string, Binding> = {
    x: await o.x.binding(core.device),
    t: o.t,
    sqrtAlphasCumprod: core.buffer('sqrtAlphasCumprod'),
    sqrtOneMinusAlphasCumprod: core.buffer('sqrtOneMinusAlphasCumprod'),
    ...network?.active,
    ...preconditioningBindings(core),
    ...targetBindings(core),
  }
  if (core.settings.varianceType !== 'fixed') Object.assign(bindings, boundBindings(core))
  Object.assign(bindings, await conditionBindings(core.device, o.condition))
  if (o.noise) bindings.noise = await o.noise.binding(core.device)
  else {
    const offset = offsetBindings(o.t.length, offsetOf(core, o.train))
    Object.assign(bindings, noiseBindings(o.t.length, o.stream), offset)
  }
  if (network?.module.selfCondition) bindings.estimate = o.estimate ?? new Float32Array(sizeOf(o.x.shape))
  if (o.train && network) {
    const { count } = network.split?.pieces(o.x.shape) ?? { count: 1 }
    // The second pair of words is the stage's.
    const first = (piece: number) => (piece === 0 ? 0 : 2 * (piece + 1))
    for (let piece = 0; piece < count; piece++) bindings[dropoutInput(piece)] = dropoutRng(o.stream, first(piece))
  }
  if (o.train && o.condition.made) bindings.stageDropoutRng = dropoutRng(o.stream, 2)
  return bindings
}

/**
 * A key of its own for the dropout of each step, each part of a batch and each piece of its maps, by two words of its stream from `first` on.
 */
function dropoutRng({ seed, step, sampleOffset }: Stream, first = 0): Int32Array {
  const [low, high] = words(seed, Purpose.dropout, sampleOffset, step, first + 2).subarray(first)
  return Int32Array.of(low, high, step, 0)
}

/** Names everything that the graph of a loss depends on. */
export function lossKey(core: Core, o: LossInput) {
  const offset = !o.noise && offsetOf(core, o.train) > 0
  const { made } = o.condition
  const kind = { ...elementLoss(core), ...kindOf(o.condition), ...(made && { made: made.key }) }
  const learned = o.learned && { learned: true }
  return { shape: o.x.shape.join('x'), drawn: !o.noise, offset, train: o.train, ...kind, ...learned }
}

/**
 * Checks the arguments of a loss. Without a stream, what is drawn comes from the next of the model's own seeds. In training some
 * conditions are dropped.
 */
export async function lossInput(
  core: Core,
  o: {
    xStart: Tensor
    t: Timesteps
    y?: GivenCondition['labels']
    context?: Tensor
    vector?: Tensor
    concat?: Tensor
    made?: MadeCondition
    noise?: Tensor
    stream?: Stream
    importance?: Float32Array
    logvar?: Float32Array
    /** [T]: conditions get noise of these timesteps, by those of the samples. */
    condIds?: Int32Array
    learned?: LearnedLogvar
    train: boolean
  },
): Promise<LossInput> {
  checkTensor(o.xStart, 'xStart')
  core.denoiser.check(o.xStart.shape, 'xStart')
  if (o.noise) checkTensor(o.noise, 'noise', o.xStart.shape)
  const t = await parseTimesteps(o.t, o.xStart.shape[0], core.numTimesteps)
  const { y: labels, context, vector, concat, made } = o
  const given = await conditionOf(core, o.xStart.shape, { labels, argument: 'y', context, vector, concat, made })
  const stream = o.stream ?? nextStream(core)
  const kept = o.train ? await withDropout(core, given, stream) : given
  const { condIds } = o
  const noise = (shape: Shape) => conditionNoise(shape, stream)
  const tc = condIds && t.map((own) => condIds[own])
  const condition = tc ? await noisyCondition(core, kept, tc, noise) : kept
  return withOwnEstimate(core, {
    x: o.xStart,
    t,
    condition,
    noise: o.noise,
    stream,
    importance: o.importance,
    logvar: o.logvar,
    learned: o.learned,
    train: o.train,
  })
}

/**
 * With the estimate that a network with selfCondition makes of this batch, without any gradient: in half of the steps of a training, as the
 * stream says, and always outside of training. Chen et al. 2023, algorithm 1.
 */
async function withOwnEstimate(core: Core, input: LossInput): Promise<LossInput> {
  if (!core.denoiser.network?.module.selfCondition) return input
  const { seed, sampleOffset, step } = input.stream
  // The words before are those that timesteps are drawn by.
  if (input.train && words(seed, Purpose.timesteps, sampleOffset, step, 5)[4] % 2 === 0) return input
  const program = await core.networkProgram('estimate', lossKey(core, input), (g) => {
    const { noisy, prediction, t } = noisyNodes(core, g, input)
    const row = (name: string) => g.input(name, [core.numTimesteps, 1, 1, 1])
    return { x0: g.timestepAffine(noisy, row('startOfState'), t, prediction, row('startOfOutput')) }
  })
  const { schedule, settings } = core
  const column = (i: 0 | 1) => () => schedule.alphasCumprod.map((bar) => startRow(settings.parameterization, bar)[i])
  const { x0 } = await program.run({
    ...(await lossBindings(core, input)),
    startOfState: core.table('startOfState', column(0)),
    startOfOutput: core.table('startOfOutput', column(1)),
  })
  return { ...input, estimate: x0 }
}

/** ddpm.py's p_losses, the value alone. */
export async function pLosses(core: Core, input: LossInput): Promise<LossResult> {
  const { network } = core.denoiser
  if (!network) return lossDictOf(core, await functionLoss(core, input), input)
  const program = await core.networkProgram('loss', lossKey(core, input), (g) => buildLoss(core, g, input))
  return lossDictOf(core, samplesOf(await program.run(await lossBindings(core, input))), input)
}

/** From a program's outputs. */
export function samplesOf({ loss, bound, logvar }: Record<string, Float32Array>): SampleLosses {
  return { loss, bound, logvar }
}

async function trainingNoise(core: Core, shape: Shape, stream: Stream, offset: number): Promise<Tensor> {
  if (offset === 0) return drawNoise(core, shape, stream)
  const program = core.program('offsetNoise', { shape: shape.join('x') }, (g) => ({ y: drawnNoise(g, shape, offset) }))
  const { y } = await program.run({ ...noiseBindings(shape[0], stream), ...offsetBindings(shape[0], offset) })
  return Tensor.wrap(y, shape)
}

/** The same with a function as denoiser, which is given x_t first. */
async function functionLoss(core: Core, input: LossInput): Promise<SampleLosses> {
  const { x, t, stream, train } = input
  const noise = input.noise ?? (await trainingNoise(core, x.shape, stream, offsetOf(core, train)))
  const state = core.device.upload(await (await qSample(core, x, t, noise)).data())
  try {
    const given = { ...input, noise }
    const out = await denoiserBindings(core, { x: state, t, shape: x.shape, condition: {} })
    const program = await core.networkProgram('loss', lossKey(core, given), (g) => buildLoss(core, g, given))
    return samplesOf(await program.run({ ...(await lossBindings(core, given)), ...out }))
  } finally {
    state.release()
  }
}

/** Loss and the gradients of all parameters by their state_dict names. Nothing is accumulated or changed. */
export async function lossAndGradients(core: Core, input: LossInput): Promise<LossResult & { gradients: StateDict }> {
  const network = requireNetwork(core, 'lossAndGradients')
  const { table } = network.weights
  const program = await core.networkProgram('gradients', lossKey(core, input), (g) => {
    const losses = buildLoss(core, g, input)
    backward(g, losses)
    return losses
  })
  const bindings = await lossBindings(core, input)
  const grads = core.device.allocate(table.count)
  try {
    const scale = core.lossScale?.scale ?? 1
    const run = program.run({ ...bindings, ...lossWeights(core, input, scale), grads })
    const [losses, scaled] = await Promise.all([run, grads.read()])
    const gradients = table.toStateDict(scale === 1 ? scaled : scaled.map((g) => g / scale))
    return { ...lossDictOf(core, samplesOf(losses), input), gradients }
  } finally {
    grads.release()
  }
}

/** The network, or `unsupported` for a model whose denoiser is a function. */
export function requireNetwork(core: Core, method: string): NetworkDenoiser {
  const { network } = core.denoiser
  if (network) return network
  throw new DiffusionError('unsupported', `${method} needs a network; a function has no parameters to train`, {
    argument: 'model',
    expected: 'a UNet',
    received: 'a function',
  })
}
