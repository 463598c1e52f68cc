/** The training loss (Ho et al. 2020, eq. 14; ddpm.py's get_loss and p_losses), its value and its gradients. */
import { DiffusionError } from '../errors'
import type { Graph, Value } from '../graph'
import type { StateDict } from '../nn/weights'
import type { Binding, Bindings } from '../program'
import { Purpose, words } from '../rng'
import { Tensor } from '../tensor'
import { type ClassLabels, conditionOf, dropLabels } from './condition'
import { type Core, checkTensor, type Extent, extentOf } from './core'
import type { NetworkDenoiser } from './denoiser'
import { drawNoise, negated, nextStream, noiseBindings, noiseInputs, qSample, type Stream, velocity } from './process'
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
  /** Class labels, where the network takes them. */
  readonly y?: Int32Array
  /** In place of drawn noise. */
  readonly noise?: Tensor
  /** Of drawn noise, and of dropout. */
  readonly stream: Stream
  /** With dropout, and 'train/' in the keys. */
  readonly train: boolean
}

/** ddpm.py's get_loss: the mean over everything, or each element's loss. */
export async function getLoss(core: Core, pred: Tensor, target: Tensor, mean: boolean): Promise<Tensor> {
  checkTensor(pred, 'pred')
  checkTensor(target, 'target', pred.shape)
  const { n, d } = extentOf(pred.shape, 'pred')
  const type = core.settings.lossType
  const program = core.program('getLoss', { n, d, mean, type }, (g) => {
    const values = [g.input('pred', [n, 1, 1, d]), g.input('target', [n, 1, 1, d])] as const
    return { loss: mean ? g.loss(...values, { type }) : g.elementLoss(...values, { type }) }
  })
  const [p, q] = await Promise.all([pred.binding(core.device), target.binding(core.device)])
  const { loss } = await program.run({ pred: p, target: q })
  return mean ? Tensor.wrap(Float32Array.of(average(loss)), []) : Tensor.wrap(loss, pred.shape)
}

function average(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum / values.length
}

/** The dictionary from one loss a sample, [n]. */
export function lossDictOf(core: Core, perSample: Float32Array, t: Int32Array, train: boolean): LossResult {
  const { lSimpleWeight, originalElboWeight } = core.settings
  const { lvlbWeights } = core.schedule
  const simple = average(perSample)
  const vlb = average(Float64Array.from(perSample, (loss, i) => lvlbWeights[t[i]] * loss))
  const loss = simple * lSimpleWeight + originalElboWeight * vlb
  const prefix = train ? 'train' : 'val'
  return {
    loss,
    lossDict: { [`${prefix}/loss_simple`]: simple, [`${prefix}/loss_vlb`]: vlb, [`${prefix}/loss`]: loss },
  }
}

/** What the loss of sample i counts for in the total, so that its gradient needs one weighted sum. */
export function lossWeights(core: Core, t: Int32Array): Float32Array {
  const { lSimpleWeight, originalElboWeight } = core.settings
  return Float32Array.from(t, (i) => (lSimpleWeight + originalElboWeight * core.schedule.lvlbWeights[i]) / t.length)
}

/** q_sample, network and loss: one value a sample, [n, 1, 1, 1]. */
export function buildLoss(core: Core, g: Graph, o: LossInput): Value {
  const { shape } = o.x
  const { n, d } = extentOf(shape, 'xStart')
  const T = core.numTimesteps
  const x = g.input('x', [n, 1, 1, d])
  const t = g.input('t', [n, 1, 1, 1], 'i32')
  const noise = o.noise ? g.input('noise', [n, 1, 1, d]) : drawnNoise(g, { n, d })
  const a = g.input('sqrtAlphasCumprod', [T, 1, 1, 1])
  const b = g.input('sqrtOneMinusAlphasCumprod', [T, 1, 1, 1])
  const pred = core.denoiser.build(g, g.timestepAffine(x, a, t, noise, b), t, shape, { train: o.train, guided: false })
  return g.loss(pred, target(core, g, { x, noise, t, a, b }), { type: core.settings.lossType })
}

/** What the network should predict. */
function target(core: Core, g: Graph, o: { x: Value; noise: Value; t: Value; a: Value; b: Value }): Value {
  const { parameterization } = core.settings
  if (parameterization !== 'v') return parameterization === 'eps' ? o.noise : o.x
  const minusB = g.input('-sqrtOneMinusAlphasCumprod', o.b.dims)
  return g.timestepAffine(o.noise, o.a, o.t, o.x, minusB)
}

function drawnNoise(g: Graph, { n, d }: Extent): Value {
  const { rng, sample, step } = noiseInputs(g, n)
  return g.gaussianNoise(rng, sample, step, { d, purpose: Purpose.training })
}

/** Gradients of the total loss; the weights of the samples are the input lossWeights. */
export function backward(g: Graph, loss: Value): void {
  g.backward(g.weightedSum(loss, g.input('lossWeights', loss.dims)))
}

/** The inputs of buildLoss, for a network. */
export async function lossBindings(core: Core, network: NetworkDenoiser, o: LossInput): Promise<Bindings> {
  const bindings: Record<string, Binding> = {
    x: await o.x.binding(core.device),
    t: o.t,
    sqrtAlphasCumprod: core.buffer('sqrtAlphasCumprod'),
    sqrtOneMinusAlphasCumprod: core.buffer('sqrtOneMinusAlphasCumprod'),
    weights: network.activeWeights,
  }
  if (core.settings.parameterization === 'v') {
    bindings['-sqrtOneMinusAlphasCumprod'] = negated(core, 'sqrtOneMinusAlphasCumprod')
  }
  if (o.y) bindings.labels = o.y
  if (o.noise) bindings.noise = await o.noise.binding(core.device)
  else Object.assign(bindings, noiseBindings(o.t.length, o.stream))
  if (o.train) bindings.dropoutRng = dropoutRng(o.stream)
  return bindings
}

/** A key of its own for the dropout of each step and each part of a batch. */
function dropoutRng({ seed, step, sampleOffset }: Stream): Int32Array {
  const [low, high] = words(seed, Purpose.dropout, sampleOffset, step, 2)
  return Int32Array.of(low, high, step, 0)
}

/** Names everything that the graph of a loss depends on. */
export function lossKey(core: Core, o: LossInput) {
  const { parameterization, lossType } = core.settings
  return { shape: o.x.shape.join('x'), drawn: !o.noise, train: o.train, parameterization, lossType }
}

/**
 * Checks the arguments of a loss. Without a stream, what is drawn comes from the next of the model's own seeds. In training some
 * labels are dropped.
 */
export async function lossInput(
  core: Core,
  o: { xStart: Tensor; t: Timesteps; y?: ClassLabels; noise?: Tensor; stream?: Stream; train: boolean },
): Promise<LossInput> {
  checkTensor(o.xStart, 'xStart')
  core.denoiser.check(o.xStart.shape, 'xStart')
  if (o.noise) checkTensor(o.noise, 'noise', o.xStart.shape)
  const t = await parseTimesteps(o.t, o.xStart.shape[0], core.numTimesteps)
  const { y } = await conditionOf(core, t.length, { labels: o.y, argument: 'y' })
  const stream = o.stream ?? nextStream(core)
  return { x: o.xStart, t, y: y && o.train ? dropLabels(core, y, stream) : y, noise: o.noise, stream, train: o.train }
}

/** ddpm.py's p_losses, the value alone. */
export async function pLosses(core: Core, input: LossInput): Promise<LossResult> {
  const { network } = core.denoiser
  let perSample: Float32Array
  if (network) {
    const program = core.program('loss', lossKey(core, input), (g) => ({ loss: buildLoss(core, g, input) }))
    perSample = (await program.run(await lossBindings(core, network, input))).loss
  } else {
    perSample = await functionLoss(core, input)
  }
  return lossDictOf(core, perSample, input.t, input.train)
}

/** The same with a function as denoiser: x_t first, then the function, then the loss. */
async function functionLoss(core: Core, { x, t, noise, stream }: LossInput): Promise<Float32Array> {
  const { n, d } = extentOf(x.shape, 'xStart')
  const z = noise ?? (await drawNoise(core, x.shape, stream))
  const xNoisy = await qSample(core, x, t, z)
  const state = core.device.upload(await xNoisy.data())
  try {
    const { out } = await core.denoiser.bindings(state, t, x.shape, {})
    const type = core.settings.lossType
    const program = core.program('lossOf', { n, d, type }, (g) => ({
      loss: g.loss(g.input('pred', [n, 1, 1, d]), g.input('target', [n, 1, 1, d]), { type }),
    }))
    const { parameterization } = core.settings
    const target = parameterization === 'v' ? await velocity(core, x, t, z) : parameterization === 'eps' ? z : x
    return (await program.run({ pred: out, target: await target.binding(core.device) })).loss
  } finally {
    state.release()
  }
}

/** Loss and the gradients of all parameters by their state_dict names. Nothing is accumulated or changed. */
export async function lossAndGradients(core: Core, input: LossInput): Promise<LossResult & { gradients: StateDict }> {
  const network = requireNetwork(core, 'lossAndGradients')
  const table = network.module.parameters
  const program = core.program('gradients', lossKey(core, input), (g) => {
    const loss = buildLoss(core, g, input)
    backward(g, loss)
    return { loss }
  })
  const bindings = await lossBindings(core, network, input)
  const grads = core.device.allocate(table.count)
  try {
    const run = program.run({ ...bindings, lossWeights: lossWeights(core, input.t), grads })
    const [{ loss }, flat] = await Promise.all([run, grads.read()])
    return { ...lossDictOf(core, loss, input.t, input.train), gradients: table.toStateDict(flat) }
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
